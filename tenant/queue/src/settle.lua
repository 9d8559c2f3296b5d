#!lua flags=allow-oom
-- Records that the source of an arrival is deleted, so that its token can expire.
--
-- KEYS  1  …:arrivals    zset: token -> when its source was known to be gone, in ms; +inf until then
-- ARGV  1  the token

local time = redis.call('TIME')
return redis.call('ZADD', KEYS[1], 'XX', time[1] * 1000 + math.floor(time[2] / 1000), ARGV[1])
