//! A JSON object taken apart field by field, so that what nobody took is still there in the end.

use std::borrow::Cow;

use schema::model::Value;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Why an item cannot be stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ItemError {
    #[error("not a JSON object: {0}")]
    NotAnObject(serde_json::Error),
    #[error("`{0}` is missing")]
    Missing(&'static str),
    #[error("`{field}`: {reason}")]
    Field { field: &'static str, reason: String },
}

/// The fields of an object that nobody has taken yet, in the order they came.
pub(crate) struct Fields<'a>(pub(crate) Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Fields<'a> {
    pub(crate) fn read(raw: &'a RawValue) -> Result<Self, ItemError> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                #[derive(Deserialize, PartialEq, Eq, Hash)]
                struct Key<'a>(#[serde(borrow)] Cow<'a, str>);
                let mut fields = Vec::new();
                while let Some((Key(key), value)) = map.next_entry()? {
                    fields.push((key, value));
                }
                Ok(fields)
            }
        }
        let mut deserializer = serde_json::Deserializer::from_str(raw.get());
        serde::Deserializer::deserialize_map(&mut deserializer, Visitor).map(Self).map_err(ItemError::NotAnObject)
    }

    /// Takes a field; `null` counts as absent.
    pub(crate) fn take(&mut self, name: &str) -> Option<&'a RawValue> {
        let index = self.0.iter().position(|(key, _)| key == name)?;
        Some(self.0.remove(index).1).filter(|value| value.get() != "null")
    }

    pub(crate) fn parse<T: Deserialize<'a>>(&mut self, name: &'static str) -> Result<Option<T>, ItemError> {
        let parsed = self.take(name).map(|raw| serde_json::from_str(raw.get())).transpose();
        parsed.map_err(|e| ItemError::Field { field: name, reason: e.to_string() })
    }

    pub(crate) fn text(&mut self, name: &'static str) -> Result<Cow<'a, str>, ItemError> {
        #[derive(Deserialize)]
        struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
        Ok(self.parse::<Text<'a>>(name)?.map(|t| t.0).unwrap_or_default())
    }

    pub(crate) fn required<T>(value: Option<T>, name: &'static str) -> Result<T, ItemError> {
        value.ok_or(ItemError::Missing(name))
    }

    /// Any JSON, kept as the client wrote it; a JSON string is kept as its text.
    pub(crate) fn payload(&mut self, name: &'static str) -> Result<Cow<'a, str>, ItemError> {
        match self.0.iter().find(|(key, _)| key == name) {
            Some((_, value)) if value.get().starts_with('"') => self.text(name),
            _ => Ok(self.take(name).map(|raw| Cow::Borrowed(raw.get())).unwrap_or_default()),
        }
    }
}

/// A JSON value as an attribute value. Numbers beyond 64 bits keep their text.
pub(crate) fn json_value(raw: &RawValue) -> Value<'_> {
    let text = raw.get();
    match text.as_bytes().first() {
        Some(b'"') => serde_json::from_str::<String>(text).map_or(Value::Empty, |s| Value::Str(s.into())),
        Some(b'{') => Value::Map(text.into()),
        Some(b'[') => Value::Array(text.into()),
        Some(b't') => Value::Bool(true),
        Some(b'f') => Value::Bool(false),
        Some(b'n') | None => Value::Empty,
        Some(_) => match (text.parse(), text.parse::<f64>()) {
            (Ok(n), _) => Value::Int(n),
            (_, Ok(n)) if n.is_finite() && text.contains(['.', 'e', 'E']) => Value::Double(n),
            _ => Value::Str(text.into()),
        },
    }
}
