#!lua flags=no-writes
-- Reads the named entries of a stream in the given order, until a number of bytes is reached.
--
-- KEYS  1  the stream
-- ARGV  1  how many bytes    2  the field    3… ids
-- Reply {how many ids were looked at; id, value of the field or "", …}    without the entries that are not in the stream

local reply, bytes, limit = {0}, 0, tonumber(ARGV[1])
for i = 3, #ARGV do
    local entry = redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i])[1]
    reply[1] = i - 2
    if entry then
        local fields, value = entry[2], ''
        for j = 1, #fields, 2 do
            if fields[j] == ARGV[2] then
                value = fields[j + 1]
            end
            bytes = bytes + #fields[j] + #fields[j + 1]
        end
        reply[#reply + 1] = entry[1]
        reply[#reply + 1] = value
        if bytes >= limit then
            break
        end
    end
end
return reply
