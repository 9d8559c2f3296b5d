#!lua flags=no-writes
-- Lists dead letters, without most of their bytes.
--
-- KEYS  1  …:dlq
-- ARGV  1  from which id, "-" or "(<id>"    2  up to which id, or "+"    3  how many    4  the field of the envelope
--       5  how many of the envelope's first bytes
-- Reply {id of the last letter of all or "", {id, description or "", bytes, first bytes of the envelope}, …}

local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local page = {last and last[1] or ''}
for _, letter in ipairs(redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[2], 'COUNT', ARGV[3])) do
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
end
return page
