-- FINISH: roll back or settle one reservation. Idempotent; never below zero; never credits a window that was not charged.
-- head: verb ('x' roll back | 'c' settle) keep_ms grace_ms rid fp owner epoch node
--  owner: the attempt that speaks, which may roll back only what no other attempt relies on; '*' speaks for the whole stream, with
--  proof that the upstream never got it
-- reply: {code, now_ms, credited lines}
--  1 done   0 finished before, the same way   -1 finished before, the other way   3 another attempt relies on it: no effect
--  2 no record: 'x' left a tombstone, so that a late RESERVE is refused; 'c' charged what exceeds the reserved amounts
--  -4 the id belongs to something else   -5 the epoch is not the expected one   -7 another node than expected
local verb, keep, grace, rid, fp, owner = ARGV[1], N(ARGV[2]), N(ARGV[3]), ARGV[4], ARGV[5], ARGV[6]
if verb ~= 'x' and verb ~= 'c' then error('BADARG') end
if ARGV[8] ~= '' and redis.call('CLUSTER', 'MYID') ~= ARGV[8] then return {-7, now, 0} end
local c = lines()
if epoch(redis.call('GET', KEYS[2])) ~= ARGV[7] then return {-5, now, 0} end
local old = redis.call('GET', KEYS[1])
local rec = nil
if old then
  local f = {}
  for x in string.gmatch(old, '%S+') do f[#f + 1] = x end
  if f[2] ~= fp then return {-4, now, 0} end
  if f[1] ~= 'h' and f[1] ~= 'p' then return {(f[1] == verb) and 0 or -1, now, 0} end
  if #f ~= 4 + 2 * n then return {-4, now, 0} end
  if verb == 'x' and owner ~= '*' and (f[1] == 'p' or f[3] ~= owner) then return {3, now, 0} end
  rec = f
end
redis.call('SET', KEYS[1], verb .. ' ' .. fp .. ' ' .. owner, 'PXAT', S(now + keep))   -- the tombstone first
local credited = 0
for i = 1, n do
  local o = c[i]
  local k, key = o.k, o.key
  local amt = rec and N(rec[3 + 2 * i]) or o.amt
  local w = rec and N(rec[4 + 2 * i]) or -1
  local act = (verb == 'x') and 0 or o.max
  if verb == 'x' and o.m == 'a' then act = amt end          -- attempts stay counted
  local released = o.pend and o.m == 'c' and
    (not rec or redis.call('ZREM', o.pend, rid .. ' ' .. S(amt) .. ' ' .. S(w) .. ' ' .. rec[4]) == 0)
  if released then amt = 0 end                              -- given back when the hold ran out: all of it is owed again
  local d = act - amt                                       -- below zero a credit, above a surplus
  if not rec and d < 0 then d = 0 end                       -- without a record nothing is known to have been charged
  if o.m == 'g' then d = 0 end
  if k == 'f' then redis.call('ZREM', key, rid)
  elseif d ~= 0 then
    if k == 'c' then
      local v = redis.call('GET', key)
      if d < 0 then
        local cw, u = string.match(v or '', '^(%d+) (%d+)$')
        if cw and tonumber(cw) == w then                    -- only the very window that was charged
          redis.call('SET', key, cw .. ' ' .. S(math.max(0, tonumber(u) + d)), 'KEEPTTL'); credited = credited + 1
        end
      else                                                  -- a surplus is never lost: it goes to the window now in force
        local cw, e, u = cal(o, v)
        if cw then redis.call('SET', key, S(cw) .. ' ' .. S(math.min(u + d, LIM)), 'PXAT', S(e + grace))
        elseif v then
          local sw, su = string.match(v, '^(%d+) (%d+)$')
          redis.call('SET', key, sw .. ' ' .. S(math.min(tonumber(su) + d, LIM)), 'KEEPTTL')
        end
      end
    elseif k == 'r' then
      if d < 0 then
        local v = tonumber(redis.call('HGET', key, S(w)) or '-1')
        if v >= 0 then redis.call('HSET', key, S(w), S(math.max(0, v + d))); credited = credited + 1 end
      else
        local cur = S(math.floor(now / o.p1))
        redis.call('HSET', key, cur, S(math.min(tonumber(redis.call('HGET', key, cur) or '0') + d, LIM)))
        redis.call('PEXPIREAT', key, S(now + o.p1 * (o.p2 + 1) + grace))
      end
    elseif k == 'g' then
      local iv, tat = o.p1, tonumber(redis.call('GET', key) or '0')
      if d < 0 then
        local cr = unearned(-d, iv, tonumber(rec[4]))
        if cr > 0 and tat > us then
          tat = math.max(us, tat - cr)
          redis.call('SET', key, S(tat), 'PXAT', S(now + math.ceil((tat - us) / 1000) + grace)); credited = credited + 1
        end
      else
        tat = us + math.min(math.max(tat, us) - us + d * iv, LIM)
        redis.call('SET', key, S(tat), 'PXAT', S(now + math.ceil((tat - us) / 1000) + grace))
      end
    elseif k == 's' then
      local f, x = string.match(redis.call('GET', key) or '', '^(%S+) (%d+)$')
      if d < 0 and f == o.p1 then
        redis.call('SET', key, f .. ' ' .. S(math.max(0, tonumber(x) + d)), 'KEEPTTL'); credited = credited + 1
      end
    elseif k == 'l' then
      local v = tonumber(redis.call('GET', key) or '-1')
      if v >= 0 then redis.call('SET', key, S(math.min(math.max(0, v + d), LIM)), 'KEEPTTL'); credited = credited + 1
      elseif d > 0 then
        if o.p1 > 0 then redis.call('SET', key, S(d), 'PXAT', S(now + o.p1)) else redis.call('SET', key, S(d)) end
        credited = credited + 1
      end
    end
  end
end
return {rec and 1 or 2, now, credited}
