-- Lists the entries of a stream: the envelope of each, cut down to its rows of the billing table.
--
-- KEYS  1  tracebility:ingest:v1:<n>
-- ARGV  1  from which id, "-" or "(<id>"    2  up to which id, or "+"    3  how many entries    4  how many bytes
--       5  the field    6  the table of what is billed
-- Reply {id of the last entry of all or "", id of the last that was looked at or "", bytes looked at, envelope, …}

local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local reply, from, bytes = {last and last[1] or '', '', 0}, ARGV[1], 0
local number, entries, limit = tonumber(ARGV[6]), tonumber(ARGV[3]), tonumber(ARGV[4])
while bytes < limit and #reply < entries + 3 do
    -- One entry at a time: entries may be large, and a whole range would be in memory at once.
    local entry = redis.call('XRANGE', KEYS[1], from, ARGV[2], 'COUNT', 1)[1]
    if not entry then
        reply[2] = ''
        break
    end
    local envelope = ''
    for i = 1, #entry[2], 2 do
        if entry[2][i] == ARGV[5] then
            envelope = entry[2][i + 1]
        end
        bytes = bytes + #entry[2][i + 1]
    end
    reply[#reply + 1] = cut(envelope, number)
    reply[2], from = entry[1], '(' .. entry[1]
end
reply[3] = bytes
return reply
