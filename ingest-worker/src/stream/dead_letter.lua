-- Moves an entry that no worker can read to the dead letters, before it is in any batch.
--
-- KEYS  1  {tracebility:ingest:v1:<n>}:lease      2  tracebility:ingest:v1:<n>
--       3  {tracebility:ingest:v1:<n>}:dlq        4  {tracebility:ingest:v1:<n>}:dlq:bytes
-- ARGV  1, 2  the owner and its epoch    3  how many bytes of dead letters there may be
--       4  the entry's id    5  its description
-- Reply  1  done, now or before    0  another worker owns the shard    -1  no room for dead letters, nothing was done

if not is_owner(KEYS[1], ARGV[1], ARGV[2]) then
    return 0
end
return dead_letter(KEYS[2], KEYS[3], KEYS[4], ARGV[3], {ARGV[4], ARGV[5]}) and 1 or -1
