#!lua flags=no-writes,allow-oom
-- Returns the id of the first entry of a stream, without its bytes.
--
-- KEYS  1  tracebility:ingest:v1:<n>
-- Reply its id, or nil

local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
return first and first[1]
