-- Deletes a dead letter, and subtracts its bytes from the sum. Prepended to the scripts that need it.
--
-- Returns false when there is no such letter. It frees more memory than it uses, so it may run on a full Redis.
local function take(letters, size, id)
    local letter = redis.call('XRANGE', letters, id, id)[1]
    if not letter then
        return false
    end
    local bytes = 0
    for i = 2, #letter[2], 2 do
        bytes = bytes + #letter[2][i]
    end
    redis.call('XDEL', letters, id)
    if redis.call('DECRBY', size, bytes) <= 0 then
        redis.call('DEL', size)
    end
    return true
end
