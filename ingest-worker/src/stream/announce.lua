#!lua flags=allow-oom
-- Writes down the batch that is about to be inserted.
--
-- KEYS  1  {tracebility:ingest:v1:<n>}:lease     hash: epoch, …
--       2  {tracebility:ingest:v1:<n>}:intent    hash: epoch and number of the newest batch; body and notes while it is under way
-- ARGV  1  the owner's epoch    2  the batch's number in that epoch    3  its bytes
-- Reply  1  written down, now or before      0  the shard is somebody else's      -1  another batch is under way
--
-- A copy of the command that arrives late must not bring a batch back that is done: numbers only grow. Runs on a full Redis
-- (allow-oom): it is the worker who empties it.

if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then
    return 0
end
local epoch, number, body = unpack(redis.call('HMGET', KEYS[2], 'epoch', 'number', 'body'))
if epoch == ARGV[1] and tonumber(number) >= tonumber(ARGV[2]) then
    return 1
end
if body then
    return -1
end
redis.call('HSET', KEYS[2], 'epoch', ARGV[1], 'number', ARGV[2], 'notes', 0, 'body', ARGV[3])
return 1
