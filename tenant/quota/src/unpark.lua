#!lua flags=allow-oom
-- Deletes a parked envelope, after it was appended to its shard again.
--
-- KEYS  1  {org}:quota:parked    2  {org}:quota:parked:bytes
--       3  {org}:quota:released  zset: envelope no longer parked -> end of its release, in ms; +inf until then
-- ARGV  1  "<shard>/<entry>"
-- Reply 1  deleted      0  it was not there

local bytes = redis.call('HSTRLEN', KEYS[1], ARGV[1])
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then
    return 0
end
if redis.call('DECRBY', KEYS[2], bytes) <= 0 then
    redis.call('DEL', KEYS[2])
end
redis.call('ZADD', KEYS[3], '+inf', ARGV[1])
return 1
