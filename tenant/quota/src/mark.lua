#!lua flags=allow-oom
-- Records that items of an org were parked, dropped or not billed.
--
-- KEYS  1  {tracebility:ingest:v1:<n>}:aside:<hour>    set: orgs
-- ARGV  1  the org    2  how long the set is kept, s
--
-- Runs on a full Redis (allow-oom), which only workers can empty.

redis.call('SADD', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
