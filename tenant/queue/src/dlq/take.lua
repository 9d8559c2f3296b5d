-- Takes a letter out of the dead letters, and its bytes out of their sum. Begins the scripts that need it.
--
-- False when there is no such letter. What goes is more than what comes, so a full Redis may do it.
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
