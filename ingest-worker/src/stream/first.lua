#!lua flags=no-writes,allow-oom
-- Says which entry of a stream is the first, without sending what is in it.
--
-- KEYS  1  tracebility:ingest:v1:<n>
-- Reply its id, or nil

local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
return first and first[1]
