#!lua flags=allow-oom
-- Releases an evaluation slot.
--
-- KEYS  1  {org}:eval:concurrency   zset: holder -> deadline, µs
-- ARGV  1  the holder
-- Reply 1  released      0  it was no longer held: the deadline had passed
--
-- Also runs on a full Redis (allow-oom): it only frees memory.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local deadline = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not deadline then
    return 0
end
redis.call('ZREM', KEYS[1], ARGV[1])
if tonumber(deadline) <= now then
    return 0
end
return 1
