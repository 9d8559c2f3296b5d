-- Refunds what `admit.lua` charged to the monthly meters, for a request that could not be stored. The rates keep their
-- charge: the request was made.
--
-- KEYS  1  {org}:quota:<period>:recent       2… {org}:quota:<period>:<meter>
-- ARGV  1  minute of acceptance              2… per meter two: its name, the quantity
-- Reply 0
--
-- If the reconciler has reset a counter since, that may lack the charge already; a counter is never set below 0.

for m = 1, #KEYS - 1 do
    local name, quantity = ARGV[2 * m], tonumber(ARGV[2 * m + 1])
    local field = ARGV[1] .. ':' .. name
    local accepted = tonumber(redis.call('HGET', KEYS[1], field) or 0)
    local back = math.min(quantity, accepted)
    if back > 0 then
        redis.call('HINCRBY', KEYS[1], field, -back)
        local used = tonumber(redis.call('GET', KEYS[m + 1]) or 0)
        redis.call('DECRBY', KEYS[m + 1], math.min(back, used))
    end
end
return 0
