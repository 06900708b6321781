-- PINS_WRITE: keeps data of a server if nobody has kept other data since it was read
-- KEYS: the hash of the server; ARGV: the version that was read ('' nothing, '?' something that is no version), the new
-- version, data
-- reply: 1 kept | 0 somebody else was first
local v = redis.pcall('HGET', KEYS[1], 'v')
if type(v) == 'table' or (not v and redis.call('EXISTS', KEYS[1]) == 1) then v = '?' end
v = v or ''
-- The answer to the first attempt was lost.
if v == ARGV[2] then return 1 end
if v ~= ARGV[1] then return 0 end
if v == '?' then redis.call('DEL', KEYS[1]) end
redis.call('HSET', KEYS[1], 'v', ARGV[2], 'd', ARGV[3])
return 1
