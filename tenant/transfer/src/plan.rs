//! Which moves would even out the shards.
//!
//! Greedy: again and again the heaviest shard gives one org to the lightest, the one that brings the two closest
//! together. No step makes the heaviest shard heavier, and orgs too small to matter stay where they are: every move
//! refuses somebody for a moment.

use model::ids::OrgId;
use serde::Serialize;

use model::shard::{SHARDS, Shard};

/// Moves in one plan, at most.
pub const MOVES_MAX: usize = 100;
/// A move is worth it if it brings the heavier of two shards down by this part of all there is: one in so many.
pub const GAIN_MIN_PARTS: u64 = 1_000;

/// A number per shard.
pub type PerShard = [u64; SHARDS as usize];

/// An org, where it is, and what it sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// The org.
    pub org_id: OrgId,
    /// Its slug.
    pub slug: String,
    /// Where it is, or where it goes if it is moving.
    pub shard: Shard,
    /// What it weighs, in whatever unit all of them are counted in.
    pub weight: u64,
}

/// A move that would help.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Proposal {
    /// The org.
    pub org_id: OrgId,
    /// Its slug.
    pub slug: String,
    /// Where it is.
    pub from: Shard,
    /// Where it should go.
    pub to: Shard,
    /// What it weighs.
    pub weight: u64,
}

/// What the shards have now, and what they would have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// As it is.
    pub now: PerShard,
    /// After all moves.
    pub after: PerShard,
    /// In this order.
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

/// How many times the mean the heaviest shard has: 1 is even, [`SHARDS`] is all in one. 1 when there is nothing.
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
    fn two_large_orgs_in_one_shard_are_parted() {
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
    fn what_cannot_be_helped_is_left_alone() {
        assert_eq!(Plan::of(&[], 9).moves, []);
        assert_eq!(Plan::of(&[load(1, 1_000)], 9).moves, [], "alone in its shard");
        let mut even: Vec<_> = (0..SHARDS).map(|shard| load(shard, 1_000_000)).collect();
        even.push(load(5, 10));
        assert_eq!(Plan::of(&even, 9).moves, [], "too small to matter");
        assert_eq!(Plan::of(&[load(1, 0), load(1, 0)], 9).moves, []);
        assert_eq!((skew(&PerShard::default()), skew(&Plan::of(&[load(1, 7)], 0).now)), (1.0, 16.0));
    }

    #[test]
    fn no_plan_makes_it_worse_and_none_loses_weight() {
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
