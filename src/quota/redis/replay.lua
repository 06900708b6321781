-- REPLAY: after a failover, assert once more a reservation that this replica remembers as admitted. Never denies.
-- Idempotent through the record: where the new master has it, nothing is added.
-- head: state ('h' | 'c') keep_ms grace_ms rid fp owner epoch t0_ms
-- lines as in RESERVE, but in the place of max the window start or bucket that was charged, and in the place of flags the time in
-- ms after which the charge no longer matters, 0 for never
-- reply: {1 added | 0 known, now_ms, lines added}   -5 as in FINISH
local state, keep, grace, rid, fp, owner, t0 = ARGV[1], N(ARGV[2]), N(ARGV[3]), ARGV[4], ARGV[5], ARGV[6], N(ARGV[8])
local c = lines()
if epoch(redis.call('GET', KEYS[2])) ~= ARGV[7] then return {-5, now, 0} end
if redis.call('EXISTS', KEYS[1]) == 1 then return {0, now, 0} end
local ends, r = {}, {'h', fp, owner, S(t0)}
for i = 1, n do
  ends[i] = N(ARGV[HEAD + i * LINE])
  r[#r + 1] = (c[i].m == 'g') and '0' or S(c[i].amt); r[#r + 1] = S(c[i].max)
end
redis.call('SET', KEYS[1], state == 'h' and table.concat(r, ' ') or (state .. ' ' .. fp .. ' ' .. owner), 'PXAT', S(now + keep))
local added = 0
for i = 1, n do
  local o, w, e = c[i], c[i].max, ends[i]
  local k, key, amt = o.k, o.key, o.amt
  if o.m ~= 'g' and (e == 0 or e > now) then
    added = added + 1
    if k == 'c' then
      local cw, u = string.match(redis.call('GET', key) or '', '^(%d+) (%d+)$')
      cw = tonumber(cw or '-1')
      -- A later window in force means that nobody asks for this one any more.
      if cw <= w then
        redis.call('SET', key, S(w) .. ' ' .. S(math.min(((cw == w) and tonumber(u) or 0) + amt, LIM)), 'PXAT', S(e + grace))
      end
    elseif k == 'r' then redis.call('HINCRBY', key, S(w), S(amt)); later(key, e + grace)
    elseif k == 'g' then
      local owed = unearned(amt, o.p1, t0)
      if owed > 0 then
        local tat = math.max(tonumber(redis.call('GET', key) or '0'), us) + owed
        redis.call('SET', key, S(tat), 'PXAT', S(now + math.ceil((tat - us) / 1000) + grace))
      end
    elseif k == 'f' and state == 'h' then
      redis.call('ZADD', key, S(e), rid); later(key, e + grace)
    elseif k == 'l' then
      local u = S(math.min(tonumber(redis.call('GET', key) or '0') + amt, LIM))
      if o.p1 > 0 then redis.call('SET', key, u, 'PXAT', S(now + o.p1)) else redis.call('SET', key, u) end
    end
  end
end
return {1, now, added}
