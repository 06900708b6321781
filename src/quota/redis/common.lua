-- Prelude of every script, and part of its text, so of its SHA: a replica with another version never runs this one by mistake.
--
-- KEYS[1] the reservation's record, KEYS[2] the epoch, KEYS[3..n+2] one counter a line, then one pending set for each line that
-- has the flag `r`. All of one hash slot.
-- ARGV[1..8] head, then 8 a line: kind mode amount max p1 p2 p3 flags. FINISH has the actual amount in the place of max.
--   kind  c calendar  p1 p2 p3 = start of this window, of the next, and of the one after (Unix ms)
--         r rolling   p1 = bucket_ms, p2 = buckets
--         g token bucket  p1 = interval_us of one unit, p2 = burst_us = capacity * interval
--         f in flight p1 = lease_ms
--         s streak    p1 = fingerprint, p2 = idle_ms
--         l lifetime  p1 = idle_ms, 0 = keep
--   mode  c consume   g gate: deny when used >= max, add nothing   t track: add, never deny   a attempt: add even when denied
--   flags s strict: deny while fenced and for windows whose counts were lost   r release when the hold runs out unsettled
local HEAD, LINE = 8, 8
local LIM = 4503599627370496                     -- 2^52: the sum of two amounts is exact in a double
local fmt, find, match = string.format, string.find, string.match
local function S(x) return fmt('%.0f', x) end    -- tostring() prints 14 digits and would corrupt times in microseconds
local function N(s)                              -- an integer of 0..2^52, or abort: nothing has been written yet
  local x = tonumber(s)
  if not x or x < 0 or x > LIM or x % 1 ~= 0 then error('BADARG') end
  return x
end
local T = redis.call('TIME')                     --@clock: tests put a clock of their own in this line
local us = tonumber(T[1]) * 1000000 + tonumber(T[2])
local now = math.floor(us / 1000)
local n = math.floor((#ARGV - HEAD) / LINE)
if n < 1 or #KEYS < n + 2 then error('BADARG') end

-- Every line is read before the first write, so that a bad argument can never leave a script half applied.
local function lines()
  local out, pending = {}, n + 2
  for i = 1, n do
    local b = HEAD + (i - 1) * LINE
    local k, m, flags = ARGV[b + 1], ARGV[b + 2], ARGV[b + 8]
    -- Every field is named here, so that the table is made once and large enough.
    local o = {k = k, m = m, amt = N(ARGV[b + 3]), max = N(ARGV[b + 4]), p1 = ARGV[b + 5], p2 = nil, p3 = nil,
      strict = flags ~= '' and find(flags, 's', 1, true), key = KEYS[i + 2], pend = nil, rows = nil, w = 0, used = 0, e = 0}
    if k == 'c' then
      o.p1, o.p2, o.p3 = N(o.p1), N(ARGV[b + 6]), N(ARGV[b + 7])
      if not (o.p1 < o.p2 and o.p2 < o.p3) then error('BADARG') end
    elseif k == 'r' then
      o.p1, o.p2 = N(o.p1), N(ARGV[b + 6])
      if o.p1 < 1 or o.p2 < 1 or o.p2 > 366 then error('BADARG') end
    elseif k == 'g' then
      o.p1, o.p2 = N(o.p1), N(ARGV[b + 6])
      if o.p1 < 1 then error('BADARG') end
    elseif k == 'f' then
      o.p1 = N(o.p1)
      if o.p1 < 1 then error('BADARG') end
    elseif k == 's' then o.p2 = N(ARGV[b + 6])
    elseif k == 'l' then o.p1 = N(o.p1)
    else error('BADARG') end
    if m ~= 'c' and m ~= 'g' and m ~= 't' and m ~= 'a' then error('BADARG') end
    if flags ~= '' and flags ~= 's' and find(flags, 'r', 1, true) then
      if k == 'f' or k == 's' then error('BADARG') end
      pending = pending + 1
      o.pend = KEYS[pending]
      if not o.pend then error('BADARG') end
    end
    out[i] = o
  end
  return out
end

-- Sets when a key ends, but never earlier than before: another call may still need it.
local function later(key, ms)
  if redis.call('PEXPIREAT', key, S(ms), 'NX') == 0 then redis.call('PEXPIREAT', key, S(ms), 'GT') end
end

-- What time has not given back yet of units taken from a token bucket, in microseconds: what it has is not given twice, and a
-- clock that stepped back gives no more than was taken.
local function unearned(amt, iv, t0) return amt * iv - math.max(0, us - t0 * 1000) end

-- The calendar window in force: its start, its end, what is used of it, and whether the stored start lies absurdly far ahead.
-- nil when the caller's windows do not hold our time.
local function cal(o, v)
  if now < o.p1 or now >= o.p3 then return nil end
  local w, e = o.p1, o.p2
  if now >= o.p2 then w, e = o.p2, o.p3 end
  if not v then return w, e, 0 end
  local cw, u = match(v, '^(%d+) (%d+)$')
  if not cw then error('BADDATA') end            -- not ours: nobody can say what is used
  cw, u = tonumber(cw), tonumber(u)
  if cw < w then return w, e, 0 end              -- a new window starts at zero
  if cw > w and cw - w <= o.p3 - o.p1 then       -- our clock stepped back (a failover): never open an old window again
    if cw == o.p2 then return cw, o.p3, u end
    return cw, cw + (o.p2 - o.p1), u
  end
  return w, e, u, cw > w                         -- the same window; or a clock was wrong once: take ours, keep what is used
end

-- Lines of the epoch: `<id> <fence until, ms> <counts lost at, ms>`. Its absence means that the data is gone.
local function epoch(v) return string.match(v or '', '^(%S+) (%d+) (%d+)$') end
