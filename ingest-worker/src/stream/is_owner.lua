-- Whether that worker owns the shard. This text is put before the scripts that only a shard's owner may run.
--
-- Both owner and epoch are compared: after a failover to a replica that lagged behind, an epoch can be given a second
-- time.
local function is_owner(lease, owner, epoch)
    local found = redis.call('HMGET', lease, 'owner', 'epoch')
    return found[1] == owner and found[2] == epoch
end

-- Whether the batch under way is the one that was announced under that owner, epoch and number.
local function is_under_way(intent, owner, epoch, number)
    local found = redis.call('HMGET', intent, 'owner', 'epoch', 'number', 'body')
    return found[4] and found[1] == owner and found[2] == epoch and found[3] == number
end
