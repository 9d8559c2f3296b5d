//! The forms in which a value may come, and what becomes of a value in any other form: `docs/reference/limits.md`,
//! "Values that cannot be read".

use std::borrow::Cow;

use base64::Engine;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use model::trace::{Attribute, Status, UnixNanos, Value};
use serde::Deserialize;
use translate::json_text;

/// Prefix of the attribute that keeps the value of a field. The view `run_of` knows one of them, `otlp.parentSpanId`: a
/// span whose parent cannot be read is still a child.
const PREFIX: &str = "otlp.";
/// The attribute on a span whose status the client has set to OK. A span with an unset status ended without an error
/// too, and has the same `status` column.
pub(super) const STATUS_CODE: &str = "tracebility.status_code";
/// Most bytes of a value that a reason quotes.
const SHOWN_BYTES_MAX: usize = 64;

/// The values that no column could take. They become attributes of the span, event, link, scope or resource they came
/// with.
#[derive(Debug, Default)]
pub(super) struct Kept<'a>(Vec<Attribute<'a>>);

impl<'a> Kept<'a> {
    pub(super) fn keep(&mut self, field: &str, value: Value<'a>) {
        self.0.push(Attribute { key: Cow::Owned(format!("{PREFIX}{field}")), value });
    }

    /// Reads a value. If it cannot be read, keeps it and leaves its column empty.
    pub(super) fn read<T: Default>(
        &mut self,
        field: &str,
        given: Option<Value<'a>>,
        read: impl FnOnce(Value<'a>) -> Result<T, Value<'a>>,
    ) -> T {
        let read = given.map(read).unwrap_or_else(|| Ok(T::default()));
        read.unwrap_or_else(|value| {
            self.keep(field, value);
            T::default()
        })
    }

    pub(super) fn text(&mut self, field: &str, given: Option<Value<'a>>) -> Cow<'a, str> {
        self.read(field, given, text)
    }

    pub(super) fn count(&mut self, field: &str, given: Option<Value<'a>>) -> u32 {
        self.read(field, given, |value| integer(&value).and_then(|n| n.try_into().ok()).ok_or(value))
    }

    pub(super) fn time(&mut self, field: &str, given: Option<Value<'a>>) -> UnixNanos {
        let nanos = given.as_ref().and_then(nanos);
        match nanos {
            Some(nanos) => self.instant(field, nanos),
            None => self.read(field, given, Err),
        }
    }

    /// Reads an instant. One after the year 2262 becomes the last one that a column can hold, and the value is kept as
    /// well.
    #[inline]
    pub(super) fn instant(&mut self, field: &str, nanos: u64) -> UnixNanos {
        UnixNanos::try_from(nanos).unwrap_or_else(|_| {
            self.keep(field, Value::Str(nanos.to_string().into()));
            UnixNanos::MAX
        })
    }

    /// The status with that code: 0 is unset, 1 is OK, 2 is an error.
    #[inline]
    pub(super) fn status(&mut self, code: i32) -> Status {
        match code {
            2 => return Status::Error,
            1 => self.0.push(Attribute { key: Cow::Borrowed(STATUS_CODE), value: Value::Str(Cow::Borrowed("ok")) }),
            0 => {}
            unknown => self.keep("status.code", Value::Int(unknown.into())),
        }
        Status::Ok
    }

    /// Appends the kept values to the attributes that the client sent.
    #[inline]
    pub(super) fn add_to(mut self, attributes: &mut Vec<Attribute<'a>>) {
        if !self.0.is_empty() {
            attributes.append(&mut self.0);
        }
    }
}

/// Reads a text; a number or a boolean is read as its text.
pub(super) fn text(value: Value<'_>) -> Result<Cow<'_, str>, Value<'_>> {
    match value {
        Value::Str(text) => Ok(text),
        Value::Int(n) => Ok(n.to_string().into()),
        Value::Double(n) => Ok(n.to_string().into()),
        Value::Bool(b) => Ok(if b { "true" } else { "false" }.into()),
        Value::Empty => Ok(Cow::Borrowed("")),
        other @ (Value::Bytes(_) | Value::Array(_) | Value::Map(_)) => Err(other),
    }
}

/// Reads a whole number: as a number, with a fraction of zeros, with an exponent, in quotes, or as the two halves of 64
/// bits into which JavaScript's libraries split it.
pub(super) fn integer(value: &Value<'_>) -> Option<i128> {
    match value {
        Value::Int(n) => Some(i128::from(*n)),
        Value::Double(n) => whole(*n),
        Value::Str(text) => {
            let text = text.trim();
            text.parse().ok().or_else(|| whole(text.parse().ok()?))
        }
        Value::Map(json) => halves(json),
        _ => None,
    }
}

fn whole(n: f64) -> Option<i128> {
    // Larger than every number of 64 bits.
    const MAX: f64 = 1e20;
    (n.fract() == 0.0 && n.abs() < MAX).then_some(n as i128)
}

fn halves(json: &str) -> Option<i128> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Halves {
        low: i64,
        high: i64,
        #[serde(default)]
        unsigned: bool,
    }
    let Halves { low, high, unsigned } = serde_json::from_str(json).ok()?;
    // Each half has 32 bits, signed or unsigned.
    let half = |n: i64| i32::try_from(n).map(|n| n as u32).or_else(|_| u32::try_from(n)).ok();
    let bits = u64::from(half(high)?) << 32 | u64::from(half(low)?);
    Some(if unsigned { i128::from(bits) } else { i128::from(bits as i64) })
}

/// Reads nanoseconds since 1970.
pub(super) fn nanos(value: &Value<'_>) -> Option<u64> {
    integer(value)?.try_into().ok()
}

/// Reads an id in hexadecimal digits, or in base64 with padding, which has another length. An empty id is the zero id.
pub(super) fn id<'a, const N: usize>(value: Value<'a>) -> Result<[u8; N], Value<'a>> {
    let read = match &value {
        Value::Str(text) if text.is_empty() => Some([0; N]),
        Value::Str(text) if text.len() == 2 * N => hex(text.as_bytes()),
        Value::Str(text) if text.ends_with('=') => bytes(text).and_then(|bytes| bytes.try_into().ok()),
        _ => None,
    };
    read.ok_or(value)
}

fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |c: u8| char::from(c).to_digit(16);
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Some(bytes)
}

/// Decodes base64 in either alphabet, with or without padding.
pub(super) fn bytes(base64: &str) -> Option<Vec<u8>> {
    const CONFIG: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const EITHER: [GeneralPurpose; 2] =
        [GeneralPurpose::new(&STANDARD, CONFIG), GeneralPurpose::new(&URL_SAFE, CONFIG)];
    EITHER.iter().find_map(|alphabet| alphabet.decode(base64).ok())
}

/// Reads the number of a span kind.
pub(super) fn span_kind(value: Value<'_>) -> Result<u8, Value<'_>> {
    const NAMES: [&str; 6] = ["unspecified", "internal", "server", "client", "producer", "consumer"];
    number_or_name(value, "span_kind_", &NAMES)
}

/// Reads the number of a status code.
pub(super) fn status_code(value: Value<'_>) -> Result<u8, Value<'_>> {
    number_or_name(value, "status_code_", &["unset", "ok", "error"])
}

fn number_or_name<'a>(value: Value<'a>, prefix: &str, names: &[&str]) -> Result<u8, Value<'a>> {
    let number = integer(&value).or_else(|| {
        let Value::Str(text) = &value else { return None };
        let text = text.trim().to_ascii_lowercase();
        let name = text.strip_prefix(prefix).unwrap_or(&text);
        names.iter().position(|known| *known == name).map(|n| n as i128)
    });
    number.and_then(|n| u8::try_from(n).ok()).filter(|n| usize::from(*n) < names.len()).ok_or(value)
}

/// A value in the form in which a reason quotes it.
pub(super) fn shown(value: &Value<'_>) -> String {
    let mut json = String::new();
    json_text::value(value, &mut json);
    if json.len() > SHOWN_BYTES_MAX {
        json.truncate(json.floor_char_boundary(SHOWN_BYTES_MAX));
        json.push('…');
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    fn str(text: &str) -> Value<'_> {
        Value::Str(text.into())
    }

    #[test]
    fn integers_are_read_in_every_form_that_means_one_number() {
        for (value, wanted) in [
            (Value::Int(-7), Some(-7)),
            (Value::Double(3.0), Some(3)),
            (Value::Double(1.795787485061327e18), Some(1_795_787_485_061_327_104)),
            (str("18446744073709551615"), Some(u64::MAX.into())),
            (str(" 12 "), Some(12)),
            (str("5.0"), Some(5)),
            (str("1e3"), Some(1_000)),
            (
                Value::Map(r#"{"low":1948385984,"high":418106000}"#.into()),
                Some((418_106_000_i128 << 32) + 1_948_385_984),
            ),
            (Value::Map(r#"{"high":-1,"low":-2,"unsigned":false}"#.into()), Some(-2)),
            (Value::Map(r#"{"high":-1,"low":4294967294,"unsigned":true}"#.into()), Some(i128::from(u64::MAX - 1))),
            (Value::Double(0.5), None),
            (Value::Double(f64::NAN), None),
            (Value::Double(1e300), None),
            (str("1e300"), None),
            (str(""), None),
            (str("now"), None),
            (str("0x10"), None),
            (Value::Bool(true), None),
            (Value::Empty, None),
            (Value::Map(r#"{"low":1}"#.into()), None),
            (Value::Map(r#"{"low":1,"high":4294967296}"#.into()), None),
            (Value::Map(r#"{"low":1,"high":0,"middle":0}"#.into()), None),
            (Value::Array("[1]".into()), None),
        ] {
            assert_eq!(integer(&value), wanted, "{value:?}");
        }
    }

    #[test]
    fn ids_are_hexadecimal_or_padded_base64() {
        let wanted = [0, 1, 2, 0xfb, 0xff, 5, 0xab, 7];
        for text in ["000102fbff05ab07", "000102FBFF05aB07", "AAEC+/8Fqwc=", "AAEC-_8Fqwc="] {
            assert_eq!(id(str(text)), Ok(wanted), "{text}");
        }
        assert_eq!(id(str("")), Ok([0; 8]));
        for text in
            ["000102fbff05ab0", "000102fbff05ab07aa", "000102fbff05ab0g", "AAEC+/8Fqwc", "AAE=", "=", "é0102fbff05ab0"]
        {
            assert_eq!(id::<8>(str(text)), Err(str(text)));
        }
        assert_eq!(id::<8>(Value::Int(1)), Err(Value::Int(1)));
    }

    #[test]
    fn enums_are_numbers_or_names() {
        for (value, wanted) in [
            (Value::Int(3), Some(3)),
            (str("3"), Some(3)),
            (Value::Double(3.0), Some(3)),
            (str("SPAN_KIND_CLIENT"), Some(3)),
            (str("client"), Some(3)),
            (str("Span_Kind_Internal"), Some(1)),
            (Value::Int(6), None),
            (Value::Int(-1), None),
            (str("SPAN_KIND_"), None),
            (str("kind"), None),
            (Value::Bool(true), None),
        ] {
            assert_eq!(span_kind(value.clone()).ok(), wanted, "{value:?}");
        }
        for (value, wanted) in [
            (Value::Int(0), Some(0)),
            (str("STATUS_CODE_OK"), Some(1)),
            (str("ERROR"), Some(2)),
            (Value::Int(3), None),
            (str("cancelled"), None),
        ] {
            assert_eq!(status_code(value.clone()).ok(), wanted, "{value:?}");
        }
    }

    #[test]
    fn an_unreadable_field_is_kept_under_its_name() {
        let mut kept = Kept::default();
        assert_eq!(kept.time("endTimeUnixNano", Some(str("yesterday"))), 0);
        assert_eq!(kept.time("timeUnixNano", Some(str("18446744073709551615"))), i64::MAX);
        assert_eq!(kept.time("startTimeUnixNano", None), 0);
        assert_eq!(kept.count("flags", Some(Value::Int(-1))), 0);
        assert_eq!(kept.text("name", Some(Value::Array("[1]".into()))), "");
        assert_eq!(kept.text("name", Some(Value::Bool(true))), "true");
        let mut attributes = vec![Attribute { key: "own".into(), value: Value::Empty }];
        kept.add_to(&mut attributes);
        let found: Vec<_> = attributes.iter().map(|a| (&*a.key, a.value.clone())).collect();
        let wanted = [
            ("own", Value::Empty),
            ("otlp.endTimeUnixNano", str("yesterday")),
            ("otlp.timeUnixNano", str("18446744073709551615")),
            ("otlp.flags", Value::Int(-1)),
            ("otlp.name", Value::Array("[1]".into())),
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_reason_shows_the_beginning_of_a_value() {
        assert_eq!(shown(&str("x")), "\"x\"");
        assert_eq!(shown(&str(&"é".repeat(100))).len(), SHOWN_BYTES_MAX - 1 + "…".len());
    }
}
