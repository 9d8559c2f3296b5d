//! Times that cannot be true. They are stored as they were sent, and an attribute of the run or span says what is wrong
//! with them. So a reader that computes durations or sorts by time can leave such spans out, and a time that the client
//! did not send is not replaced by the current time.
//!
//! Rows are partitioned by the time at which we received them, so that a client's clock cannot make a partition.

use std::borrow::Cow;

use model::trace::{Attribute, UnixNanos, Value};

/// The attribute that says what is wrong with a span's times.
pub const TIME_FLAG: &str = "tracebility.time_flag";

const DAY: UnixNanos = 86_400 * 1_000_000_000;
/// How far a client's clock may be ahead of ours.
pub const FUTURE_MAX: UnixNanos = DAY;
/// How long ago a span may have begun. Older data can be correct, as in an import, and is flagged as well.
pub const PAST_MAX: UnixNanos = 366 * DAY;

/// How much earlier than its start a write may end, because JavaScript's SDK uses the last three digits of a start as a
/// counter.
const START_COUNTER_MAX: UnixNanos = 999_999;

/// The flag for the times of a span that has ended, if something is wrong; the first reason that applies.
pub fn of_span(start: UnixNanos, end: UnixNanos, received_at: UnixNanos) -> Option<Attribute<'static>> {
    let flag = match (start, end) {
        (0, _) => Some("no_start"),
        (_, 0) => Some("no_end"),
        (start, end) => impossible(start, end, received_at).or_else(|| (end < start).then_some("end_before_start")),
    };
    flag.map(attribute)
}

/// The same for a run or span that may not have ended, or for a write with only some of the times: 0 is "not given".
pub fn of_write(start: UnixNanos, end: UnixNanos, received_at: UnixNanos) -> Option<Attribute<'static>> {
    let reversed = start != 0 && end != 0 && end < start.saturating_sub(START_COUNTER_MAX);
    impossible(start, end, received_at).or_else(|| reversed.then_some("end_before_start")).map(attribute)
}

fn impossible(start: UnixNanos, end: UnixNanos, received_at: UnixNanos) -> Option<&'static str> {
    let latest = received_at.saturating_add(FUTURE_MAX);
    let earliest = received_at.saturating_sub(PAST_MAX);
    match start {
        start if start > latest || end > latest => Some("far_future"),
        start if start != 0 && start < earliest => Some("far_past"),
        _ => None,
    }
}

/// The flag as an attribute.
fn attribute(flag: &'static str) -> Attribute<'static> {
    Attribute { key: Cow::Borrowed(TIME_FLAG), value: Value::Str(Cow::Borrowed(flag)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixNanos = 1_795_248_000_000_000_000;

    #[test]
    fn implausible_times_are_flagged() {
        for (start, end, wanted) in [
            (NOW - 5, NOW, None),
            (NOW, NOW, None),
            (NOW + FUTURE_MAX, NOW + FUTURE_MAX, None),
            (NOW - PAST_MAX, NOW, None),
            (0, NOW, Some("no_start")),
            (0, 0, Some("no_start")),
            (NOW, 0, Some("no_end")),
            (NOW, NOW - 1, Some("end_before_start")),
            (NOW, NOW + FUTURE_MAX + 1, Some("far_future")),
            (UnixNanos::MAX, UnixNanos::MAX, Some("far_future")),
            (NOW - PAST_MAX - 1, NOW, Some("far_past")),
            (1, 2, Some("far_past")),
        ] {
            assert_eq!(of_span(start, end, NOW), wanted.map(attribute), "{start} to {end}");
        }
    }

    #[test]
    fn a_write_without_a_start_or_end_is_not_flagged_for_it() {
        for (start, end, wanted) in [
            (0, 0, None),
            (NOW, 0, None),
            (0, NOW, None),
            (NOW, NOW - START_COUNTER_MAX, None),
            (NOW, NOW - START_COUNTER_MAX - 1, Some("end_before_start")),
            (0, NOW + FUTURE_MAX + 1, Some("far_future")),
            (NOW - PAST_MAX - 1, 0, Some("far_past")),
            (-1, 0, Some("far_past")),
        ] {
            assert_eq!(of_write(start, end, NOW), wanted.map(attribute), "{start} to {end}");
        }
    }
}
