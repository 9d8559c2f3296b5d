-- Puts a dead letter back into the stream that it comes from.
--
-- KEYS  1  …:dlq    2  …:dlq:bytes    3  tracebility:ingest:v1:<n>
-- ARGV  1  the letter's id    2  the field    3  the envelope, limited to the rows that are not stored
-- Reply 1  it is in the stream    0  there is no such letter

if not take(KEYS[1], KEYS[2], ARGV[1]) then
    return 0
end
redis.call('XADD', KEYS[3], '*', ARGV[2], ARGV[3])
return 1
