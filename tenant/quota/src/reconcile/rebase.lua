-- Sets the counters of an org's meters for a period: the billed usage received before a minute, plus the charges from
-- that minute on, which may not be billed yet.
--
-- KEYS  1  {org}:quota:<period>:recent       hash, "<minute>:<meter>" -> accepted; "w" -> the minute of the last re-base
--       2  {org}:quota:over:<period>         the meters that are at their limit or over it, with commas; absent: none.
--                                            One that is over has a "!", and then a space and the org's policy follow
--       3… {org}:quota:<period>:<meter>      one per meter
-- ARGV  1  the minute (Unix time / 60)       2  how long counters live, s
--       3  what happens to data over the limits: "park" or "drop"
--       4… per meter three: its name, what is billed, and the limit that refuses (-1: none)
-- Reply {}                                               the minute is older than the last: nothing was changed
--       {counter before, counter after, before, after…}  two per meter
--
-- Minutes before the given one are deleted: they are billed, or were never stored. Running it twice changes nothing,
-- and no request can come in between, because Redis runs one script at a time. Not allowed on a full Redis (no
-- allow-oom): then no request is admitted either, and unchanged counters are right.

local minute, ttl = tonumber(ARGV[1]), ARGV[2]
if minute < tonumber(redis.call('HGET', KEYS[1], 'w') or 0) then
    return {}
end

-- An existing key keeps its expiry.
local function live(key)
    if redis.call('TTL', key) == -1 then
        redis.call('EXPIRE', key, ttl)
    end
end

local recent = {}
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
    local of, meter = string.match(fields[i], '^(%d+):(.+)$')
    if of then
        if tonumber(of) < minute then
            redis.call('HDEL', KEYS[1], fields[i])
        else
            recent[meter] = (recent[meter] or 0) + tonumber(fields[i + 1])
        end
    end
end
redis.call('HSET', KEYS[1], 'w', minute)
live(KEYS[1])

local reply, over, policy = {}, {}, ''
for m = 1, #KEYS - 2 do
    local key, name = KEYS[2 + m], ARGV[3 * m + 1]
    local billed, limit = tonumber(ARGV[3 * m + 2]), tonumber(ARGV[3 * m + 3])
    local before = redis.call('GET', key)
    local used = billed + (recent[name] or 0)
    if before or used > 0 then
        redis.call('SET', key, string.format('%d', used), 'KEEPTTL')
        live(key)
    end
    if limit >= 0 and used > limit then
        over[#over + 1] = name .. '!'
        policy = ' ' .. ARGV[3]
    elseif limit >= 0 and used == limit then
        over[#over + 1] = name
    end
    reply[2 * m - 1] = tonumber(before or 0)
    reply[2 * m] = used
end
if #over > 0 then
    redis.call('SET', KEYS[2], table.concat(over, ',') .. policy, 'KEEPTTL')
    live(KEYS[2])
else
    redis.call('DEL', KEYS[2])
end
return reply
