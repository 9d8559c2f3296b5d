//! Times that cannot be true. They are kept as they were sent, and the span says what is wrong with them: a reader that
//! computes durations or sorts by time can leave such spans out, and nobody is shown "now" for a time that nobody sent.
//!
//! Rows are partitioned by the time we received them, so that no client's clock can make a partition.

use std::borrow::Cow;

use schema::model::{Attribute, Span, UnixNanos, Value};

/// The attribute that says what is wrong with a span's times.
pub const TIME_FLAG: &str = "tracebility.time_flag";

const DAY: UnixNanos = 86_400 * 1_000_000_000;
/// How far ahead of us a client's clock may be.
pub const FUTURE_MAX: UnixNanos = DAY;
/// How long ago a span may have begun. Older data can be meant, as in an import, and is flagged all the same.
pub const PAST_MAX: UnixNanos = 366 * DAY;

/// What is wrong with a span's times, if anything; the first that holds.
pub(super) fn flag(start: UnixNanos, end: UnixNanos, received_at: UnixNanos) -> Option<&'static str> {
    let latest = received_at.saturating_add(FUTURE_MAX);
    match (start, end) {
        (0, _) => Some("no_start"),
        (_, 0) => Some("no_end"),
        (start, end) if start > latest || end > latest => Some("far_future"),
        (start, _) if start < received_at.saturating_sub(PAST_MAX) => Some("far_past"),
        (start, end) if end < start => Some("end_before_start"),
        _ => None,
    }
}

/// Flags a span.
pub(super) fn apply(span: &mut Span<'_>, received_at: UnixNanos) -> Option<&'static str> {
    let flag = flag(span.start_time, span.end_time, received_at)?;
    span.attributes.push(attribute(flag));
    Some(flag)
}

/// The flag as an attribute.
pub(super) fn attribute(flag: &'static str) -> Attribute<'static> {
    Attribute { key: Cow::Borrowed(TIME_FLAG), value: Value::Str(Cow::Borrowed(flag)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_cannot_be_true_are_flagged() {
        const NOW: UnixNanos = 1_795_248_000_000_000_000;
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
            assert_eq!(flag(start, end, NOW), wanted, "{start} to {end}");
        }
    }
}
