-- BEAT: how far the store's data goes. After a restart or a failover it tells how much was lost.
-- KEYS: heartbeat, epoch
-- reply: {1, the heartbeat, ms, epoch}
local T = redis.call('TIME')
local now = tonumber(T[1]) * 1000 + math.floor(tonumber(T[2]) / 1000)
local v = redis.call('GET', KEYS[2]) or ''
local fence = string.match(v, '^%S+ (%d+) %d+$')
local beat = redis.call('GET', KEYS[1])
-- While a failover is worked up, each of ours still has to see how far the data went that it left.
if beat and fence and tonumber(fence) > now then return {1, tonumber(beat), v} end
redis.call('SET', KEYS[1], string.format('%.0f', now))
return {1, now, v}
