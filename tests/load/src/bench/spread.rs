//! Which org sends the next request.

use rand::Rng;
use rand::rngs::StdRng;

use super::options::Spread;

/// With it, the hottest of 16 shards carries about a third of the load of 200 orgs.
const ZIPF_EXPONENT: f64 = 1.2;

/// Chooses orgs, by their number from 0.
#[derive(Clone, Debug)]
pub(super) struct Chooser {
    /// For each org, the share of requests of it and all before.
    shares: Vec<f64>,
}

impl Chooser {
    /// Chooses among so many orgs.
    pub(super) fn new(spread: Spread, orgs: usize) -> Self {
        let weight = |org: usize| match spread {
            Spread::Uniform => 1.0,
            Spread::Zipf => (org as f64 + 1.0).powf(-ZIPF_EXPONENT),
        };
        let all: f64 = (0..orgs).map(weight).sum();
        let mut so_far = 0.0;
        let share = |org| {
            so_far += weight(org) / all;
            so_far
        };
        Self { shares: (0..orgs).map(share).collect() }
    }

    /// The org of the next request.
    pub(super) fn choose(&self, rng: &mut StdRng) -> usize {
        let at = rng.random::<f64>();
        self.shares.partition_point(|share| *share <= at).min(self.shares.len().saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn counts(spread: Spread, orgs: usize, draws: usize) -> Vec<usize> {
        let (chooser, mut rng) = (Chooser::new(spread, orgs), StdRng::seed_from_u64(1));
        let mut counts = vec![0; orgs];
        (0..draws).for_each(|_| counts[chooser.choose(&mut rng)] += 1);
        counts
    }

    #[test]
    fn zipf_gives_the_second_org_what_its_rank_says() {
        let counts = counts(Spread::Zipf, 100, 100_000);
        let ratio = counts[0] as f64 / counts[1] as f64;
        assert!((2.1..2.5).contains(&ratio), "2^1.2 is 2.3, not {ratio}");
        assert!(counts[0] > 20_000 && counts[99] < 500, "{counts:?}");
    }

    #[test]
    fn uniform_gives_every_org_as_much() {
        assert!(counts(Spread::Uniform, 10, 100_000).iter().all(|count| (9_500..10_500).contains(count)));
        assert_eq!(counts(Spread::Uniform, 1, 5), [5]);
    }
}
