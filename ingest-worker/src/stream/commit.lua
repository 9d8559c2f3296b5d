-- Commits a batch: moves its refused entries to the dead letters, deletes its entries and forgets its intent.
--
-- KEYS  1  {tracebility:ingest:v1:<n>}:lease      2  {tracebility:ingest:v1:<n>}:intent
--       3  tracebility:ingest:v1:<n>              4  {tracebility:ingest:v1:<n>}:dlq
--       5  {tracebility:ingest:v1:<n>}:dlq:bytes
-- ARGV  1, 2  the owner and its epoch    3, 4, 5  the owner, epoch and number that the batch was announced under
--       6  how many bytes of dead letters there may be
--       7  the id up to where the stream is cut off, or ""    8  the number n of refused entries
--       then n times id and description, and the ids to delete
-- Reply  1  done, now or before    0  another worker owns the shard    -1  no room for dead letters, nothing was done

if not is_owner(KEYS[1], ARGV[1], ARGV[2]) then
    return 0
end
if not is_under_way(KEYS[2], ARGV[3], ARGV[4], ARGV[5]) then
    return 1
end
local first = 9 + 2 * tonumber(ARGV[8])
local refused = {}
for i = 9, first - 1 do
    refused[#refused + 1] = ARGV[i]
end
if not dead_letter(KEYS[3], KEYS[4], KEYS[5], ARGV[6], refused) then
    return -1
end
if ARGV[7] ~= '' then
    redis.call('XTRIM', KEYS[3], 'MINID', '=', ARGV[7])
end
-- Lua can pass only some thousand arguments at a time.
for i = first, #ARGV, 1000 do
    redis.call('XDEL', KEYS[3], unpack(ARGV, i, math.min(i + 999, #ARGV)))
end
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[2], 'owner', ARGV[3], 'epoch', ARGV[4], 'number', ARGV[5])
return 1
