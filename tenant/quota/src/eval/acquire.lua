-- Takes one of an org's evaluation slots, if one is free.
--
-- KEYS  1  {org}:eval:concurrency   zset: holder -> deadline, µs
-- ARGV  1  the holder      2  how long it may hold the slot, µs      3  how many slots there are, -1: any number
-- Reply {1, slots held, this one among them}
--       {0, slots held, µs until enough deadlines have passed for one to be free; -1: never, there are no slots}
--
-- A holder that has a slot keeps it, with a new deadline: a request repeated after a lost reply takes one slot in all.
-- Refused by a full Redis (no allow-oom), because it adds keys.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local cap = tonumber(ARGV[3])

redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%d', now))
local held = redis.call('ZCARD', KEYS[1])
local mine = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not mine then
    if cap == 0 then
        return {0, held, -1}
    elseif cap > 0 and held >= cap then
        -- If the cap was lowered, more than one slot must become free.
        local last_to_go = redis.call('ZRANGE', KEYS[1], held - cap, held - cap, 'WITHSCORES')
        return {0, held, last_to_go[2] - now}
    end
    held = held + 1
end
redis.call('ZADD', KEYS[1], string.format('%d', now + ARGV[2]), ARGV[1])
local latest = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2]
redis.call('PEXPIREAT', KEYS[1], string.format('%d', math.ceil(latest / 1000) + 1))
return {1, held}
