#!lua flags=allow-oom
-- Renews the lease of a shard, if it still runs and the caller owns it.
--
-- KEYS  1  {tracebility:ingest:v1:<n>}:lease   hash: owner, epoch, until (ms since the Unix epoch)
-- ARGV  1  its owner      2  its epoch      3  for how long from now, ms
-- Reply 1  renewed      0  it has run out, or another worker owns it
--
-- A lease that has run out is not renewed even if no worker has taken it since: its owner has stopped relying on it.
-- Also runs on a full Redis (allow-oom), which only workers can empty.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lease = redis.call('HMGET', KEYS[1], 'owner', 'epoch', 'until')
if lease[1] ~= ARGV[1] or lease[2] ~= ARGV[2] or tonumber(lease[3] or 0) <= now then
    return 0
end
redis.call('HSET', KEYS[1], 'until', string.format('%d', now + ARGV[3]))
return 1
