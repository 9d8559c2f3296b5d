#!lua flags=allow-oom
-- Records how many items of an org a batch parked, dropped or did not bill.
--
-- KEYS  1  a hash: field of the batch -> items
-- ARGV  1  how long the hash is kept, s    2  the field    3  the items
--
-- A repeated batch gives the same count. A late repetition may find fewer items or none, so the largest count is kept.

if tonumber(redis.call('HGET', KEYS[1], ARGV[2]) or 0) < tonumber(ARGV[3]) then
    redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
