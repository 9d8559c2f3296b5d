#!lua flags=allow-oom
-- Acquires the lease of a shard, if no other worker has it.
--
-- KEYS  1  {tracebility:ingest:v1:<n>}:lease   hash: owner, epoch, until (ms since the Unix epoch), crashes
-- ARGV  1  the caller      2  for how long, ms
-- Reply {0, its owner, for how many ms more, 0}      another has it
--       {1, "", epoch, crashes}                    taken: it was free, or the asker's already
--       {2, the former owner, epoch, crashes}      taken over: the former owner let it run out
--
-- Every acquisition gives the lease a new epoch, even to the owner of a lease that still runs: a reply may have been
-- lost, or a failover may have restored a lease that its owner had released, and no worker may continue under an epoch
-- that was used before.
--
-- The epoch is the time in ms, or the last epoch plus one if that is larger. So it grows on one server. After a
-- failover that lost the last lease it still differs from every earlier one, unless the new primary's clock is behind
-- by more than the failover took. Owners' names differ as well, and every script compares both. The epoch is never
-- deleted. Also runs on a full Redis (allow-oom), which only workers can empty.
--
-- Crashes: how many owners in a row ended without releasing the lease, or by a panic. An owner that finishes the
-- waiting work resets them (crash_recovery/forget_crashes.lua).

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lease = redis.call('HMGET', KEYS[1], 'owner', 'epoch', 'until')
local owner, epoch, ends = lease[1], tonumber(lease[2] or 0), tonumber(lease[3] or 0)

local runs = owner and ends > now
if runs and owner ~= ARGV[1] then
    return {0, owner, ends - now, 0}
end
epoch = math.max(epoch + 1, now)
redis.call('HDEL', KEYS[1], 'waiting', 'waiting_since')
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'epoch', string.format('%d', epoch),
    'until', string.format('%d', now + ARGV[2]))
if owner and not runs then
    return {2, owner, epoch, redis.call('HINCRBY', KEYS[1], 'crashes', 1)}
end
return {1, '', epoch, tonumber(redis.call('HGET', KEYS[1], 'crashes') or 0)}
