#!lua flags=no-writes,allow-oom
-- Returns what is left of the legacy stream.
--
-- KEYS  1  tracebility:ingest:v1      2  {tracebility:ingest:v1}:moving   hash: entry -> where it is going
-- Reply {entries, id of the first or "", entries ever added, entries that are being moved,
--        {{group, entries pending, ms since one of its readers asked for something or -1}, …}}

local function field(info, name)
    for i = 1, #info, 2 do
        if info[i] == name then
            return info[i + 1]
        end
    end
end

local groups, added = {}, 0
if redis.call('EXISTS', KEYS[1]) == 1 then
    added = field(redis.call('XINFO', 'STREAM', KEYS[1]), 'entries-added') or 0
    for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
        local name, silent = field(info, 'name'), -1
        for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], name)) do
            local idle = field(consumer, 'idle')
            if silent < 0 or idle < silent then
                silent = idle
            end
        end
        groups[#groups + 1] = {name, field(info, 'pending'), silent}
    end
end
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
return {redis.call('XLEN', KEYS[1]), first and first[1] or '', added, redis.call('HLEN', KEYS[2]), groups}
