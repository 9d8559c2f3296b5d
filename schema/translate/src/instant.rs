//! Reads a time as clients write it in JSON: ISO 8601 as text, or a number since 1970.
//!
//! A text is a date, or a date and a time of day, in the extended form (`2026-11-27T14:00:00.123+01:00`) or in the
//! basic form (`20261127T140000.123+0100`), or one in each. `t`, `z` and a blank are read like `T`, `Z` and `T`, and a
//! comma like a point. Seconds and minutes may be missing. The offset may be missing too: then the time is in UTC. Week
//! dates (`2026-W48-5`) and ordinal dates (`2026-331`) are not read.
//!
//! A number counts seconds, milliseconds, microseconds or nanoseconds since 1970: the unit is the one that gives a time
//! between 1973 and 5138, and at most one of the four does. A text of digits is such a number, unless it has eight
//! digits, which is a basic date. The unit of a smaller number is not known, so it is not read.

use model::trace::UnixNanos;
use serde_json::value::RawValue;
use time::{Date, Month};

/// The smallest number that is read.
const SECONDS_MIN: i128 = 100_000_000;
/// Numbers below this count seconds, numbers below a thousand times this count milliseconds, and so on.
const SECONDS_MAX: i128 = 100_000_000_000;
/// Most digits of a number that are read. Nanoseconds have 19.
const DIGITS_MAX: usize = 30;
const NANOS_PER_SECOND: i128 = 1_000_000_000;

/// The time in a JSON value. `None` if it is not a time that can be kept: not a time at all, before 1678 or after 2262,
/// or exactly 1970, which stands for "not given".
pub fn of_json(raw: &RawValue) -> Option<UnixNanos> {
    match raw.get().as_bytes().first() {
        Some(b'"') => of_text(&serde_json::from_str::<String>(raw.get()).ok()?),
        _ => of_number(raw.get()),
    }
}

/// The same for a text.
pub fn of_text(text: &str) -> Option<UnixNanos> {
    let text = text.trim();
    iso_8601(text).and_then(kept).or_else(|| of_number(text))
}

fn of_number(text: &str) -> Option<UnixNanos> {
    let (digits, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let exponent: i32 = exponent.parse().ok().filter(|exponent| (-30..=30).contains(exponent))?;
    let are_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !are_digits(whole) || !are_digits(fraction) || whole.len() > DIGITS_MAX {
        return None;
    }
    let fraction = &fraction[..fraction.len().min(DIGITS_MAX - whole.len())];
    let number: i128 = format!("{whole}{fraction}").parse().ok()?;
    // The value is `number * 10^scale`.
    let scale = exponent - i32::try_from(fraction.len()).ok()?;
    let times_ten_to = |power: i32| match power {
        0.. => 10_i128.checked_pow(power.unsigned_abs()).and_then(|factor| number.checked_mul(factor)),
        _ => Some(10_i128.checked_pow(power.unsigned_abs()).map_or(0, |divisor| number / divisor)),
    };
    let unit = match times_ten_to(scale)? {
        ..SECONDS_MIN => return None,
        seconds if seconds < SECONDS_MAX => 9,
        millis if millis < SECONDS_MAX * 1_000 => 6,
        micros if micros < SECONDS_MAX * 1_000_000 => 3,
        _ => 0,
    };
    kept(times_ten_to(scale + unit)?)
}

fn kept(nanos: i128) -> Option<UnixNanos> {
    UnixNanos::try_from(nanos).ok().filter(|nanos| *nanos != 0)
}

/// Reads an ISO 8601 time as nanoseconds since 1970.
fn iso_8601(text: &str) -> Option<i128> {
    let mut rest = Scan(text.as_bytes());
    let year = rest.digits(4)?;
    let extended = rest.skip(b"-");
    let month = rest.digits(2)?;
    if extended && !rest.skip(b"-") {
        return None;
    }
    let day = rest.digits(2)?;
    let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
    let date = Date::from_calendar_date(i32::try_from(year).ok()?, month, u8::try_from(day).ok()?).ok()?;
    let days =
        i128::from(date.to_julian_day() - Date::from_calendar_date(1970, Month::January, 1).ok()?.to_julian_day());
    let midnight = days * 86_400 * NANOS_PER_SECOND;
    if rest.0.is_empty() {
        return Some(midnight);
    }
    if !rest.skip(b"Tt ") {
        return None;
    }
    let time_of_day = rest.time_of_day()?;
    let offset = rest.offset()?;
    rest.0.is_empty().then(|| midnight + time_of_day - offset)
}

/// The rest of a text that is being read.
struct Scan<'a>(&'a [u8]);

impl Scan<'_> {
    /// Skips the next byte, if it is one of these.
    fn skip(&mut self, any: &[u8]) -> bool {
        let Some((_, rest)) = self.0.split_first().filter(|(first, _)| any.contains(first)) else { return false };
        self.0 = rest;
        true
    }

    fn is_digit(&self) -> bool {
        self.0.first().is_some_and(u8::is_ascii_digit)
    }

    /// Takes a number of `count` digits.
    fn digits(&mut self, count: usize) -> Option<u32> {
        let (digits, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        digits.iter().try_fold(0, |number, digit| Some(number * 10 + char::from(*digit).to_digit(10)?))
    }

    /// Takes two more digits, after a colon or directly.
    fn more(&mut self) -> Option<Option<u32>> {
        if self.skip(b":") || self.is_digit() { self.digits(2).map(Some) } else { Some(None) }
    }

    /// Nanoseconds since midnight. 24:00 is the end of the day, and a leap second counts as the last nanosecond of its
    /// minute.
    fn time_of_day(&mut self) -> Option<i128> {
        let hour = self.digits(2)?;
        let minute = self.more()?;
        let second = if minute.is_some() { self.more()? } else { None };
        let mut nanos = 0;
        if second.is_some() && self.skip(b".,") {
            let digits = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let (fraction, rest) = self.0.split_at(digits);
            self.0 = rest;
            if fraction.is_empty() {
                return None;
            }
            for place in 0..9 {
                nanos = nanos * 10 + fraction.get(place).map_or(0, |digit| i128::from(digit - b'0'));
            }
        }
        let (minute, mut second) = (minute.unwrap_or(0), second.unwrap_or(0));
        if (minute, second) == (59, 60) {
            (second, nanos) = (59, NANOS_PER_SECOND - 1);
        }
        let is_end_of_day = (hour, minute, second, nanos) == (24, 0, 0, 0);
        (is_end_of_day || hour < 24 && minute < 60 && second < 60)
            .then(|| i128::from(hour * 3_600 + minute * 60 + second) * NANOS_PER_SECOND + nanos)
    }

    /// The offset from UTC in nanoseconds, positive to the east; without an offset the time is in UTC.
    fn offset(&mut self) -> Option<i128> {
        let sign = match self.0.first() {
            None => return Some(0),
            Some(b'+') => 1,
            Some(b'-') => -1,
            _ => return self.skip(b"Zz").then_some(0),
        };
        self.0 = &self.0[1..];
        let (hours, minutes) = (self.digits(2)?, self.more()?.unwrap_or(0));
        (hours < 24 && minutes < 60).then(|| sign * i128::from(hours * 3_600 + minutes * 60) * NANOS_PER_SECOND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-01-02T03:04:05Z, in seconds since the Unix epoch.
    const AT: i64 = 1_767_323_045;

    fn read(json: &str) -> Option<UnixNanos> {
        of_json(serde_json::from_str(json).unwrap())
    }

    #[test]
    fn every_documented_iso_8601_form_is_read() {
        let second = AT * 1_000_000_000;
        for (text, nanos) in [
            ("2026-01-02T03:04:05Z", second),
            ("2026-01-02t03:04:05z", second),
            ("2026-01-02 03:04:05", second),
            ("  2026-01-02T03:04:05+00:00 ", second),
            ("2026-01-02T03:04:05-00:00", second),
            ("2026-01-02T05:04:05+02:00", second),
            ("2026-01-02T05:04:05+0200", second),
            ("2026-01-02T05:04:05+02", second),
            ("2026-01-01T21:34:05-0530", second),
            ("2026-01-01T21:34:05-05:30", second),
            ("20260102T030405Z", second),
            ("20260102T083405+0530", second),
            ("20260102T030405", second),
            ("2026-01-02T030405Z", second),
            ("2026-01-02T03:04:05.678901234Z", second + 678_901_234),
            ("2026-01-02T03:04:05.6789012345Z", second + 678_901_234),
            ("2026-01-02T03:04:05,5", second + 500_000_000),
            ("20260102T030405,25+0000", second + 250_000_000),
            ("2026-01-02T03:04Z", second - 5_000_000_000),
            ("2026-01-02T03:04", second - 5_000_000_000),
            ("20260102T0304-01", second - 5_000_000_000 + 3_600_000_000_000),
            ("2026-01-02T03Z", second - 245_000_000_000),
            ("2026-01-02", second - 11_045_000_000_000),
            ("20260102", second - 11_045_000_000_000),
            ("2026-01-01T24:00:00Z", second - 11_045_000_000_000),
            ("2016-12-31T23:59:60Z", 1_483_228_799_999_999_999),
            ("1969-12-31T23:59:59Z", -1_000_000_000),
        ] {
            assert_eq!(read(&format!("{text:?}")), Some(nanos), "{text}");
        }
    }

    #[test]
    fn a_numeric_time_is_read_in_the_unit_that_makes_it_plausible() {
        let nanos = AT * 1_000_000_000 + 678_901_234;
        for (number, nanos) in [
            ("1767323045678901234", nanos),
            ("1767323045678901", nanos / 1_000 * 1_000),
            ("1767323045678", nanos / 1_000_000 * 1_000_000),
            ("1767323045", AT * 1_000_000_000),
            ("1767323045.678901", nanos / 1_000 * 1_000),
            ("1767323045678.901234", nanos),
            ("1767323045.6789012345678901234567890123456789", nanos),
            ("1.767323045678901e+18", nanos / 1_000 * 1_000),
            ("1.767323045e9", AT * 1_000_000_000),
            ("17673230456789E-4", nanos / 100_000 * 100_000),
            ("100000000", 100_000_000_000_000_000),
        ] {
            assert_eq!(read(number), Some(nanos), "{number}");
            assert_eq!(read(&format!("\"{number}\"")), Some(nanos), "\"{number}\"");
        }
    }

    #[test]
    fn invalid_and_unstorable_times_are_not_read() {
        for json in [
            r#""""#,
            r#""yesterday""#,
            r#""2026-W48-5""#,
            r#""2026-331""#,
            r#""2026-11""#,
            r#""2026""#,
            r#""2026-1-2""#,
            r#""2026-13-01""#,
            r#""2026-02-29""#,
            r#""2026-0102""#,
            r#""2026-01-02T""#,
            r#""2026-01-02X03:04:05Z""#,
            r#""2026-01-02T03:04:05.Z""#,
            r#""2026-01-02T3:04:05Z""#,
            r#""2026-01-02T25:00:00Z""#,
            r#""2026-01-02T03:60:00Z""#,
            r#""2026-01-02T24:00:01Z""#,
            r#""2026-01-02T03:04:05+24:00""#,
            r#""2026-01-02T03:04:05+1""#,
            r#""2026-01-02T03:04:05 UTC""#,
            r#""2026-01-02T03:04:05ZZ""#,
            r#""1677-01-01T00:00:00Z""#,
            r#""2263-01-01T00:00:00Z""#,
            r#""1970-01-01T00:00:00Z""#,
            r#""ééééééé""#,
            r#""1767323045s""#,
            r#""NaN""#,
            r#""+1767323045""#,
            r#""2026.""#,
            "0",
            "-0.0",
            "2026",
            "99999999",
            "-1767323045",
            "99999999999",
            "1e300",
            "1e30",
            "9223372036854775808",
            "true",
            "null",
            "[]",
            "{}",
        ] {
            assert_eq!(read(json), None, "{json}");
        }
    }
}
