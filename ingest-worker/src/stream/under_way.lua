-- Returns the batch that is under way, if any.
--
-- KEYS  1  {tracebility:ingest:v1:<n>}:intent
-- Reply nil or {ms since it was announced, by Redis' clock, {field, value, …}}

local fields = redis.call('HGETALL', KEYS[1])
local announced
local has_body = false
for i = 1, #fields, 2 do
    if fields[i] == 'announced' then
        announced = tonumber(fields[i + 1])
    end
    has_body = has_body or fields[i] == 'body'
end
if not has_body then
    return false
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- A batch without a time counts as announced long ago.
return {announced and math.max(now - announced, 0) or now, fields}
