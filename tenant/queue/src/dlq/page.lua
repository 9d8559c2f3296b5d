#!lua flags=no-writes
-- Lists dead letters, with only the first of their bytes.
--
-- KEYS  1  …:dlq
-- ARGV  1  from which id, "-" or "(<id>"    2  up to which id, or "+"    3  how many    4  the field of the envelope
--       5  how many of the envelope's first bytes    6  how many bytes are looked at
-- Reply {id of the last letter of all or "", {id, description or "", bytes, first bytes of the envelope}, …}    fewer than asked
-- for when they are large, but none only at the end
--
-- One letter at a time: letters may be large, and a whole range would be in memory at once.

local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local page, from, looked_at = {last and last[1] or ''}, ARGV[1], 0
while #page <= tonumber(ARGV[3]) and looked_at < tonumber(ARGV[6]) do
    local letter = redis.call('XRANGE', KEYS[1], from, ARGV[2], 'COUNT', 1)[1]
    if not letter then
        break
    end
    local description, bytes, head = '', 0, ''
    for i = 1, #letter[2], 2 do
        local name, value = letter[2][i], letter[2][i + 1]
        bytes = bytes + #value
        if name == 'm' then
            description = value
        elseif name == ARGV[4] then
            head = string.sub(value, 1, ARGV[5])
        end
    end
    page[#page + 1] = {letter[1], description, bytes, head}
    from, looked_at = '(' .. letter[1], looked_at + bytes
end
return page
