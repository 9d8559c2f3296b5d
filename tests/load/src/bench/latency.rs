//! Percentiles of durations.

use std::time::Duration;

/// A percentile is not shown where fewer values than this lie beyond it.
const BEYOND_MIN: usize = 1;

/// The percentile by nearest rank, in ms, of values in any order. `per_mille` is 500 for the median. `None` if there
/// are too few values to know it: the 99th percentile needs 100, the 999th per mille 1000.
pub(super) fn percentile(values: &[Duration], per_mille: usize) -> Option<f64> {
    let rank = (values.len() * per_mille).div_ceil(1_000).max(1);
    if values.len() < rank || (per_mille > 500 && values.len() - rank < BEYOND_MIN) {
        return None;
    }
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get(rank - 1).map(|value| value.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(values: impl Iterator<Item = u64>) -> Vec<Duration> {
        values.map(Duration::from_millis).collect()
    }

    #[test]
    fn percentiles_are_the_nearest_rank() {
        let values = ms((1..=1_000).rev());
        assert_eq!([500, 990, 999].map(|p| percentile(&values, p)), [Some(500.0), Some(990.0), Some(999.0)]);
        assert_eq!(percentile(&ms([3, 1, 2].into_iter()), 500), Some(2.0));
        assert_eq!(percentile(&ms([7].into_iter()), 500), Some(7.0));
    }

    #[test]
    fn a_percentile_that_too_few_values_tell_is_not_told() {
        assert_eq!(percentile(&[], 500), None);
        assert_eq!(percentile(&ms(1..=99), 990), None);
        assert_eq!(percentile(&ms(1..=100), 990), Some(99.0));
        assert_eq!(percentile(&ms(1..=999), 999), None);
    }
}
