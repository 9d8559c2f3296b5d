-- Is done with a batch: what was refused goes to the dead letters, its entries are deleted, and it is forgotten.
--
-- KEYS  1  {tracebility:ingest:v1:<n>}:lease      2  {tracebility:ingest:v1:<n>}:intent
--       3  tracebility:ingest:v1:<n>              4  {tracebility:ingest:v1:<n>}:dlq
--       5  {tracebility:ingest:v1:<n>}:dlq:bytes
-- ARGV  1  the owner's epoch    2, 3  the epoch and number that the batch was written down under
--       4  how many bytes of dead letters there may be
--       5  the id up to where the stream is cut off, or ""    6  how many were refused, n
--       then n times id and description, and the ids to delete
-- Reply  1  done, now or before      0  the shard is somebody else's      -1  no room for dead letters, nothing was done

if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then
    return 0
end
local epoch, number, body = unpack(redis.call('HMGET', KEYS[2], 'epoch', 'number', 'body'))
if not body or epoch ~= ARGV[2] or number ~= ARGV[3] then
    return 1
end
local first = 7 + 2 * tonumber(ARGV[6])
local refused = {}
for i = 7, first - 1 do
    refused[#refused + 1] = ARGV[i]
end
if not dead_letter(KEYS[3], KEYS[4], KEYS[5], ARGV[4], refused) then
    return -1
end
if ARGV[5] ~= '' then
    redis.call('XTRIM', KEYS[3], 'MINID', '=', ARGV[5])
end
-- Lua takes some thousand arguments at a time.
for i = first, #ARGV, 1000 do
    redis.call('XDEL', KEYS[3], unpack(ARGV, i, math.min(i + 999, #ARGV)))
end
redis.call('HDEL', KEYS[2], 'body', 'notes')
return 1
