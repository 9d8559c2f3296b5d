-- Moves entries of a stream to its dead letters, all of them or none. Prepended to the scripts that need it.
--
-- `entries` is {id, description, id, description, …}. Returns false when there is no room; skips entries that are no
-- longer in the stream. Apart from the descriptions it adds no more than it deletes, so it may run on a full Redis. It
-- reads each entry twice, one at a time: reading a whole batch at once could exceed `maxmemory`. Of an entry with more
-- fields than Lua can pass on, which another program must have written, it keeps the first FIELDS_MAX.
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
