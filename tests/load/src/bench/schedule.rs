//! When an open loop sends: at times that were set before, however long the answers take.

use std::time::Duration;

/// Evenly spaced sends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    /// Requests per second.
    rate: f64,
}

impl Schedule {
    /// Sends so many requests per second; at least one per hour.
    pub(super) fn new(rate: f64) -> Self {
        Self { rate: rate.max(1.0 / 3_600.0) }
    }

    /// When request number `n`, from 0, is to be sent, counted from the beginning.
    pub(super) fn at(&self, n: usize) -> Duration {
        Duration::from_secs_f64(n as f64 / self.rate)
    }

    /// How many requests fit into that time.
    pub(super) fn within(&self, time: Duration) -> usize {
        (self.rate * time.as_secs_f64()) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sends_are_evenly_spaced_and_do_not_drift() {
        let schedule = Schedule::new(16.0);
        assert_eq!(schedule.at(0), Duration::ZERO);
        assert_eq!(schedule.at(1), Duration::from_micros(62_500));
        assert_eq!(schedule.at(16 * 3_600), Duration::from_secs(3_600));
        assert_eq!(schedule.within(Duration::from_secs(30)), 480);
    }

    #[test]
    fn a_rate_of_nothing_is_not_divided_by() {
        assert!(Schedule::new(0.0).at(1) <= Duration::from_secs(3_600));
    }
}
