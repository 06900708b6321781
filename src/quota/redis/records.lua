-- RECORDS: appends audit records of one chain to a stream, each once
-- KEYS: the stream, what is known of the chain; ARGV: entries to keep (about), ms that the chain is remembered, then number and
-- line of each record
-- reply: records that were new
local last = tonumber(redis.call('GET', KEYS[2]) or '0') or 0
local new = 0
for i = 3, #ARGV, 2 do
  local n = tonumber(ARGV[i])
  -- The answer to an earlier attempt was lost.
  if n > last then
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'record', ARGV[i + 1])
    last = n
    new = new + 1
  end
end
redis.call('SET', KEYS[2], string.format('%.0f', last), 'PX', ARGV[2])
return new
