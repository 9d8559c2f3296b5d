#!lua flags=allow-oom

-- Writes down which entry the owner is about to process, and returns how many owners crashed with that entry.
--
-- KEYS  1  {tracebility:ingest:v1:<n>}:lease      hash: owner, epoch, …
--       2  {tracebility:ingest:v1:<n>}:suspect    hash: last, the entry that was processed last;
--                                                 epoch and crashes of the owner that processed it;
--                                                 ended:<entry> -> how many owners crashed when it was the last
-- ARGV  1  the owner    2  its epoch    3  the entry's id    4  how many owners in a row crashed before this one
-- Reply how many owners crashed with it      -1  another worker owns the shard
--
-- Runs on a full Redis (allow-oom), because it is the worker that empties Redis.

local lease = redis.call('HMGET', KEYS[1], 'owner', 'epoch')
if lease[1] ~= ARGV[1] or lease[2] ~= ARGV[2] then
    return -1
end
local last, epoch, crashes = unpack(redis.call('HMGET', KEYS[2], 'last', 'epoch', 'crashes'))
-- The first attempt of an owner: the owner before it crashed if there are more crashes now than when that one began.
if last and epoch ~= ARGV[2] and tonumber(ARGV[4]) > tonumber(crashes) then
    redis.call('HINCRBY', KEYS[2], 'ended:' .. last, 1)
end
redis.call('HSET', KEYS[2], 'last', ARGV[3], 'epoch', ARGV[2], 'crashes', ARGV[4])
return tonumber(redis.call('HGET', KEYS[2], 'ended:' .. ARGV[3]) or 0)
