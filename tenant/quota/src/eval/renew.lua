#!lua flags=allow-oom
-- Extends the deadline of an evaluation slot, if the holder still has it.
--
-- KEYS  1  {org}:eval:concurrency   zset: holder -> deadline, µs
-- ARGV  1  the holder      2  how long it may hold the slot from now, µs
-- Reply 1  renewed      0  the deadline had passed: another holder may have the slot
--
-- Also runs on a full Redis (allow-oom): it changes an existing number, and a running evaluation should not lose its
-- slot because of another org's backlog.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local deadline = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not deadline or tonumber(deadline) <= now then
    return 0
end
redis.call('ZADD', KEYS[1], 'XX', string.format('%d', now + ARGV[2]), ARGV[1])
local latest = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2]
redis.call('PEXPIREAT', KEYS[1], string.format('%d', math.ceil(latest / 1000) + 1))
return 1
