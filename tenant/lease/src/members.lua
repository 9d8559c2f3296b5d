#!lua flags=allow-oom
-- Notes that a worker lives, and says which do.
--
-- KEYS  1  tracebility:ingest:workers   zset: worker -> when it was heard last, ms since the Unix epoch
-- ARGV  1  the worker      2  how long one may be silent, ms
-- Reply those that were heard within that time, the asker among them, sorted by name
--
-- Whoever was silent for longer is forgotten. Runs on a full Redis too (allow-oom), which only workers can empty.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], string.format('%d', now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%d', now - ARGV[2]))
local members = redis.call('ZRANGE', KEYS[1], 0, -1)
table.sort(members)
return members
