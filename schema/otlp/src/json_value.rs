//! Decodes attribute values in JSON. The content of an array or a map is written out as text while it is read: as one
//! of our `Value`s, each empty element would take fifty times its bytes, and an attribute can have millions of them.

use std::fmt;
use std::ops::Range;

use model::trace::Value;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use translate::fields::json_value;
use translate::json_text;

use super::forms;
use super::json_members::{Found, Scalar, Shape, any_list, any_object, scalars};
use super::limits::NESTING_MAX;
use super::map_text::Members;

/// serde_json reads at most 127 levels of JSON, and one level of OTLP is up to four of them. After this many levels of
/// OTLP, a new serde_json reader is started.
const LEVELS_AT_ONCE: u8 = 20;

/// An `AnyValue` of OTLP; `{}` is the empty one.
pub(super) struct AnyValue<'a> {
    pub(super) value: Value<'a>,
    /// Whether the value nests deeper than [`NESTING_MAX`]; then `value` must not be used.
    pub(super) is_too_deep: bool,
}

/// Which field of `AnyValue` a member is.
#[derive(Clone, Copy, Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum Choice {
    #[serde(alias = "string_value")]
    StringValue,
    #[serde(alias = "bool_value")]
    BoolValue,
    #[serde(alias = "int_value")]
    IntValue,
    #[serde(alias = "double_value")]
    DoubleValue,
    #[serde(alias = "array_value")]
    ArrayValue,
    #[serde(alias = "kvlist_value")]
    KvlistValue,
    #[serde(alias = "bytes_value")]
    BytesValue,
    #[serde(other)]
    Unknown,
}

impl<'de> Shape<'de> for AnyValue<'de> {
    fn object<A: MapAccess<'de>>(mut map: A) -> Result<Found<'de, Self>, A::Error> {
        let mut last = AnyValue { value: Value::Empty, is_too_deep: false };
        while let Some(choice) = map.next_key()? {
            let mut out = Out::default();
            let (found, typed): (_, fn(String) -> Value<'de>) = match choice {
                Choice::ArrayValue => {
                    (map.next_value_seed(Container::list(&mut out, NESTING_MAX))?, |text| Value::Array(text.into()))
                }
                Choice::KvlistValue => {
                    (map.next_value_seed(Container::map(&mut out, NESTING_MAX))?, |text| Value::Map(text.into()))
                }
                choice => (scalar(choice, &mut map)?, |text| Value::Str(text.into())),
            };
            // If the choice is repeated, the last one counts.
            match found {
                Found::Nothing => {}
                Found::It(()) => last = AnyValue { value: typed(out.text), is_too_deep: out.is_too_deep },
                Found::Other(value) => last = AnyValue { value, is_too_deep: false },
            }
        }
        Ok(Found::It(last))
    }
}

/// Reads a value that is neither an array nor a map. A value of another type than its field says keeps its own type.
fn scalar<'de, A: MapAccess<'de>>(choice: Choice, map: &mut A) -> Result<Found<'de, ()>, A::Error> {
    let value = match choice {
        Choice::StringValue => map.next_value::<Scalar<'de>>()?.value(),
        Choice::BoolValue => map.next_value::<Scalar<'de>>()?.value().map(|value| match value {
            Value::Str(text) if text == "true" => Value::Bool(true),
            Value::Str(text) if text == "false" => Value::Bool(false),
            value => value,
        }),
        Choice::BytesValue => map.next_value::<Scalar<'de>>()?.value().map(|value| match value {
            Value::Str(base64) => forms::bytes(&base64).map_or(Value::Str(base64), |bytes| Value::Bytes(bytes.into())),
            value => value,
        }),
        Choice::IntValue => int(map.next_value()?),
        Choice::DoubleValue => double(map.next_value()?),
        Choice::ArrayValue | Choice::KvlistValue | Choice::Unknown => {
            map.next_value::<IgnoredAny>()?;
            None
        }
    };
    Ok(value.map_or(Found::Nothing, Found::Other))
}

/// JavaScript writes 1.0 as an integer and 1e300 as an `intValue`. A number that does not fit 64 bits becomes a double,
/// unless an integer in quotes would lose digits by that.
fn int(raw: &RawValue) -> Option<Value<'_>> {
    let text = raw.get();
    if let Ok(n) = unquoted(text).parse() {
        return Some(Value::Int(n));
    }
    let value = json_value(raw);
    if let Some(n) = forms::integer(&value).and_then(|n| n.try_into().ok()) {
        return Some(Value::Int(n));
    }
    let is_double = !text.starts_with('"') || text.contains(['.', 'e', 'E']);
    let n = unquoted(text).parse().ok().filter(|n: &f64| is_double && n.is_finite());
    n.map(Value::Double).or_else(|| given(value))
}

fn double(raw: &RawValue) -> Option<Value<'_>> {
    let text = unquoted(raw.get());
    // A number that is too large for a double must not become infinity.
    let n = text.parse().ok().filter(|n: &f64| n.is_finite() || !text.contains(|c: char| c.is_ascii_digit()));
    n.map(Value::Double).or_else(|| given(json_value(raw)))
}

fn unquoted(text: &str) -> &str {
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text)
}

/// `null` counts as missing: JavaScript writes it for NaN and the infinities.
fn given(value: Value<'_>) -> Option<Value<'_>> {
    (value != Value::Empty).then_some(value)
}

/// The text that is being written, and whether its source nests too deep.
#[derive(Default)]
struct Out {
    text: String,
    is_too_deep: bool,
}

/// Writes an `ArrayValue` or a `KeyValueList` as text.
struct Container<'o> {
    out: &'o mut Out,
    open: char,
    close: char,
    /// How many more levels may be inside.
    levels: u8,
}

impl<'o> Container<'o> {
    fn list(out: &'o mut Out, levels: u8) -> Self {
        Self { out, open: '[', close: ']', levels }
    }

    fn map(out: &'o mut Out, levels: u8) -> Self {
        Self { out, open: '{', close: '}', levels }
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum ContainerField {
    Values,
    #[serde(other)]
    Unknown,
}

impl<'de> DeserializeSeed<'de> for Container<'_> {
    type Value = Found<'de, ()>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        if !self.levels.is_multiple_of(LEVELS_AT_ONCE) {
            return deserializer.deserialize_any(self);
        }
        let raw = <&'de RawValue>::deserialize(deserializer)?;
        let mut anew = serde_json::Deserializer::from_str(raw.get());
        anew.deserialize_any(self).map_err(D::Error::custom)
    }
}

impl<'de> Visitor<'de> for Container<'_> {
    type Value = Found<'de, ()>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    scalars!(Found::Other);

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Found::Nothing)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        any_list(seq).map(Found::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Self { out, open, close, levels } = self;
        let Some(levels) = levels.checked_sub(1) else {
            out.is_too_deep = true;
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(Found::It(()));
        };
        let start = out.text.len();
        out.text.push(open);
        let mut values = Found::Nothing;
        while let Some(field) = map.next_key()? {
            match field {
                ContainerField::Values => values.put(map.next_value_seed(Values { out, start, open, levels })?),
                ContainerField::Unknown => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        if let Found::Other(value) = values {
            out.text.truncate(start);
            return Ok(Found::Other(value));
        }
        out.text.push(close);
        Ok(Found::It(()))
    }
}

/// Writes the elements of a container whose text begins at `start`.
struct Values<'o> {
    out: &'o mut Out,
    start: usize,
    open: char,
    levels: u8,
}

impl<'de> DeserializeSeed<'de> for Values<'_> {
    type Value = Found<'de, ()>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Values<'_> {
    type Value = Found<'de, ()>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    scalars!(Found::Other);

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Found::Nothing)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        any_object(map).map(Found::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let Self { out, start, open, levels } = self;
        // A repeated list replaces the earlier one.
        out.text.truncate(start + 1);
        let mut members = Members::new(&out.text);
        loop {
            let before = out.text.len();
            json_text::separate(&mut out.text, open);
            let at = out.text.len();
            let more = if open == '[' {
                seq.next_element_seed(Item { out, levels })?.map(|found| write(found, at, at, out))
            } else {
                seq.next_element_seed(Pair { out, levels })?.map(|found| {
                    let value_at = put_pair(found, at, out);
                    members.written(at, value_at, &mut out.text);
                })
            };
            if more.is_none() {
                out.text.truncate(before);
                members.keep_last(&mut out.text);
                return Ok(Found::It(()));
            }
        }
    }
}

/// Writes a value at `place`. The text that was written for it so far begins at `written`; the text between the two is
/// removed.
fn write(found: Found<'_, ()>, place: usize, written: usize, out: &mut Out) {
    match found {
        Found::Nothing if out.text.len() == place => out.text.push_str("null"),
        Found::Nothing => {}
        Found::It(()) => {
            out.text.drain(place..written);
        }
        Found::Other(value) => {
            out.text.truncate(place);
            json_text::value(&value, &mut out.text);
        }
    }
}

/// An element that is not a pair becomes the value of an empty key. Returns where the value begins.
fn put_pair(found: Found<'_, usize>, at: usize, out: &mut Out) -> usize {
    let value = match found {
        Found::It(value_at) => return value_at,
        Found::Nothing => Found::Nothing,
        Found::Other(value) => Found::Other(value),
    };
    let value_at = put_key("", at..at, &mut out.text);
    write(value, value_at, value_at, out);
    value_at
}

/// Writes one element as text.
struct Item<'o> {
    out: &'o mut Out,
    levels: u8,
}

impl<'de> DeserializeSeed<'de> for Item<'_> {
    type Value = Found<'de, ()>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Item<'_> {
    type Value = Found<'de, ()>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    scalars!(Found::Other);

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Found::Nothing)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        any_list(seq).map(Found::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Self { out, levels } = self;
        let start = out.text.len();
        out.text.push_str("null");
        while let Some(choice) = map.next_key()? {
            // If the choice is repeated, the last one counts.
            let before = out.text.len();
            let found = match choice {
                Choice::ArrayValue => map.next_value_seed(Container::list(out, levels))?,
                Choice::KvlistValue => map.next_value_seed(Container::map(out, levels))?,
                choice => scalar(choice, &mut map)?,
            };
            write(found, start, before, out);
        }
        Ok(Found::It(()))
    }
}

/// Writes one key with its value; returns where the value begins.
struct Pair<'o> {
    out: &'o mut Out,
    levels: u8,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum PairField {
    Key,
    Value,
    #[serde(other)]
    Unknown,
}

impl<'de> DeserializeSeed<'de> for Pair<'_> {
    type Value = Found<'de, usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Pair<'_> {
    type Value = Found<'de, usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    scalars!(Found::Other);

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Found::Nothing)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        any_list(seq).map(Found::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Self { out, levels } = self;
        let start = out.text.len();
        let mut value_at = start;
        while let Some(field) = map.next_key()? {
            match field {
                PairField::Key => {
                    if let Some(key) = map.next_value::<Scalar<'de>>()?.value() {
                        let key = forms::text(key).unwrap_or_else(|other| forms::shown(&other).into());
                        value_at = put_key(&key, start..value_at, &mut out.text);
                    }
                }
                PairField::Value => {
                    let before = out.text.len();
                    let found = map.next_value_seed(Item { out, levels })?;
                    write(found, value_at, before, out);
                }
                PairField::Unknown => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        if value_at == start {
            value_at = put_key("", start..start, &mut out.text);
        }
        if out.text.len() == value_at {
            out.text.push_str("null");
        }
        Ok(Found::It(value_at))
    }
}

/// Writes a key before its value, whichever of the two came first. Returns where the value begins.
fn put_key(key: &str, place: Range<usize>, out: &mut String) -> usize {
    let mut text = String::with_capacity(key.len() + 3);
    json_text::string(key, &mut text);
    text.push(':');
    let value_at = place.start + text.len();
    out.replace_range(place, &text);
    value_at
}

#[cfg(test)]
mod tests;
