#!lua flags=no-writes
-- Reads entries of a stream in order, until a number of entries or bytes is reached.
--
-- KEYS  1  the stream
-- ARGV  1  from which id    2  up to which id, or "+"    3  how many entries    4  how many bytes
--       5  an entry larger than so many bytes is the last    6  the field
-- Reply {1 when there may be more, otherwise 0; id, value of the field or "", id, value, …}
--
-- One entry at a time: Redis reports the size of an entry only by reading it, and a command with a COUNT reads all
-- first.

local entries, limit, large = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local reply, from, bytes = {1}, ARGV[1], 0
while bytes < limit and #reply < 2 * entries do
    local entry = redis.call('XRANGE', KEYS[1], from, ARGV[2], 'COUNT', 1)[1]
    if not entry then
        reply[1] = 0
        break
    end
    local id, fields, value, size = entry[1], entry[2], '', 0
    for i = 1, #fields, 2 do
        if fields[i] == ARGV[6] then
            value = fields[i + 1]
        end
        size = size + #fields[i] + #fields[i + 1]
    end
    reply[#reply + 1] = id
    reply[#reply + 1] = value
    if size > large then
        break
    end
    from, bytes = '(' .. id, bytes + size
end
return reply
