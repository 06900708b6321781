-- PINS_READ: what is kept of servers, if it is not what the caller knows
-- KEYS: a hash for each server; ARGV: the version of it that the caller knows, empty for none
-- reply: for each {} nothing is kept | {version} as known | {version, data}
local out = {}
for i, key in ipairs(KEYS) do
  -- Whatever else stands there must fail one server and not all of them.
  local v = redis.pcall('HGET', key, 'v')
  if type(v) == 'table' then
    out[i] = {'?', ''}
  elseif not v then
    out[i] = redis.call('EXISTS', key) == 1 and {'?', ''} or {}
  elseif v == ARGV[i] then
    out[i] = {v}
  else
    out[i] = {v, redis.call('HGET', key, 'd') or ''}
  end
end
return out
