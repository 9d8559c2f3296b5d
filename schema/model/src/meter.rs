//! What is counted and billed, and the calendar month it belongs to.

use crate::trace::UnixNanos;
use crate::words;

words! {
    /// What is counted per org and calendar month.
    Meter, "meter" {
        /// Number of runs and spans that were stored.
        SpanIngested = "span_ingested",
        /// Number of uncompressed bytes of requests.
        SpanBytes = "span_bytes",
        /// Number of calls of a model that evaluates.
        EvalJudgeCall = "eval_judge_call",
        /// Number of tokens of models that evaluate.
        EvalJudgeTokens = "eval_judge_tokens",
        /// Number of replays of runs.
        ReplayRun = "replay_run",
    }
}

impl Meter {
    /// The meters that ingest is charged to, in the order of the arguments of `admit.lua`.
    pub const INGEST: [Self; 2] = [Self::SpanIngested, Self::SpanBytes];
}

/// The calendar month (UTC) of an instant, as `YYYYMM`.
pub fn period(at: UnixNanos) -> u32 {
    const NANOS_PER_DAY: i64 = 86_400_000_000_000;
    // Days to calendar date; H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
    let days = at.div_euclid(NANOS_PER_DAY) + 719_468;
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + days.div_euclid(146_097) * 400 + i64::from(month <= 2);
    u32::try_from(year * 100 + month).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn period_is_the_utc_month() {
        for (seconds, want) in [
            (0, 197_001),
            (951_782_399, 200_002),
            (951_868_799, 200_002),
            (951_868_800, 200_003),
            (1_798_761_599, 202_612),
            (1_798_761_600, 202_701),
        ] {
            assert_eq!(period(seconds * 1_000_000_000), want, "{seconds}");
        }
    }
}
