#!lua flags=allow-oom
-- Removes an unacknowledged entry from a shard, and its items from the count of accepted ones.
--
-- KEYS  1  tracebility:ingest:v1:<n>    2  {tracebility:ingest:v1:<n>}:accepted:<hour>    hash: org -> items
-- ARGV  1  the entry's id    2  the org    3  its items
--
-- If a worker was faster, the entry is stored, and its items stay counted.

if redis.call('XDEL', KEYS[1], ARGV[1]) == 1 then
    redis.call('HINCRBY', KEYS[2], ARGV[2], -ARGV[3])
end
