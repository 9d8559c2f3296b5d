-- Cuts an envelope down to its header and its rows of one table; "" if it is no envelope. Prepended to the scripts that
-- need it.
--
-- The format is documented in schema/src/envelope.rs: 109 bytes of header, how many sections, 16 bytes of code (which is that of
-- the whole envelope), then per section 11 bytes, of which the first is the table and the last four are the length of what follows.
local function cut(envelope, number)
    if #envelope < 126 or string.sub(envelope, 1, 4) ~= 'TBE2' then
        return ''
    end
    local head, code, at = string.sub(envelope, 1, 109), string.sub(envelope, 111, 126), 127
    for _ = 1, string.byte(envelope, 110) do
        if at + 10 > #envelope then
            return ''
        end
        local length = struct.unpack('<I4', envelope, at + 7)
        if string.byte(envelope, at) == number then
            return head .. '\1' .. code .. string.sub(envelope, at, at + 10 + length)
        end
        at = at + 11 + length
    end
    return head .. '\0' .. code
end
