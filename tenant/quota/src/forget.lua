#!lua flags=allow-oom
-- Records the end of a release, and deletes records of releases that ended long ago.
--
-- KEYS  1  {org}:quota:released    zset: envelope no longer parked -> end of its release, in ms; +inf until then
-- ARGV  1  how long a record is kept, in ms    2  "<shard>/<entry>"

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], 0, now - ARGV[1])
return redis.call('ZADD', KEYS[1], 'XX', now, ARGV[2])
