-- RESET: forget what is used of the counters, whatever waits to be released with it.
-- head: - - - - - - epoch node; lines as in RESERVE; KEYS[n+3..2n+2] the pending set of every line
-- reply: {1, now_ms, keys deleted}   -5, -7 as in FINISH
if ARGV[8] ~= '' and redis.call('CLUSTER', 'MYID') ~= ARGV[8] then return {-7, now, 0} end
lines()
if epoch(redis.call('GET', KEYS[2])) ~= ARGV[7] then return {-5, now, 0} end
return {1, now, redis.call('DEL', unpack(KEYS, 3))}
