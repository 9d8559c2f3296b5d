#!lua flags=allow-oom
-- Records that a worker is alive, and returns all workers that are.
--
-- KEYS  1  tracebility:ingest:workers   zset: worker -> its last sign of life, ms since the Unix epoch
-- ARGV  1  the worker      2  after how long without a sign of life a worker is no member any more, ms
-- Reply the members, the caller among them, sorted by name
--
-- Workers that were silent for longer are deleted. Also runs on a full Redis (allow-oom), which only workers can empty.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], string.format('%d', now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%d', now - ARGV[2]))
local members = redis.call('ZRANGE', KEYS[1], 0, -1)
table.sort(members)
return members
