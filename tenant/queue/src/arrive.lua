#!lua flags=allow-oom
-- Appends an arrival from another slot of the cluster to a stream: once, even when repeated.
--
-- KEYS  1  the stream      2  …:arrivals    zset: token -> when its source was known to be gone, in ms; +inf until then
--       3  …:fence of a shard, if the org may have moved away from it
--       4  …:accepted:<hour>    hash: org -> items; if it is accepted by that, and was not before
-- ARGV  1  the token    2  the field    3  its value    4  how long a token is kept once its source is gone, in ms    5  the org
--       6  its items    7  how long they are counted, in s
-- Reply 1  appended, now or before      0  the shard is closed to the org, nothing was appended
--
-- Runs on a full Redis (allow-oom): the arrival will be deleted at its source.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[2], 0, now - ARGV[4])
if redis.call('ZSCORE', KEYS[2], ARGV[1]) then
    return 1
end
if KEYS[3] then
    local state = redis.call('HGET', KEYS[3], ARGV[5])
    if state and string.sub(state, -5) ~= ':open' then
        return 0
    end
end
redis.call('XADD', KEYS[1], '*', ARGV[2], ARGV[3])
redis.call('ZADD', KEYS[2], '+inf', ARGV[1])
if KEYS[4] then
    redis.call('HINCRBY', KEYS[4], ARGV[5], ARGV[6])
    redis.call('EXPIRE', KEYS[4], ARGV[7], 'NX')
end
return 1
