-- Says which envelopes of an org are parked, each cut down to what it is billed for.
--
-- KEYS  1  {<org>}:quota:parked    hash: where it was -> envelope
-- ARGV  1  the cursor, 0 to begin    2  how many bytes    3  the table of what is billed
-- Reply {the next cursor, 0 at the end; bytes looked at; field, envelope, …}    a field may come twice

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
