//! Parses times and durations as people write them.

use std::time::Duration;

use service::settings::parse;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Date, OffsetDateTime};

/// The longest accepted duration, in milliseconds: ten years. A longer one is probably a typing mistake.
const SPAN_MAX_MS: u64 = 10 * 366 * 86_400_000;

/// A time: `90d` from now, the beginning of the day `2027-01-31` in UTC, or `2027-01-31T12:00:00Z`.
pub(crate) fn moment(text: &str) -> Result<OffsetDateTime, String> {
    let at = if let Ok(span) = span(text) {
        time::Duration::try_from(span).ok().and_then(|span| OffsetDateTime::now_utc().checked_add(span))
    } else if let Ok(day) = Date::parse(text, format_description!("[year]-[month]-[day]")) {
        Some(day.midnight().assume_utc())
    } else {
        OffsetDateTime::parse(text, &Rfc3339).ok()
    };
    at.ok_or_else(|| {
        "is no moment: use a span such as 90d, a day such as 2027-01-31 (its beginning, in UTC) or a time such as \
         2027-01-31T12:00:00Z"
            .to_owned()
    })
}

/// A duration: a whole number and `s`, `m`, `h` or `d`.
pub(crate) fn span(text: &str) -> Result<Duration, String> {
    parse::duration::<0, SPAN_MAX_MS>(text)
        .map_err(|_| "is no span of time: a whole number and s, m, h or d, such as 24h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_three_forms() {
        let in_minutes = |text| (moment(text).unwrap() - OffsetDateTime::now_utc()).whole_minutes();
        assert_eq!(in_minutes("90d"), 90 * 24 * 60 - 1);
        assert_eq!(moment("2027-01-31").unwrap().to_string(), "2027-01-31 0:00:00.0 +00:00:00");
        assert_eq!(moment("2027-01-31T12:00:00+01:00").unwrap().to_string(), "2027-01-31 12:00:00.0 +01:00:00");
        for bad in ["", "soon", "90", "2027-02-30", "2027-01-31T12:00:00", "-1d", "99999999999999999999d", "5000d"] {
            assert!(moment(bad).unwrap_err().starts_with("is no moment"), "{bad}");
        }
    }

    #[test]
    fn time_spans_need_a_unit() {
        assert_eq!(span("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(span("0s"), Ok(Duration::ZERO));
        for bad in ["", "24", "-1h", "1w", "5000d"] {
            assert!(span(bad).is_err(), "{bad}");
        }
    }
}
