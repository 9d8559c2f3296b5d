#!lua flags=allow-oom
-- Parks an envelope of an org that is over a monthly limit: once, even when repeated.
--
-- KEYS  1  {org}:quota:parked          hash: "<shard>/<entry>" -> the envelope
--       2  {org}:quota:parked:bytes    their bytes
--       3  {org}:quota:released        zset: envelopes that are no longer parked
-- ARGV  1  "<shard>/<entry>"    2  the envelope
-- Reply 1  parked now      0  it was parked before, or was released since
--
-- A command of a suspended owner may arrive late: an envelope released meanwhile must not be parked again. Runs on a
-- full Redis (allow-oom): the entry that this is a copy of is deleted next.

if redis.call('ZSCORE', KEYS[3], ARGV[1]) or redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2]) == 0 then
    return 0
end
redis.call('INCRBY', KEYS[2], #ARGV[2])
return 1
