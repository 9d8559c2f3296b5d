//! Which shards a worker should hold. Pure: no I/O, no clock.
//!
//! Every worker computes the whole distribution from what is in Redis (members and holders) and takes its own part of
//! it. Workers that read the same state agree without messages; a worker with an older state wants other shards for a
//! moment, which the leases make harmless, and reads the same state next time.
//!
//! Shares differ by at most one. The workers that hold most get the larger shares, and every worker keeps its shards up
//! to its share, so that no more shards move than must. Every shard that no worker keeps is assigned to exactly one
//! worker.

use std::cmp::Reverse;

use model::shard::{SHARDS, Shard};

/// The holder of each shard, by shard index. The name may be that of a worker that is no longer a member.
pub type Holders = [Option<String>; SHARDS as usize];

/// What a worker should do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Shards that other workers should hold.
    pub give_up: Vec<Shard>,
    /// Shards to acquire; to be tried again while another worker still holds them.
    pub try_for: Vec<Shard>,
}

/// What `me`, which works on the shards `held`, should do; members are sorted. Nothing if `me` is not a member.
pub fn plan(me: &str, members: &[String], held: &[Shard], holders: &Holders) -> Plan {
    let Ok(me) = members.binary_search_by(|member| member.as_str().cmp(me)) else { return Plan::default() };
    let share: Vec<Shard> =
        distribute(members, holders).into_iter().filter(|(_, member)| *member == me).map(|(shard, _)| shard).collect();
    Plan {
        give_up: held.iter().copied().filter(|shard| !share.contains(shard)).collect(),
        try_for: share.into_iter().filter(|shard| !held.contains(shard)).collect(),
    }
}

/// Which member should hold each shard.
fn distribute(members: &[String], holders: &Holders) -> Vec<(Shard, usize)> {
    let shards = usize::from(SHARDS);
    let (share, larger) = (shards / members.len(), shards % members.len());
    let holder = |shard: Shard| {
        let name = holders[shard.index()].as_ref()?;
        members.binary_search(name).ok()
    };
    let mut holding = vec![0; members.len()];
    for member in Shard::all().filter_map(holder) {
        holding[member] += 1;
    }
    // More than a larger share counts as one: the rank of a worker must not change while it gives up shards.
    let mut rank: Vec<usize> = (0..members.len()).collect();
    rank.sort_by_key(|member| (Reverse(holding[*member].min(share + 1)), *member));
    let mut room = vec![share; members.len()];
    for member in rank.iter().take(larger) {
        room[*member] += 1;
    }
    let mut distributed = Vec::with_capacity(shards);
    let mut left = Vec::new();
    for shard in Shard::all() {
        match holder(shard) {
            Some(member) if room[member] > 0 => {
                room[member] -= 1;
                distributed.push((shard, member));
            }
            _ => left.push(shard),
        }
    }
    let takers = rank.iter().flat_map(|member| std::iter::repeat_n(*member, room[*member]));
    distributed.extend(left.into_iter().zip(takers));
    distributed
}

#[cfg(test)]
mod tests;
