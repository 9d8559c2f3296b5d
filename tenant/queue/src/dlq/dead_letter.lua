-- Moves entries of a stream to its dead letters, all of them or none. Begins the scripts that need it.
--
-- `entries` is {id, description, id, description, …}. Returns false when there is no room; an entry that is not in the stream any
-- more is passed over. What is added is no more than what goes, but for the description, so a full Redis may do it.
-- Entries are read twice, one at a time: all of a batch's at once would be in memory beyond `maxmemory`.
-- Of an entry that somebody else has written, with more fields than Lua can pass on, the first FIELDS_MAX are kept.
local FIELDS_MAX = 1000

local function dead_letter(stream, letters, size, cap, entries)
    local found, bytes = {}, 0
    for i = 1, #entries, 2 do
        local entry = redis.call('XRANGE', stream, entries[i], entries[i])[1]
        if entry then
            found[#found + 1] = i
            for j = 2, math.min(#entry[2], 2 * FIELDS_MAX), 2 do
                bytes = bytes + #entry[2][j]
            end
            bytes = bytes + #entries[i + 1]
        end
    end
    local held = tonumber(redis.call('GET', size) or 0)
    if #found > 0 and held > 0 and held + bytes > tonumber(cap) then
        return false
    end
    for _, i in ipairs(found) do
        local entry = redis.call('XRANGE', stream, entries[i], entries[i])[1]
        redis.call('XADD', letters, '*', 'm', entries[i + 1], unpack(entry[2], 1, math.min(#entry[2], 2 * FIELDS_MAX)))
        redis.call('XDEL', stream, entries[i])
    end
    if bytes > 0 then
        redis.call('INCRBY', size, bytes)
    end
    return true
end
