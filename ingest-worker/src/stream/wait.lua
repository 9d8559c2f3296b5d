-- Writes to the lease of a shard what the shard waits for.
--
-- KEYS  1  {tracebility:ingest:v1:<n>}:lease   hash: owner, epoch, …; waiting, a word;
--                                              waiting_since, ms since the Unix epoch
-- ARGV  1, 2  the owner and its epoch    3  what it waits for, or "" when it goes on
--       4  how long it has waited, in ms
-- Reply 1

if is_owner(KEYS[1], ARGV[1], ARGV[2]) then
    if ARGV[3] == '' then
        redis.call('HDEL', KEYS[1], 'waiting', 'waiting_since')
    else
        local time = redis.call('TIME')
        local since = time[1] * 1000 + math.floor(time[2] / 1000) - ARGV[4]
        redis.call('HSET', KEYS[1], 'waiting', ARGV[3], 'waiting_since', string.format('%d', since))
    end
end
return 1
