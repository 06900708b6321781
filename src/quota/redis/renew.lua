-- RENEW: heartbeat of the slots that a long stream holds. Only extends what is still held; never takes a slot again.
-- head: keep_ms - grace_ms rid - - epoch node; lines: those of kind f
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
      redis.call('PEXPIREAT', o.key, S(now + o.p1 + grace))
      renewed = renewed + 1
    end
  end
end
if renewed > 0 then redis.call('PEXPIREAT', KEYS[1], S(now + keep)) end
return {renewed > 0 and 1 or 0, now, renewed}
