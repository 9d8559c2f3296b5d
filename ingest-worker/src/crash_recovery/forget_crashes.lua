#!lua flags=allow-oom
-- Forgets that the work on a shard has crashed: all entries that were waiting are done.
--
-- KEYS  1  {tracebility:ingest:v1:<n>}:lease      hash: owner, epoch, crashes, …
--       2  {tracebility:ingest:v1:<n>}:suspect
-- ARGV  1  the owner    2  its epoch
-- Reply 1  forgotten      0  another worker owns the shard

local lease = redis.call('HMGET', KEYS[1], 'owner', 'epoch')
if lease[1] ~= ARGV[1] or lease[2] ~= ARGV[2] then
    return 0
end
redis.call('HDEL', KEYS[1], 'crashes')
redis.call('DEL', KEYS[2])
return 1
