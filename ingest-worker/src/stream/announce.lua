-- Announces a batch: writes its intent to Redis before its first insert.
--
-- KEYS  1  {tracebility:ingest:v1:<n>}:lease     hash: owner, epoch, …
--       2  {tracebility:ingest:v1:<n>}:intent    hash: owner, epoch and number of the newest batch; if it is under way
--                                                also when it was announced (ms since the Unix epoch), its body and its
--                                                notes under their numbers from 1
--       3  {tracebility:ingest:v1:<n>}:recent    list: per batch when it was announced and its content ids, the oldest
--                                                batch first
-- ARGV  1, 2  the owner and its epoch    3  the batch's number in that epoch    4  its body
--       5  what to append to the list, or ""    6  how many of the oldest batches to remove from the list
-- Reply  1  announced, now or before      0  another worker owns the shard      -1  another batch is under way
--
-- A copy of the command that arrives late must not announce a committed batch again: numbers only grow. Runs on a full
-- Redis (allow-oom), because it is the worker that empties Redis.

if not is_owner(KEYS[1], ARGV[1], ARGV[2]) then
    return 0
end
local owner, epoch, number, body = unpack(redis.call('HMGET', KEYS[2], 'owner', 'epoch', 'number', 'body'))
if owner == ARGV[1] and epoch == ARGV[2] and tonumber(number) >= tonumber(ARGV[3]) then
    return 1
end
if body then
    return -1
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[2], 'owner', ARGV[1], 'epoch', ARGV[2], 'number', ARGV[3],
    'announced', string.format('%d', now), 'body', ARGV[4])
if ARGV[5] ~= '' then
    redis.call('RPUSH', KEYS[3], ARGV[5])
end
if tonumber(ARGV[6]) > 0 then
    redis.call('LPOP', KEYS[3], ARGV[6])
end
return 1
