#!lua flags=allow-oom
-- Opens a shard to an org that moved there. Call it when every other shard is closed to the org and drained.
--
-- KEYS  1  {tracebility:ingest:v1:<n>}:fence    hash: org -> "<version of the move>:<fence>"
-- ARGV  1  the org      2  the version of the move
-- Reply 1  open      0  a later move has changed the entry
--
-- The version stays, so that a late command of an earlier move cannot close the shard again. Also runs on a full Redis
-- (allow-oom): otherwise the org's requests would be refused until there is room.

local entry = redis.call('HGET', KEYS[1], ARGV[1])
local version = entry and string.match(entry, '^(%d+):')
if version and tonumber(version) > tonumber(ARGV[2]) then
    return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ':open')
return 1
