#!lua flags=allow-oom
-- Writes down which entry is about to be looked at, and says how many tenures have ended with it.
--
-- KEYS  1  {tracebility:ingest:v1:<n>}:lease      hash: owner, epoch, …
--       2  {tracebility:ingest:v1:<n>}:suspect    hash: last (the entry that was looked at last), epoch and crashes of who did that;
--                                                 ended:<entry> -> tenures that crashed when it was the last
-- ARGV  1  the owner    2  its epoch    3  the entry's id    4  how many tenures in a row have crashed before this one
-- Reply how many tenures      -1  the shard is somebody else's
--
-- Runs on a full Redis (allow-oom): it is the worker who empties it.

local lease = redis.call('HMGET', KEYS[1], 'owner', 'epoch')
if lease[1] ~= ARGV[1] or lease[2] ~= ARGV[2] then
    return -1
end
local last, epoch, crashes = unpack(redis.call('HMGET', KEYS[2], 'last', 'epoch', 'crashes'))
-- The first look of a tenure: the one before has crashed if there are more crashes than it began with.
if last and epoch ~= ARGV[2] and tonumber(ARGV[4]) > tonumber(crashes) then
    redis.call('HINCRBY', KEYS[2], 'ended:' .. last, 1)
end
redis.call('HSET', KEYS[2], 'last', ARGV[3], 'epoch', ARGV[2], 'crashes', ARGV[4])
return tonumber(redis.call('HGET', KEYS[2], 'ended:' .. ARGV[3]) or 0)
