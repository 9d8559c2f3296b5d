-- Drops a dead letter and counts its items; without a third key it counts nothing.
--
-- KEYS  1  …:dlq    2  …:dlq:bytes    3  …:dlq:dropped:<hour>    hash: org -> items
-- ARGV  1  the letter's id    2  the org    3  its items    4  how long the sum is kept, in s
-- Reply {1 or 0: whether the letter existed, the sum of the org}

local found = take(KEYS[1], KEYS[2], ARGV[1])
if not KEYS[3] then
    return {found and 1 or 0, 0}
end
if found then
    redis.call('HINCRBY', KEYS[3], ARGV[2], ARGV[3])
    redis.call('EXPIRE', KEYS[3], ARGV[4])
end
return {found and 1 or 0, tonumber(redis.call('HGET', KEYS[3], ARGV[2]) or 0)}
