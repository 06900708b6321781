-- BEAT: how far the store's data goes. After a restart or a failover it tells how much was lost.
-- KEYS: heartbeat, epoch
-- reply: {1, now_ms, epoch}
local T = redis.call('TIME')
local now = string.format('%.0f', tonumber(T[1]) * 1000 + math.floor(tonumber(T[2]) / 1000))
redis.call('SET', KEYS[1], now)
return {1, tonumber(now), redis.call('GET', KEYS[2]) or ''}
