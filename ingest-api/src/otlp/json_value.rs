//! Attribute values in JSON. What is inside an array or a map is written out as text while it is read: as a value of ours,
//! each empty one would take fifty times its bytes, and an attribute can have millions.

use std::fmt;
use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use schema::model::Value;
use schema::translate::json_text;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::json::{Number, Text};

/// An `AnyValue`; `null` and `{}` are the empty one.
pub(super) struct AnyValue<'a>(pub(super) Value<'a>);

impl Default for AnyValue<'_> {
    fn default() -> Self {
        Self(Value::Empty)
    }
}

/// Which of `AnyValue`'s fields is there.
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

impl<'de: 'a, 'a> Deserialize<'de> for AnyValue<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Given;
        impl<'de> Visitor<'de> for Given {
            type Value = AnyValue<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an AnyValue")
            }

            fn visit_none<E>(self) -> Result<Self::Value, E> {
                Ok(AnyValue::default())
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
                deserializer.deserialize_map(self)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut value = Value::Empty;
                while let Some(choice) = map.next_key()? {
                    let mut text = String::new();
                    let read = match choice {
                        Choice::ArrayValue => {
                            map.next_value_seed(Container::list(&mut text))?.then(|| Value::Array(text.into()))
                        }
                        Choice::KvlistValue => {
                            map.next_value_seed(Container::map(&mut text))?.then(|| Value::Map(text.into()))
                        }
                        choice => scalar(choice, &mut map)?,
                    };
                    value = read.unwrap_or(value);
                }
                Ok(AnyValue(value))
            }
        }
        deserializer.deserialize_option(Given)
    }
}

/// Reads what is neither an array nor a map; `None` if it is `null`.
fn scalar<'de, A: MapAccess<'de>>(choice: Choice, map: &mut A) -> Result<Option<Value<'de>>, A::Error> {
    Ok(match choice {
        Choice::StringValue => map.next_value::<Option<Text<'de>>>()?.map(|text| Value::Str(text.0)),
        Choice::BoolValue => map.next_value::<Option<bool>>()?.map(Value::Bool),
        Choice::IntValue => map.next_value::<Option<Number<'de>>>()?.map(|number| number.int_value()),
        Choice::DoubleValue => map.next_value::<Option<Number<'de>>>()?.map(|number| number.double_value()),
        Choice::BytesValue => map.next_value::<Option<Text<'de>>>()?.map(|base64| match STANDARD.decode(&*base64.0) {
            Ok(bytes) => Value::Bytes(bytes.into()),
            Err(_) => Value::Str(base64.0),
        }),
        Choice::ArrayValue | Choice::KvlistValue | Choice::Unknown => {
            map.next_value::<IgnoredAny>()?;
            None
        }
    })
}

/// Writes an `ArrayValue` or a `KeyValueList`; false if it is `null`.
struct Container<'o> {
    out: &'o mut String,
    open: char,
    close: char,
}

impl<'o> Container<'o> {
    fn list(out: &'o mut String) -> Self {
        Self { out, open: '[', close: ']' }
    }

    fn map(out: &'o mut String) -> Self {
        Self { out, open: '{', close: '}' }
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
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for Container<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a list of values")
    }

    fn visit_none<E>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_map(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let Self { out, open, close } = self;
        out.push(open);
        while let Some(field) = map.next_key()? {
            match field {
                ContainerField::Values => map.next_value_seed(Values { out, open })?,
                ContainerField::Unknown => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        out.push(close);
        Ok(true)
    }
}

/// Writes what is in a container.
struct Values<'o> {
    out: &'o mut String,
    open: char,
}

impl<'de> DeserializeSeed<'de> for Values<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for Values<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of values")
    }

    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Self { out, open } = self;
        let is_list = open == '[';
        loop {
            let before = out.len();
            json_text::separate(out, open);
            let more = if is_list { seq.next_element_seed(Item(out))? } else { seq.next_element_seed(Pair(out))? };
            if more.is_none() {
                out.truncate(before);
                return Ok(());
            }
        }
    }
}

/// Writes one value.
struct Item<'o>(&'o mut String);

impl<'de> DeserializeSeed<'de> for Item<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for Item<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an AnyValue")
    }

    fn visit_none<E>(self) -> Result<(), E> {
        self.0.push_str("null");
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self(out) = self;
        let start = out.len();
        while let Some(choice) = map.next_key()? {
            // Of a repeated choice the last one counts.
            let before = out.len();
            let given = match choice {
                Choice::ArrayValue => map.next_value_seed(Container::list(out))?,
                Choice::KvlistValue => map.next_value_seed(Container::map(out))?,
                choice => scalar(choice, &mut map)?.map(|value| json_text::value(&value, out)).is_some(),
            };
            if given {
                out.drain(start..before);
            }
        }
        if out.len() == start {
            out.push_str("null");
        }
        Ok(())
    }
}

/// Writes one key with its value.
struct Pair<'o>(&'o mut String);

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum PairField {
    Key,
    Value,
    #[serde(other)]
    Unknown,
}

impl<'de> DeserializeSeed<'de> for Pair<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Pair<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a KeyValue")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self(out) = self;
        let start = out.len();
        let mut value_at = start;
        while let Some(field) = map.next_key()? {
            match field {
                PairField::Key => value_at = put_key(&map.next_value::<Text<'de>>()?.0, start..value_at, out),
                PairField::Value => {
                    out.truncate(value_at);
                    map.next_value_seed(Item(out))?;
                }
                PairField::Unknown => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        if value_at == start {
            value_at = put_key("", start..start, out);
        }
        if out.len() == value_at {
            out.push_str("null");
        }
        Ok(())
    }
}

/// Writes a key to its place, which is before the value whichever of them came first. Returns where the value goes.
fn put_key(key: &str, place: Range<usize>, out: &mut String) -> usize {
    let mut text = String::with_capacity(key.len() + 3);
    json_text::string(key, &mut text);
    text.push(':');
    let value_at = place.start + text.len();
    out.replace_range(place, &text);
    value_at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_in_whatever_order_they_come() {
        for (json, wanted) in [
            ("null", Value::Empty),
            ("{}", Value::Empty),
            (r#"{"other":[1],"intValue":null}"#, Value::Empty),
            (r#"{"intValue":"1","stringValue":"last"}"#, Value::Str("last".into())),
            (r#"{"bytesValue":"AQI="}"#, Value::Bytes([1, 2].as_slice().into())),
            (r#"{"bytesValue":"no base64"}"#, Value::Str("no base64".into())),
            (r#"{"arrayValue":{}}"#, Value::Array("[]".into())),
            (r#"{"arrayValue":null}"#, Value::Empty),
            (
                r#"{"array_value":{"values":[{"intValue":1},{},null,{"doubleValue":"NaN"},{"arrayValue":{"values":[{}]}}]}}"#,
                Value::Array(r#"[1,null,null,"NaN",[null]]"#.into()),
            ),
            (
                r#"{"kvlistValue":{"x":1,"values":[{"value":{"boolValue":true},"key":"a"},{"key":"b"},{},
                    {"key":"c","value":{"kvlistValue":{"values":[{"value":{"stringValue":"\u0001"}}]}}}]}}"#,
                Value::Map(r#"{"a":true,"b":null,"":null,"c":{"":"\u0001"}}"#.into()),
            ),
            (
                r#"{"arrayValue":{"values":[{"stringValue":"first","arrayValue":{"values":[]},"intValue":null}]}}"#,
                Value::Array("[[]]".into()),
            ),
            (
                r#"{"kvlistValue":{"values":[{"key":"twice","value":{"intValue":1},"key":"k","value":{"intValue":2}}]}}"#,
                Value::Map(r#"{"k":2}"#.into()),
            ),
        ] {
            assert_eq!(serde_json::from_str::<AnyValue<'_>>(json).unwrap().0, wanted, "{json}");
        }
        for json in ["7", "[]", r#"{"boolValue":"true"}"#, r#"{"arrayValue":[]}"#, r#"{"arrayValue":{"values":[7]}}"#] {
            assert!(serde_json::from_str::<AnyValue<'_>>(json).is_err(), "{json}");
        }
    }
}
