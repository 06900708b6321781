-- RENEW: heartbeat of the slots that a long stream holds, and with them of the hold. Only extends what is still held; never takes a
-- slot again.
-- head: keep_ms - grace_ms rid - - epoch node; lines as in RESERVE
-- reply: {1 renewed | 0 lost, now_ms, renewed lines}   -5, -7 as in FINISH
local keep, grace, rid = N(ARGV[1]), N(ARGV[3]), ARGV[4]
if ARGV[8] ~= '' and redis.call('CLUSTER', 'MYID') ~= ARGV[8] then return {-7, now, 0} end
local c = lines()
if epoch(redis.call('GET', KEYS[2])) ~= ARGV[7] then return {-5, now, 0} end
local renewed = 0
for i = 1, n do
  local o = c[i]
  if o.k == 'f' then
    local s = redis.call('ZSCORE', o.key, rid)
    if s and tonumber(s) > now then
      redis.call('ZADD', o.key, 'XX', S(now + o.p1), rid)
      later(o.key, now + o.p1 + grace)
      renewed = renewed + 1
    end
  end
end
if renewed > 0 then
  redis.call('PEXPIREAT', KEYS[1], S(now + keep))
  local rec = {}
  for x in string.gmatch(redis.call('GET', KEYS[1]) or '', '%S+') do rec[#rec + 1] = x end
  for i = 1, n do                                            -- what comes back when the hold runs out waits as long as the hold
    local o = c[i]
    local row = o.pend and rec[4 + 2 * i] and (rid .. ' ' .. rec[3 + 2 * i] .. ' ' .. rec[4 + 2 * i] .. ' ' .. rec[4])
    if row and redis.call('ZSCORE', o.pend, row) then
      redis.call('ZADD', o.pend, 'XX', S(now + keep), row)
      later(o.pend, now + keep)
    end
  end
end
return {renewed > 0 and 1 or 0, now, renewed}
