-- ACCEPT: an operator takes it that counts were lost; limits start anew from what is there.
-- KEYS: epoch, the id of the epoch whose loss was accepted
-- reply: {1 done | 0 nothing was lost, now_ms}
local T = redis.call('TIME')
local now = tonumber(T[1]) * 1000 + math.floor(tonumber(T[2]) / 1000)
local id, fence, lost = string.match(redis.call('GET', KEYS[1]) or '', '^(%S+) (%d+) (%d+)$')
if not id or lost == '0' then return {0, now} end
redis.call('SET', KEYS[1], id .. ' ' .. fence .. ' 0')
-- A replica that comes back late must not mark the same loss again.
redis.call('SET', KEYS[2], id)
return {1, now}
