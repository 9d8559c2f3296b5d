//! Times as LangSmith's SDKs write them.

use schema::model::UnixNanos;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// ISO 8601 with an offset, with `Z`, or without (then it is UTC), or a number of milliseconds since 1970. `None` if it is
/// neither, or before 1678 or after 2262.
pub(super) fn read(raw: &RawValue) -> Option<UnixNanos> {
    match serde_json::from_str::<String>(raw.get()) {
        Ok(text) => read_text(text.trim()),
        Err(_) => read_millis(raw.get()),
    }
}

fn read_text(text: &str) -> Option<UnixNanos> {
    let (date, time) = text.split_at_checked(10)?;
    let time = time.strip_prefix(['T', 't', ' '])?;
    let zone = if time.ends_with(['Z', 'z']) || time.contains(['+', '-']) { "" } else { "Z" };
    let at = OffsetDateTime::parse(&format!("{date}T{time}{zone}"), &Rfc3339).ok()?;
    at.unix_timestamp_nanos().try_into().ok()
}

fn read_millis(text: &str) -> Option<UnixNanos> {
    if let Ok(whole) = text.parse::<i64>() {
        return whole.checked_mul(1_000_000);
    }
    let millis = text.parse::<f64>().ok()?;
    // Past this a fraction of a millisecond is lost in the number itself.
    const MILLIS_MAX: f64 = 9_223_372_036_854.0;
    (millis.abs() <= MILLIS_MAX).then(|| millis.trunc() as i64 * 1_000_000 + (millis.fract() * 1e6).round() as i64)
}

/// The path of a run that is its own root: what the SDK would have sent.
pub(super) fn root_path(start_time: UnixNanos, id: uuid::Uuid) -> String {
    let at = OffsetDateTime::from_unix_timestamp_nanos(start_time.into()).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    let (hour, minute, second) = (at.hour(), at.minute(), at.second());
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}{:06}Z{id}", at.microsecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_that_sdks_send() {
        for (json, nanos) in [
            (r#""2026-01-02T03:04:05.678901+00:00""#, 1_767_323_045_678_901_000),
            (r#""2026-01-02T05:04:05.678901+02:00""#, 1_767_323_045_678_901_000),
            (r#""2026-01-02T03:04:05.678901""#, 1_767_323_045_678_901_000),
            (r#""2026-01-02 03:04:05""#, 1_767_323_045_000_000_000),
            (r#""2026-01-02T03:04:05.678Z""#, 1_767_323_045_678_000_000),
            ("1767323045678", 1_767_323_045_678_000_000),
            ("1767323045678.5", 1_767_323_045_678_500_000),
        ] {
            assert_eq!(read(serde_json::from_str(json).unwrap()), Some(nanos), "{json}");
        }
        for json in
            [r#""""#, r#""yesterday""#, r#""2026-01-02""#, "true", "[]", "1e300", "9223372036854775807", r#""ééééééé""#]
        {
            assert_eq!(read(serde_json::from_str(json).unwrap()), None, "{json}");
        }
    }

    #[test]
    fn a_root_has_the_path_that_the_sdk_would_send() {
        let id: uuid::Uuid = "01a1fca2-6eb8-7760-82cf-990515cae231".parse().unwrap();
        let path = root_path(1_795_239_866_040_845_000, id);
        assert_eq!(path, "20261121T054426040845Z01a1fca2-6eb8-7760-82cf-990515cae231");
    }
}
