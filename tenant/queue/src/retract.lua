#!lua flags=allow-oom
-- Takes an entry out of a shard again that nobody was told of, and out of what is counted as accepted.
--
-- KEYS  1  tracebility:ingest:v1:<n>    2  {tracebility:ingest:v1:<n>}:accepted:<hour>    hash: org -> items
-- ARGV  1  the entry's id    2  the org    3  its items
--
-- One that a worker was faster with is stored, and stays counted.

if redis.call('XDEL', KEYS[1], ARGV[1]) == 1 then
    redis.call('HINCRBY', KEYS[2], ARGV[2], -ARGV[3])
end
