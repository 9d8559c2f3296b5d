//! The generic cell rate algorithm (GCRA) as a pure function of time. `admit.lua` computes the same in Redis, and is
//! tested against this model.
//!
//! All values are whole microseconds, without floating point. The state of a limiter is one number, the theoretical
//! arrival time (TAT) of the next request. A request moves the TAT forward by its cost. It may pass if the TAT is then
//! at most one whole burst ahead of now. Source: ITU-T I.371, virtual scheduling.

use std::time::Duration;

const MICROS_PER_SECOND: i64 = 1_000_000;

/// A rate limit as a plan states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Every request passes: the plan has a negative rate or burst.
    Unlimited,
    /// No request ever passes: the plan has a rate or a burst of 0.
    Forbidden,
    /// Requests pass up to this rate and burst.
    Rate(Rate),
}

/// A sustained rate in units per second, and a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    /// Time that one unit costs, in µs. At least 1.
    interval_us: i64,
    /// Most units that may pass at once. At least 1.
    burst: i64,
}

/// Whether a request passes, and if not, when it would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The request passes, and `tat_us` is the limiter's new state.
    Pass {
        /// The new theoretical arrival time, in µs.
        tat_us: i64,
    },
    /// The request does not pass now; the same request would pass after this time.
    Wait(Duration),
    /// The request never passes: it costs more than a whole burst.
    Never,
}

impl Limit {
    /// The limit that a plan's `rps` and `burst` state, where −1 is unlimited and 0 forbids.
    pub const fn of_plan(per_second: i32, burst: i32) -> Self {
        if per_second == 0 || burst == 0 {
            Self::Forbidden
        } else if per_second < 0 || burst < 0 {
            Self::Unlimited
        } else {
            Self::Rate(Rate::new(per_second, burst))
        }
    }
}

impl Rate {
    /// Both arguments must be at least 1.
    const fn new(per_second: i32, burst: i32) -> Self {
        let interval_us = MICROS_PER_SECOND / per_second as i64;
        Self { interval_us: if interval_us < 1 { 1 } else { interval_us }, burst: burst as i64 }
    }

    /// Units per second, rounded.
    pub const fn per_second(&self) -> i64 {
        MICROS_PER_SECOND / self.interval_us
    }

    /// Time that one unit costs, in µs.
    pub const fn interval_us(&self) -> i64 {
        self.interval_us
    }

    /// Most units that may pass at once.
    pub const fn burst(&self) -> i64 {
        self.burst
    }

    /// How far the theoretical arrival time may be ahead of now, in µs.
    pub const fn tolerance_us(&self) -> i64 {
        self.interval_us * self.burst
    }

    /// Whether `cost` units pass at `now_us` with a limiter whose theoretical arrival time is `tat_us` (0 if it was
    /// never used).
    pub fn decide(&self, tat_us: i64, now_us: i64, cost: i64) -> Decision {
        if cost > self.burst {
            return Decision::Never;
        }
        let tat_us = tat_us.max(now_us) + cost * self.interval_us;
        let early_us = tat_us - now_us - self.tolerance_us();
        if early_us > 0 {
            return Decision::Wait(Duration::from_micros(early_us.unsigned_abs()));
        }
        Decision::Pass { tat_us }
    }

    /// How many units would pass together at `now_us`.
    pub fn remaining(&self, tat_us: i64, now_us: i64) -> i64 {
        let ahead_us = (tat_us - now_us).max(0);
        (self.tolerance_us() - ahead_us).max(0) / self.interval_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000_000_000;

    fn rate(per_second: i32, burst: i32) -> Rate {
        match Limit::of_plan(per_second, burst) {
            Limit::Rate(rate) => rate,
            other => panic!("{other:?}"),
        }
    }

    /// How many of `tries` requests at the same time pass.
    fn passing(rate: &Rate, tat: &mut i64, now: i64, tries: usize) -> usize {
        (0..tries)
            .filter(|_| match rate.decide(*tat, now, 1) {
                Decision::Pass { tat_us } => {
                    *tat = tat_us;
                    true
                }
                _ => false,
            })
            .count()
    }

    #[test]
    fn exactly_a_burst_passes_at_once_and_then_the_rate() {
        let rate = rate(50, 200);
        let mut tat = 0;
        assert_eq!(passing(&rate, &mut tat, NOW, 1000), 200);
        assert_eq!(passing(&rate, &mut tat, NOW + 20_000, 10), 1);
        assert_eq!(passing(&rate, &mut tat, NOW + 39_999, 10), 0);
        assert_eq!(passing(&rate, &mut tat, NOW + 40_000, 10), 1);
        assert_eq!(passing(&rate, &mut tat, NOW + 1_040_000, 1000), 50);
        assert_eq!(passing(&rate, &mut tat, NOW + 3_600_000_000, 1000), 200, "rest saves up one burst, not more");
    }

    #[test]
    fn the_retry_wait_is_exact() {
        let rate = rate(10, 5);
        let mut tat = 0;
        passing(&rate, &mut tat, NOW, 5);
        let Decision::Wait(wait) = rate.decide(tat, NOW, 1) else { panic!("the burst is used up") };
        assert_eq!(wait, Duration::from_millis(100));
        let after = NOW + 100_000;
        assert!(matches!(rate.decide(tat, after - 1, 1), Decision::Wait(_)));
        assert!(matches!(rate.decide(tat, after, 1), Decision::Pass { .. }));
    }

    #[test]
    fn a_cost_of_the_whole_burst_passes_and_one_more_never_will() {
        let rate = rate(10, 5);
        assert!(matches!(rate.decide(0, NOW, 5), Decision::Pass { .. }));
        assert_eq!(rate.decide(0, NOW, 6), Decision::Never);
        assert_eq!((rate.remaining(0, NOW), rate.remaining(NOW + 200_000, NOW)), (5, 3));
    }

    #[test]
    fn a_limit_of_zero_forbids_and_minus_one_is_unlimited() {
        for (rps, burst, limit) in
            [(0, 5, Limit::Forbidden), (5, 0, Limit::Forbidden), (-1, 5, Limit::Unlimited), (5, -1, Limit::Unlimited)]
        {
            assert_eq!(Limit::of_plan(rps, burst), limit);
        }
        assert_eq!(rate(i32::MAX, 1).interval_us(), 1);
    }
}
