#!lua flags=allow-oom
-- Closes a shard to an org that moves to another shard, and returns what the shard's stream still has.
--
-- KEYS  1  tracebility:ingest:v1:<n>            the shard's stream
--       2  {tracebility:ingest:v1:<n>}:fence    hash: org -> "<version of the move>:<fence>"
-- ARGV  1  the org      2  the version of the move
-- Reply {1, fence, id of the first entry in the stream or "", entries in the stream}      closed
--       {0}                                      a later move has changed the entry
--
-- The fence is the stream's last entry at the moment of closing. An append reads this hash after it has added its entry
-- and before it answers, so no acknowledged entry of the org comes after the fence. A shard that is closed already
-- keeps its fence. Also runs on a full Redis (allow-oom): orgs are moved away from full shards.

local version, fence
local entry = redis.call('HGET', KEYS[2], ARGV[1])
if entry then
    version, fence = string.match(entry, '^(%d+):(.+)$')
    if version and tonumber(version) > tonumber(ARGV[2]) then
        return {0}
    end
end
if not fence or fence == 'open' then
    local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
    fence = last and last[1] or '0-0'
end
if version ~= ARGV[2] then
    redis.call('HSET', KEYS[2], ARGV[1], ARGV[2] .. ':' .. fence)
end
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
return {1, fence, first and first[1] or '', redis.call('XLEN', KEYS[1])}
