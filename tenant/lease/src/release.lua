#!lua flags=allow-oom
-- Releases the lease of a shard, so that another worker can take it at once.
--
-- KEYS  1  {tracebility:ingest:v1:<n>}:lease   hash: owner, epoch, until (ms since the Unix epoch)
-- ARGV  1  its owner      2  its epoch      3  1 if the work on the shard has crashed, otherwise 0
-- Reply 1  released      0  another worker owns it, or its epoch is newer
--
-- The epoch stays, so that it keeps growing. Also runs on a full Redis (allow-oom): it only frees memory.

local lease = redis.call('HMGET', KEYS[1], 'owner', 'epoch')
if lease[1] ~= ARGV[1] or lease[2] ~= ARGV[2] then
    return 0
end
redis.call('HDEL', KEYS[1], 'owner', 'until', 'waiting', 'waiting_since')
if ARGV[3] == '1' then
    redis.call('HINCRBY', KEYS[1], 'crashes', 1)
end
return 1
