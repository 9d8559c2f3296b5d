#!lua flags=allow-oom
-- Adds an entry of the legacy stream to its dead letters, which are in another slot of the cluster: once, even when
-- repeated.
--
-- KEYS  1  tracebility:ingest:v1:dlq      2  {…}:bytes      3  {…}:arrivals   as in arrive.lua
-- ARGV  1  the token    2  the description    3  the field    4  its value    5  bytes of all dead letters at most
--       6  how long a token is kept once its source is gone, in ms
-- Reply 1  added, now or before      0  there is no room
--
-- Runs on a full Redis (allow-oom): the entry will be deleted from the stream.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[3], 0, now - ARGV[6])
if redis.call('ZSCORE', KEYS[3], ARGV[1]) then
    return 1
end
local held, bytes = tonumber(redis.call('GET', KEYS[2]) or 0), #ARGV[2] + #ARGV[4]
if held > 0 and held + bytes > tonumber(ARGV[5]) then
    return 0
end
redis.call('XADD', KEYS[1], '*', 'm', ARGV[2], ARGV[3], ARGV[4])
redis.call('INCRBY', KEYS[2], bytes)
redis.call('ZADD', KEYS[3], '+inf', ARGV[1])
return 1
