-- Lists an org's parked envelopes, each cut down to its rows of the billing table.
--
-- KEYS  1  {<org>}:quota:parked    hash: "<shard>/<entry>" -> envelope
-- ARGV  1  the cursor, 0 to begin    2  how many bytes    3  the number of the billing table
-- Reply {the next cursor, 0 at the end; bytes read; field, envelope, …}    a field may come twice

local cursor, bytes, reply = ARGV[1], 0, {0, 0}
repeat
    local page = redis.call('HSCAN', KEYS[1], cursor, 'COUNT', 1)
    cursor = page[1]
    for i = 1, #page[2], 2 do
        bytes = bytes + #page[2][i + 1]
        reply[#reply + 1] = page[2][i]
        reply[#reply + 1] = cut(page[2][i + 1], tonumber(ARGV[3]))
    end
until cursor == '0' or bytes >= tonumber(ARGV[2])
reply[1], reply[2] = cursor, bytes
return reply
