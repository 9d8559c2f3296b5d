#!lua flags=allow-oom
-- Notes how many items of an org a batch sets aside.
--
-- KEYS  1  a hash: field of the batch -> items
-- ARGV  1  how long the hash is kept, s    2  the field    3  the items
--
-- A batch always sets the same aside. Who comes late finds a part of it, or nothing: the most that anyone found is what it was.

if tonumber(redis.call('HGET', KEYS[1], ARGV[2]) or 0) < tonumber(ARGV[3]) then
    redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
