//! Formats times for the paths (`dotted_order`) of LangSmith's runs.

use model::trace::UnixNanos;
use time::OffsetDateTime;

/// The path of a run that is its own root, as the SDK would have sent it.
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
    fn a_root_run_gets_the_dotted_order_that_the_sdk_would_send() {
        let id: uuid::Uuid = "01a1fca2-6eb8-7760-82cf-990515cae231".parse().unwrap();
        let path = root_path(1_795_239_866_040_845_000, id);
        assert_eq!(path, "20261121T054426040845Z01a1fca2-6eb8-7760-82cf-990515cae231");
    }
}
