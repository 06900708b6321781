-- PLAIN: RESERVE for what nearly every call asks: calendar windows that are consumed, and kept when nobody settles them.
--
-- The same answers and the same keys as reserve.lua, which can do all of this too; it takes half the time, because nothing is
-- built that such lines do not need. It has no prelude: what it repeats of common.lua it repeats for that.
-- KEYS as in common.lua; no pending sets. ARGV[1..7]: hold_ms grace_ms rid fp owner epoch node, then one a line: six numbers as
-- little-endian binary64, amount max p1 p2 p3 strict (1 or 0).
-- reply: as RESERVE
local HEAD = 7
local LIM = 4503599627370496
local match, fmt, call, parts = string.match, string.format, redis.call, struct.unpack
local T = call('TIME')                           --@clock: tests put a clock of their own in this line
local now = math.floor((tonumber(T[1]) * 1000000 + tonumber(T[2])) / 1000)
local n = #KEYS - 2
local hold, grace = tonumber(ARGV[1]), tonumber(ARGV[2])
if n < 1 or #ARGV < HEAD + n or not (hold >= 0 and hold <= LIM and grace >= 0 and grace <= LIM) then error('BADARG') end
if ARGV[7] ~= '' and call('CLUSTER', 'MYID') ~= ARGV[7] then return {-7, now, 0} end
local V = call('MGET', unpack(KEYS))
local id, fence, lost = match(V[2] or '', '^(%S+) (%d+) (%d+)$')
if id ~= ARGV[6] then return {-5, now, 0} end
fence, lost = tonumber(fence), tonumber(lost)
local fp, owner = ARGV[4], ARGV[5]
if V[1] then
  local st, ofp, own = match(V[1], '^(%a) (%S+) (%S+)')
  if st == 'x' then return {-2, now, 0} end
  if ofp ~= fp then return {-4, now, 0} end
  if st == 'c' then return {-3, now, 0} end
  -- Two attempts now rely on one hold. If one of them rolled back, the other's call would be free.
  if st == 'h' and own ~= owner then call('SET', KEYS[1], 'p' .. string.sub(V[1], 2), 'KEEPTTL') end
  return {2, now, 0}
end
local out, record = {1, now, 0}, 'h ' .. fp .. ' ' .. owner .. fmt(' %d', now)
local amounts, texts, code, bad = {}, {}, 1, 0
-- Lines of one call mostly share their window: its numbers become text once.
local last, start, stop, astray = -1, '', '', nil
for i = 1, n do
  local amt, max, p1, p2, p3, strict = parts('<dddddd', ARGV[HEAD + i])
  if not (amt >= 0 and amt <= LIM and amt % 1 == 0 and max >= 0 and max <= LIM and p1 < p2 and p2 < p3 and p3 <= LIM) then error('BADARG') end
  if strict > 0 and fence > now then return {-6, now, i, fence - now} end
  if now < p1 or now >= p3 then return {-1, now, i} end
  local w, e, used = p1, p2, 0
  if now >= p2 then w, e = p2, p3 end
  local v = V[i + 2]
  if v then
    local cw, u = match(v, '^(%d+) (%d+)$')
    if not cw then error('BADDATA') end            -- not ours: nobody can say what is used
    cw = tonumber(cw)
    if cw == w then used = tonumber(u)
    elseif cw > w then
      used = tonumber(u)
      if cw - w <= p3 - p1 then                    -- our clock stepped back (a failover): never open an old window again
        if cw == p2 then e = p3 else e = cw + (p2 - p1) end
        w = cw
      else                                         -- a clock was wrong once: take our window, keep what is used
        astray = astray or {}
        astray[#astray + 1] = i
      end
    end
  end
  -- What was counted before the loss is unknown until the window is over.
  if lost > 0 and strict > 0 and w <= lost and e > now then return {-8, now, i, e - now} end
  if amt > max then
    if bad == 0 then bad = i end
    code = 3
  elseif used + amt > max and bad == 0 then
    bad = i; code = 0
  end
  local left, b = max - used, 3 * i
  out[b + 1] = used; out[b + 2] = left > 0 and left or 0; out[b + 3] = e - now
  if w ~= last then last = w; start = fmt('%d', w) end
  record = record .. fmt(' %d ', amt) .. start
  amounts[i], texts[i] = amt, start
end
if bad > 0 then
  -- From now on it goes by our time. A refusal would leave it there, and with it everybody locked out.
  for _, i in ipairs(astray or {}) do
    call('SET', KEYS[i + 2], fmt('%s %d', texts[i], out[3 * i + 1]), 'PXAT', fmt('%d', now + out[3 * i + 3] + grace))
  end
  out[1], out[3] = code, bad
  return out
end
-- The record is the first write: out of memory, read-only or failing persistence abort here, with no counter touched.
call('SET', KEYS[1], record, 'PXAT', fmt('%d', now + hold + grace))
last = -1
for i = 1, n do
  local b, amt = 3 * i, amounts[i]
  local used, e = out[b + 1] + amt, out[b + 3]
  if e ~= last then last = e; stop = fmt('%d', now + e + grace) end
  call('SET', KEYS[i + 2], fmt('%s %d', texts[i], used < LIM and used or LIM), 'PXAT', stop)
  out[b + 1] = used
  local left = out[b + 2] - amt
  out[b + 2] = left > 0 and left or 0
end
return out
