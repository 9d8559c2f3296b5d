#!lua flags=no-writes,allow-oom
-- Returns the owner of the lease of a shard.
--
-- KEYS  1  {tracebility:ingest:v1:<n>}:lease   hash: owner, epoch, until (ms since the Unix epoch)
-- Reply its owner, or "" when there is none or the lease has run out

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lease = redis.call('HMGET', KEYS[1], 'owner', 'until')
if lease[1] and tonumber(lease[2] or 0) > now then
    return lease[1]
end
return ''
