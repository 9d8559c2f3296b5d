#!lua flags=allow-oom
-- Ends a release: nothing of it is left to be done. Forgets those that ended long ago.
--
-- KEYS  1  {org}:quota:released    zset: what was parked and is not any more -> when its release was over, in ms; +inf until then
-- ARGV  1  how long it is remembered, in ms    2  "<shard>/<entry>"

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], 0, now - ARGV[1])
return redis.call('ZADD', KEYS[1], 'XX', now, ARGV[2])
