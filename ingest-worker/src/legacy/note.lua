#!lua flags=allow-oom
-- Notes where entries of the legacy stream go, before they are appended there. An earlier note stays.
--
-- KEYS  1  tracebility:ingest:v1      2  {tracebility:ingest:v1}:moving   hash: entry -> where it is going
-- ARGV  per entry: its id, where it is to go, and the note that this takes the place of, or ""
-- Reply per entry where it goes; "" if it is not in the stream any more: then another worker has moved it, and it must
--       not be appended
--
-- Runs on a full Redis (allow-oom), because moving entries on is what empties Redis.

local noted = {}
for i = 1, #ARGV, 3 do
    local id, to, instead_of = ARGV[i], ARGV[i + 1], ARGV[i + 2]
    local before = redis.call('HGET', KEYS[2], id) or ''
    if #redis.call('XRANGE', KEYS[1], id, id) == 0 then
        to = ''
    elseif before ~= instead_of then
        to = before
    elseif before ~= to then
        redis.call('HSET', KEYS[2], id, to)
    end
    noted[#noted + 1] = to
end
return noted
