-- Admits or refuses one request of an org, and charges it: the rate of its key, the rate of the org, and the monthly
-- meters. All of them or none: a request that one of them refuses is charged by none.
--
-- KEYS  1  {org}:rl:<api_key_id>             TAT of the key, µs
--       2  {org}:rl:org                      TAT of the org, µs
--       3  {org}:quota:<period>:recent       hash, "<minute>:<meter>" -> accepted
--       4… {org}:quota:<period>:<meter>      one per meter
-- ARGV  1  cost in units of the rates
--       2  µs per unit of the key's rate, 0 if it is not limited      3  its tolerance, µs
--       4  µs per unit of the org's rate, 0 if it is not limited      5  its tolerance, µs
--       6  minute of acceptance (Unix time / 60)
--       7  how long counters live, s
--       8… per meter three: its name, the quantity, and the limit (-1: none)
-- Reply {0, µs until the key's burst is whole, units the key has left, used of meter 1, used of meter 2, …}  accepted
--       {1, µs to wait, units left}           the key's rate       {2, µs to wait, units left}   the org's rate
--       {3, index of the meter, used of it}   a monthly limit
--
-- A monthly limit that refuses a request is noted in the hash, field "refused:<meter>", for the quota reconciler: the
-- rest of a limit may be smaller than any request, and then no counter ever reaches the limit.
--
-- Time is Redis' own, so that no client's clock matters. All numbers are whole and below 2^53.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local cost = tonumber(ARGV[1])

local tats = {}
for i = 1, 2 do
    local interval, tolerance = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
    if interval > 0 then
        local before = math.max(tonumber(redis.call('GET', KEYS[i]) or 0), now)
        local tat = before + cost * interval
        local early = tat - now - tolerance
        if early > 0 then
            return {i, early, math.floor(math.max(tolerance - (before - now), 0) / interval)}
        end
        tats[i] = tat
    end
end

local meters = #KEYS - 3
for m = 1, meters do
    local quantity, limit = tonumber(ARGV[5 + 3 * m + 1]), tonumber(ARGV[5 + 3 * m + 2])
    if limit >= 0 then
        local used = tonumber(redis.call('GET', KEYS[3 + m]) or 0)
        if used + quantity > limit then
            local note = 'refused:' .. ARGV[5 + 3 * m]
            if redis.call('HGET', KEYS[3], note) ~= ARGV[5 + 3 * m + 2] then
                redis.call('HSET', KEYS[3], note, ARGV[5 + 3 * m + 2])
                redis.call('EXPIRE', KEYS[3], ARGV[7])
            end
            return {3, m, used}
        end
    end
end

local reply = {0, 0, -1}
for i = 1, 2 do
    if tats[i] then
        -- Kept only while it matters; at least 1 ms, because 0 would delete it at once.
        redis.call('SET', KEYS[i], string.format('%d', tats[i]), 'PX', math.ceil((tats[i] - now) / 1000) + 1)
    end
end
if tats[1] then
    local interval, tolerance = tonumber(ARGV[2]), tonumber(ARGV[3])
    reply[2] = tats[1] - now
    reply[3] = math.floor(math.max(tolerance - (tats[1] - now), 0) / interval)
end
for m = 1, meters do
    local quantity = ARGV[5 + 3 * m + 1]
    reply[3 + m] = redis.call('INCRBY', KEYS[3 + m], quantity)
    local accepted = redis.call('HINCRBY', KEYS[3], ARGV[6] .. ':' .. ARGV[5 + 3 * m], quantity)
    -- Only once per minute, not with every request.
    if accepted == tonumber(quantity) then
        redis.call('EXPIRE', KEYS[3 + m], ARGV[7])
        redis.call('EXPIRE', KEYS[3], ARGV[7])
    end
end
return reply
