//! Which moves would even out the shards.
//!
//! Greedy: repeatedly move one org from the heaviest shard to the lightest, the one that brings the two closest
//! together. No step makes the heaviest shard heavier, and orgs too small to matter stay: during a move, the org's
//! requests are refused for a moment.

use model::ids::OrgId;
use model::shard::{SHARDS, Shard};
use serde::Serialize;

/// The most moves in one plan.
pub const MOVES_MAX: usize = 100;
/// A move is worth it only if it makes the heavier of the two shards lighter by at least this part of the total: one in
/// so many.
pub const GAIN_MIN_PARTS: u64 = 1_000;

/// One number per shard, by its index.
pub type PerShard = [u64; SHARDS as usize];

/// An org, its shard, and how much it sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// The id of the org.
    pub org_id: OrgId,
    /// The slug of the org.
    pub slug: String,
    /// The org's shard, or its destination if it is moving.
    pub shard: Shard,
    /// How much the org sends, in the same unit for all orgs.
    pub weight: u64,
}

/// A move of one org that would make the shards' weights more even.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Proposal {
    /// The id of the org.
    pub org_id: OrgId,
    /// The slug of the org.
    pub slug: String,
    /// The org's present shard.
    pub from: Shard,
    /// The shard that the org would go to.
    pub to: Shard,
    /// How much the org sends; see [`Load::weight`].
    pub weight: u64,
}

/// The proposed moves, with the weight of each shard before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The present weight of each shard.
    pub now: PerShard,
    /// The weight of each shard after all moves.
    pub after: PerShard,
    /// The moves, in the order in which to make them.
    pub moves: Vec<Proposal>,
}

impl Plan {
    /// Plans at most `moves_max` moves of those orgs.
    pub fn of(loads: &[Load], moves_max: usize) -> Self {
        let mut now = PerShard::default();
        for load in loads {
            now[load.shard.index()] = now[load.shard.index()].saturating_add(load.weight);
        }
        let total = now.iter().fold(0_u64, |sum, n| sum.saturating_add(*n));
        let (mut after, mut moves, mut stays) = (now, Vec::new(), vec![true; loads.len()]);
        while moves.len() < moves_max.min(MOVES_MAX) {
            let heaviest = Shard::all().max_by_key(|shard| after[shard.index()]);
            let lightest = Shard::all().min_by_key(|shard| after[shard.index()]);
            let (Some(from), Some(to)) = (heaviest, lightest) else { break };
            let gap = after[from.index()] - after[to.index()];
            let gain = |weight: u64| weight.min(gap.saturating_sub(weight));
            let candidates = loads.iter().enumerate().filter(|(n, load)| stays[*n] && load.shard == from);
            let Some((n, load)) = candidates.max_by_key(|(_, load)| gain(load.weight)) else { break };
            if gain(load.weight) == 0 || gain(load.weight) < total / GAIN_MIN_PARTS {
                break;
            }
            stays[n] = false;
            after[from.index()] -= load.weight;
            after[to.index()] += load.weight;
            let Load { org_id, slug, weight, .. } = load.clone();
            moves.push(Proposal { org_id, slug, from, to, weight });
        }
        Self { now, after, moves }
    }
}

/// The heaviest shard's weight divided by the mean: 1 is even, [`SHARDS`] means all in one. 1 if there is no load.
pub fn skew(loads: &PerShard) -> f64 {
    let sum: f64 = loads.iter().map(|n| *n as f64).sum();
    let heaviest = loads.iter().max().copied().unwrap_or_default() as f64;
    if sum > 0.0 { heaviest * f64::from(SHARDS) / sum } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use uuid::Uuid;

    use super::*;

    fn load(shard: u8, weight: u64) -> Load {
        let org_id = OrgId(Uuid::new_v4());
        Load { org_id, slug: org_id.to_string(), shard: Shard::new(shard).unwrap(), weight }
    }

    #[test]
    fn two_large_orgs_in_one_shard_are_separated() {
        let mut loads: Vec<_> = (0..SHARDS).map(|shard| load(shard, 100)).collect();
        loads.extend([load(3, 900), load(3, 800)]);
        let plan = Plan::of(&loads, 1);
        assert_eq!(plan.now[3], 1800);
        let [only] = plan.moves.as_slice() else { panic!("{:?}", plan.moves) };
        assert!(only.weight >= 800 && only.from.number() == 3, "{only:?}");
        assert_eq!(plan.after.iter().max(), Some(&1000), "{:?}", plan.after);
        assert!(skew(&plan.after) < skew(&plan.now));
    }

    #[test]
    fn a_plan_moves_nothing_when_no_move_helps() {
        assert_eq!(Plan::of(&[], 9).moves, []);
        assert_eq!(Plan::of(&[load(1, 1_000)], 9).moves, [], "alone in its shard");
        let mut even: Vec<_> = (0..SHARDS).map(|shard| load(shard, 1_000_000)).collect();
        even.push(load(5, 10));
        assert_eq!(Plan::of(&even, 9).moves, [], "too small to matter");
        assert_eq!(Plan::of(&[load(1, 0), load(1, 0)], 9).moves, []);
        assert_eq!((skew(&PerShard::default()), skew(&Plan::of(&[load(1, 7)], 0).now)), (1.0, 16.0));
    }

    #[test]
    fn a_plan_never_increases_skew_or_loses_load() {
        let mut random = StdRng::seed_from_u64(7);
        for _ in 0..200 {
            let orgs = random.random_range(0..300);
            let loads: Vec<_> =
                (0..orgs).map(|_| load(random.random_range(0..SHARDS), 1 << random.random_range(0..40))).collect();
            let mut skews = Vec::new();
            for moves in 0..8 {
                let plan = Plan::of(&loads, moves);
                assert!(plan.moves.len() <= moves);
                assert_eq!(plan.now.iter().sum::<u64>(), plan.after.iter().sum::<u64>());
                let mut after = plan.now;
                for step in &plan.moves {
                    after[step.from.index()] -= step.weight;
                    after[step.to.index()] += step.weight;
                }
                assert_eq!(after, plan.after, "the moves are what makes the difference");
                skews.push(skew(&plan.after));
            }
            assert!(skews.is_sorted_by(|before, after| before >= after), "{skews:?}");
        }
    }
}
