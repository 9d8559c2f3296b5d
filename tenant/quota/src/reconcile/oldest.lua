-- When the oldest entry of a shard was appended, in ms: everything before it is stored. Now, if there is no entry.
--
-- KEYS  1  the shard's stream
-- Reply ms since the Unix epoch
--
-- By the clock that stamps the entries. A script, because a command would return the whole entry with its id. Writes
-- nothing.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
if first then
    return math.min(now, tonumber(string.match(first[1], '^%d+')))
end
return now
