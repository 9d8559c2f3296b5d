#!lua flags=allow-oom
-- Keeps an envelope of an org that is over a monthly limit: once, however often it is asked for.
--
-- KEYS  1  {org}:quota:parked          hash: "<shard>/<entry>" -> the envelope
--       2  {org}:quota:parked:bytes    their bytes
--       3  {org}:quota:released        zset: what was parked and is not any more
-- ARGV  1  "<shard>/<entry>"    2  the envelope
-- Reply 1  parked now      0  it was before, or was released since
--
-- A command may be late, from an owner that stood still: what was released in the meantime must not come back. Runs on a full Redis
-- (allow-oom): the entry that this is a copy of goes next.

if redis.call('ZSCORE', KEYS[3], ARGV[1]) or redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2]) == 0 then
    return 0
end
redis.call('INCRBY', KEYS[2], #ARGV[2])
return 1
