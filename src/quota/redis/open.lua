-- OPEN: what every replica does before it uses a connection to a master that it has not used before. Atomic, so that of two
-- replicas that find the store empty one makes the epoch and the other takes it over.
-- KEYS: epoch, secret, the id of the epoch whose loss an operator accepted, heartbeat
-- ARGV: a random word, the epoch that we knew or '', our secret, fence_ms or 0, the heartbeat that we saw, oldest_ms or 0,
--  fence_ms for a store that is not as we knew it, evicted_ms or 0
--  our secret: what the names of our counters come from, or a word of it; '' takes what is there
--  oldest_ms: the longest that the store may have fallen behind the heartbeat; what is older nobody could count again
--  evicted_ms: the newest hold that we no longer remember; a store whose heartbeat is older may have missed it
-- reply: {status, now_ms, epoch, secret}   1 as we knew it   0 taken over   2 made   3 counts were lost
local T = redis.call('TIME')                     --@clock: tests put a clock of their own in this line
local now = tonumber(T[1]) * 1000 + math.floor(tonumber(T[2]) / 1000)
local function S(x) return string.format('%.0f', x) end
local word, known, ours = ARGV[1], ARGV[2], ARGV[3]
local forth, seen, oldest, new = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local evicted = tonumber(ARGV[8])
if not forth or not seen or not oldest or not new or not evicted or word == '' then error('BADARG') end
local v = redis.call('GET', KEYS[1])
local id, fence, lost, status = string.match(v or '', '^(%S+) (%d+) (%d+)$')
if id then
  status = (known == '') and 0 or 1
else
  -- Whoever knew the data before must have the time to say so.
  id, fence, lost, status = S(now) .. '-' .. word, 0, 0, 2
end
fence, lost = tonumber(fence), tonumber(lost)
local secret = redis.call('GET', KEYS[2])
if not secret then
  if ours == '' then error('BADARG') end
  secret = ours
  redis.call('SET', KEYS[2], secret)
end
local born = tonumber(string.match(id, '^(%d+)%-')) or now
if known ~= '' then
  if id ~= known or secret ~= ours then
    status = 3
    -- What was counted before this epoch began is gone; nothing since.
    if lost < born and redis.call('GET', KEYS[3]) ~= id then lost = born end
  else
    local beat = tonumber(redis.call('GET', KEYS[4]) or '0')
    if (oldest > 0 and seen - beat > oldest) or (evicted > 0 and beat <= evicted) then
      status = 3
      lost = math.max(lost, now)
    end
  end
end
if status >= 2 then forth = math.max(forth, new) end
if forth > 0 then fence = math.max(fence, now + forth) end
local line = id .. ' ' .. S(fence) .. ' ' .. S(lost)
if line ~= v then redis.call('SET', KEYS[1], line) end
return {status, now, line, secret}
