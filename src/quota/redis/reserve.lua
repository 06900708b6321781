-- RESERVE: every line of one call or none. PEEK (`p`): the same reading, nothing written.
-- head: op ('r' | 'p') hold_ms grace_ms rid fp owner epoch node
--  owner: names this attempt; a second Check for the same stream has another
--  node: in a cluster the id of the node that we believe to be master, else ''
-- reply: {code, now_ms, first_failed, (used, left, reset_ms) * n}
--  1 held   0 limited   2 this id is held already: no second charge   3 an amount can never fit
--  -1 the caller's windows do not hold our time   -2 rolled back before it arrived   -3 settled already
--  -4 the id was used for something else   -5 the epoch is not the expected one: data was lost
--  -6 fenced after a failover {.., line, wait_ms}   -7 another node than expected
--  -8 the counts of this line's window were lost {.., line, wait_ms}; wait -1: until an operator accepts the loss
local op, hold, grace, rid, fp, owner = ARGV[1], N(ARGV[2]), N(ARGV[3]), ARGV[4], ARGV[5], ARGV[6]
if op ~= 'r' and op ~= 'p' then error('BADARG') end
if ARGV[8] ~= '' and redis.call('CLUSTER', 'MYID') ~= ARGV[8] then return {-7, now, 0} end
local c = lines()
local V = redis.call('MGET', unpack(KEYS))       -- what is no string reads as nil and is fetched below
local id, fence, lost = epoch(V[2])
if id ~= ARGV[7] then return {-5, now, 0} end
fence, lost = tonumber(fence), tonumber(lost)
if op == 'r' and V[1] then
  local st, ofp, own = string.match(V[1], '^(%a) (%S+) (%S+)')
  if st == 'x' then return {-2, now, 0} end
  if ofp ~= fp then return {-4, now, 0} end
  if st == 'c' then return {-3, now, 0} end
  -- Two attempts now rely on one hold. If one of them rolled back, the other's call would be free.
  if st == 'h' and own ~= owner then redis.call('SET', KEYS[1], 'p' .. string.sub(V[1], 2), 'KEEPTTL') end
  return {2, now, 0}
end
local out, at, code, bad, none = {}, 0, 1, 0, {}
local function fail(i, k) if bad == 0 then bad = i; code = k elseif k == 3 then code = 3 end end
for i = 1, n do
  local o, k = c[i], c[i].k
  local used, reset, w, v, since = 0, 0, 0, V[i + 2], 0
  if o.strict and fence > now then return {-6, now, i, fence - now} end
  local rows = o.pend and redis.call('ZRANGEBYSCORE', o.pend, '-inf', S(now), 'LIMIT', 0, 64) or none
  o.rows = rows
  if k == 'c' then
    local ww, e, u, astray = cal(o, v)
    if not ww then return {-1, now, i} end
    if astray then o.repair = u end
    for j = 1, #rows do
      local amt, rw = match(rows[j], '^%S+ (%d+) (%d+)')
      if tonumber(rw) == ww then u = math.max(0, u - tonumber(amt)) end
    end
    w, used, reset, o.e, since = ww, u, e - now, e, e
    if ww > lost then since = 0 end
  elseif k == 'r' then
    local cur = math.floor(now / o.p1)
    local h, oldest = redis.call('HGETALL', o.key), nil
    o.dead, o.back = {}, {}
    local due = {}
    for _, row in ipairs(rows) do
      local amt, rw = string.match(row, '^%S+ (%d+) (%d+)')
      due[tonumber(rw)] = (due[tonumber(rw)] or 0) + tonumber(amt)
    end
    for j = 1, #h, 2 do
      local ix, x = tonumber(h[j]), tonumber(h[j + 1])
      if ix < cur - o.p2 then o.dead[#o.dead + 1] = h[j]
      elseif ix > cur + o.p2 then                -- absurdly far ahead: counts as of now, or one wrong clock would close it for good
        o.dead[#o.dead + 1] = h[j]
        o.repair = math.min((o.repair or 0) + x, LIM)
        used = math.min(used + x, LIM)
        if x > 0 and (not oldest or cur < oldest) then oldest = cur end
      else
        if ix == cur then o.raw = x end
        if due[ix] then x = math.max(0, x - due[ix]); o.back[#o.back + 1] = h[j]; o.back[#o.back + 1] = S(x) end
        if ix == cur then o.run = x end
        used = math.min(used + x, LIM)           -- the oldest bucket, partly out, counts whole: early, never late
        if x > 0 and (not oldest or ix < oldest) then oldest = ix end
      end
    end
    w = cur
    reset = oldest and math.max(0, (oldest + o.p2 + 1) * o.p1 - now) or 0
    since = lost + o.p1 * (o.p2 + 1)
  elseif k == 'g' then
    local iv, burst = o.p1, o.p2
    local tat = math.max(tonumber(v or '0'), us)
    if tat - us > 2 * burst + 1000000 then tat = us + burst; o.repair = tat end   -- the clock stepped back: lock out for one burst at most
    for _, row in ipairs(rows) do
      local amt, t0 = string.match(row, '^%S+ (%d+) %d+ (%d+)')
      local cr = unearned(tonumber(amt), iv, tonumber(t0))
      if cr > 0 then tat = math.max(us, tat - cr) end
    end
    local need = tat - us + o.amt * iv
    o.tat = us + math.min(need, LIM)
    used = math.ceil((tat - us) / iv)
    reset = math.max(0, math.ceil((math.min(need, 2 * LIM) - burst) / 1000))
    if o.m == 'g' then
      if tat - us >= burst then fail(i, 0) end
    elseif o.m ~= 't' then
      if o.amt * iv > burst then fail(i, 3) elseif need > burst then fail(i, 0) end
    end
    out[at + 1] = used; out[at + 2] = math.max(0, math.floor((burst - (tat - us)) / iv)); out[at + 3] = reset
    since = lost + math.ceil(burst / 1000)
  elseif k == 'f' then
    used = redis.call('ZCOUNT', o.key, '(' .. S(now), '+inf')
    o.amt = 1
    if used + 1 > o.max then
      local z = redis.call('ZRANGEBYSCORE', o.key, '(' .. S(now), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
      reset = z[2] and (tonumber(z[2]) - now) or 0
    end
    since = lost + o.p1
  elseif k == 's' then
    local f, x = string.match(v or '', '^(%S+) (%d+)$')
    used = (f == o.p1) and tonumber(x) or 0
    reset = o.p2
    since = lost + o.p2
  elseif k == 'l' then
    used = tonumber(v or '0')
    for _, row in ipairs(rows) do used = math.max(0, used - tonumber(string.match(row, '^%S+ (%d+)'))) end
    reset = -1
    since = -1
  end
  -- What was counted before the loss is unknown until nothing of it could matter any more.
  if lost > 0 and o.strict and (since < 0 or since > now) then
    return {-8, now, i, since < 0 and -1 or since - now}
  end
  o.w, o.used = w, used
  if k ~= 'g' then
    if o.m == 'g' then if used >= o.max then fail(i, 0) end
    elseif o.m ~= 't' then
      if o.amt > o.max then fail(i, 3) elseif used + o.amt > o.max then fail(i, 0) end
    end
    local left = o.max - used
    out[at + 1] = used; out[at + 2] = left > 0 and left or 0; out[at + 3] = reset
  end
  at = at + 3
end
if op == 'p' then return {code, now, bad, unpack(out)} end
-- The record is the first write: out of memory, read-only or failing persistence abort here, with no counter touched.
if bad == 0 then
  local r = {'h', fp, owner, S(now)}
  for i = 1, n do local o = c[i]; r[4 + i] = fmt('%.0f %.0f', (o.m == 'g') and 0 or o.amt, o.w) end
  redis.call('SET', KEYS[1], table.concat(r, ' '), 'PXAT', S(now + hold + grace))
end
for i = 1, n do
  local o = c[i]
  if o.m ~= 'g' and (bad == 0 or o.m == 'a') then
    local k, key, ends = o.k, o.key, nil
    if k == 'c' then
      ends = o.e + grace
      redis.call('SET', key, fmt('%.0f %.0f', o.w, math.min(o.used + o.amt, LIM)), 'PXAT', S(ends))
    elseif k == 'r' then
      ends = now + o.p1 * (o.p2 + 1) + grace
      if #o.back > 0 then redis.call('HSET', key, unpack(o.back)) end
      if #o.dead > 0 then redis.call('HDEL', key, unpack(o.dead)) end
      redis.call('HSET', key, S(o.w), S(math.min((o.run or 0) + (o.repair or 0) + o.amt, LIM))); redis.call('PEXPIREAT', key, S(ends))
    elseif k == 'g' then
      ends = now + math.ceil((o.tat - us) / 1000) + grace
      redis.call('SET', key, S(o.tat), 'PXAT', S(ends))
    elseif k == 'f' then
      redis.call('ZREMRANGEBYSCORE', key, '-inf', S(now))
      redis.call('ZADD', key, S(now + o.p1), rid)
      later(key, now + o.p1 + grace)             -- another slot may have been taken for longer, before an edit of the limit
    elseif k == 's' then
      redis.call('SET', key, o.p1 .. ' ' .. S(math.min(o.used + o.amt, LIM)), 'PXAT', S(now + math.max(1, o.p2)))
    elseif k == 'l' then
      local u = S(math.min(o.used + o.amt, LIM))
      if o.p1 > 0 then ends = now + o.p1; redis.call('SET', key, u, 'PXAT', S(ends)) else redis.call('SET', key, u) end
    end
    if o.pend then
      if #o.rows > 0 then redis.call('ZREM', o.pend, unpack(o.rows)) end
      if bad == 0 and o.m == 'c' then
        redis.call('ZADD', o.pend, S(now + hold), rid .. ' ' .. S(o.amt) .. ' ' .. S(o.w) .. ' ' .. S(now))
      end
      -- A row that is gone while its record lasts would read as given back.
      if ends then later(o.pend, math.max(ends, now + hold + grace)) end
    end
    if bad == 0 then
      local b = (i - 1) * 3
      out[b + 1] = out[b + 1] + o.amt; out[b + 2] = math.max(0, out[b + 2] - o.amt)
    end
  elseif o.repair then
    -- From now on it goes by our time. A refusal would leave it there, and with it everybody locked out.
    local k, key = o.k, o.key
    if k == 'c' then redis.call('SET', key, S(o.w) .. ' ' .. S(o.repair), 'PXAT', S(o.e + grace))
    elseif k == 'r' then
      redis.call('HDEL', key, unpack(o.dead))
      redis.call('HSET', key, S(o.w), S(math.min((o.raw or 0) + o.repair, LIM))); redis.call('PEXPIREAT', key, S(now + o.p1 * (o.p2 + 1) + grace))
    elseif k == 'g' then
      redis.call('SET', key, S(o.repair), 'PXAT', S(now + math.ceil((o.repair - us) / 1000) + grace))
    end
  end
end
return {code, now, bad, unpack(out)}
