-- Adds notes to the batch under way: what ClickHouse refuses of it.
--
-- KEYS  1  {tracebility:ingest:v1:<n>}:lease      2  {tracebility:ingest:v1:<n>}:intent
-- ARGV  1, 2  the owner and its epoch    3, 4, 5  the owner, epoch and number that the batch was announced under
--       6  the number of the first of these notes    then the notes
-- Reply  1  written down, now or before      0  another worker owns the shard
--
-- A note never changes, so a late copy of the command writes what is there already.

if not is_owner(KEYS[1], ARGV[1], ARGV[2]) then
    return 0
end
if is_under_way(KEYS[2], ARGV[3], ARGV[4], ARGV[5]) then
    for i = 7, #ARGV do
        redis.call('HSET', KEYS[2], string.format('%d', ARGV[6] + i - 7), ARGV[i])
    end
end
return 1
