//! Which shards a worker should have. Pure: no I/O, no clock.
//!
//! Every worker computes the whole distribution from what is in Redis (who lives, who holds what) and takes its own
//! part of it. Those who see the same agree without a word; who sees something older wants something else for a moment,
//! which the leases make harmless, and sees the same at its next look.
//!
//! Shares differ by at most one. Whoever holds most already gets the larger ones, and everybody keeps what it holds up
//! to its share, so that no more shards move than must. A shard that nobody keeps is meant for exactly one worker.

use std::cmp::Reverse;

use model::shard::{SHARDS, Shard};

/// Who holds which shard, by its index. The name may be that of one who is not a member any more.
pub type Holders = [Option<String>; SHARDS as usize];

/// What to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Shards that others should have.
    pub give_up: Vec<Shard>,
    /// Shards to ask for, and to ask for again while another still holds them.
    pub try_for: Vec<Shard>,
}

/// What `me` should do, who works on the shards `held`; members are sorted. Where it is not a member itself, nothing.
pub fn plan(me: &str, members: &[String], held: &[Shard], holders: &Holders) -> Plan {
    let Ok(me) = members.binary_search_by(|member| member.as_str().cmp(me)) else { return Plan::default() };
    let share: Vec<Shard> =
        distribute(members, holders).into_iter().filter(|(_, member)| *member == me).map(|(shard, _)| shard).collect();
    Plan {
        give_up: held.iter().copied().filter(|shard| !share.contains(shard)).collect(),
        try_for: share.into_iter().filter(|shard| !held.contains(shard)).collect(),
    }
}

/// Which member should have each shard.
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
    // More than a larger share counts as one: who has too much must not change its rank while it gives up.
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
