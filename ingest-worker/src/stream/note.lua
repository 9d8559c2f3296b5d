#!lua flags=allow-oom
-- Writes down more about the batch under way: what ClickHouse refuses of it.
--
-- KEYS  1  {tracebility:ingest:v1:<n>}:lease      2  {tracebility:ingest:v1:<n>}:intent
-- ARGV  1  the owner's epoch    2, 3  the epoch and number that the batch was written down under
--       4  how many notes it has now    5  its bytes
-- Reply  1  written down, now or before      0  the shard is somebody else's
--
-- Notes only grow, so a late copy with fewer of them changes nothing.

if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then
    return 0
end
local epoch, number, notes, body = unpack(redis.call('HMGET', KEYS[2], 'epoch', 'number', 'notes', 'body'))
if body and epoch == ARGV[2] and number == ARGV[3] and tonumber(notes) < tonumber(ARGV[4]) then
    redis.call('HSET', KEYS[2], 'notes', ARGV[4], 'body', ARGV[5])
end
return 1
