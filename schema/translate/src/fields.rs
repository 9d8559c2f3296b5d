//! Reads a JSON object field by field, so that the fields that were not taken are still there at the end.

use std::borrow::Cow;

use model::trace::Value;
use serde::Deserialize;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::unique;

/// Most members of one JSON object that is read this way. Each takes forty bytes of memory and can be five bytes in the
/// body.
pub const MEMBERS_MAX: usize = 8_192;
/// Most levels of arrays and objects inside one another in one field. serde_json reads 127, and stored values are put
/// into other JSON.
pub const NESTING_MAX: usize = 100;

/// Why an item is rejected.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ItemError {
    #[error("not a JSON object: {0}")]
    NotAnObject(serde_json::Error),
    #[error("`{0}` is missing")]
    Missing(&'static str),
    #[error("`{field}`: {reason}")]
    Field { field: &'static str, reason: String },
    #[error("`{field}` is nested deeper than {NESTING_MAX} levels")]
    NestedTooDeep { field: String },
}

impl ItemError {
    /// A field whose value is of the wrong type: the reason and the value, both cut to a short length.
    pub fn unreadable(field: &'static str, reason: &str, value: &str) -> Self {
        const TOLD_BYTES_MAX: usize = 128;
        let short = |text: &str| match text.floor_char_boundary(TOLD_BYTES_MAX) {
            end if end < text.len() => format!("{}...", &text[..end]),
            _ => text.to_owned(),
        };
        Self::Field { field, reason: format!("{}: {}", short(reason), short(value)) }
    }
}

/// A list of at most `MAX` items; a longer list is refused before it takes memory.
pub struct Bounded<T, const MAX: usize>(pub Vec<T>);

impl<T, const MAX: usize> Default for Bounded<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Bounded<T, MAX> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T, const MAX: usize>(Vec<T>);
        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Items<T, MAX> {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let Self(mut items) = self;
                while let Some(item) = seq.next_element()? {
                    if items.len() == MAX {
                        return Err(A::Error::custom(format_args!("more than {MAX} items")));
                    }
                    items.push(item);
                }
                Ok(items)
            }
        }
        deserializer.deserialize_seq(Items::<T, MAX>(Vec::new())).map(Self)
    }
}

/// The fields of an object that were not taken yet, in the order in which they came. If a name occurs again, its last
/// value counts.
pub struct Fields<'a>(pub Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Fields<'a> {
    /// Reads the fields of an object.
    pub fn read(raw: &'a RawValue) -> Result<Self, ItemError> {
        Self::of_text(raw.get())
    }

    /// The same for a text that may not be JSON.
    pub fn of_text(text: &'a str) -> Result<Self, ItemError> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                #[derive(Deserialize, PartialEq, Eq, Hash)]
                struct Key<'a>(#[serde(borrow)] Cow<'a, str>);
                let mut fields = Vec::new();
                while let Some((Key(key), value)) = map.next_entry()? {
                    if fields.len() == MEMBERS_MAX {
                        return Err(A::Error::custom(format_args!("more than {MEMBERS_MAX} members")));
                    }
                    fields.push((key, value));
                }
                Ok(fields)
            }
        }
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let members = serde::Deserializer::deserialize_map(&mut deserializer, Members);
        let members = members.and_then(|members| deserializer.end().map(|()| members));
        let mut members = members.map_err(ItemError::NotAnObject)?;
        unique::keep_last_of(&mut members, &(), |(name, _), ()| name.as_bytes(), |(_, value)| value.get() != "null");
        Ok(Self(members))
    }

    /// Fails if a field is nested too deep for later readers.
    pub fn check_nesting(&self) -> Result<(), ItemError> {
        match self.0.iter().find(|(_, value)| nests_deeper(value.get(), NESTING_MAX)) {
            Some((field, _)) => Err(ItemError::NestedTooDeep { field: field.clone().into_owned() }),
            None => Ok(()),
        }
    }

    /// Takes a field out; `null` counts as missing.
    pub fn take(&mut self, name: &str) -> Option<&'a RawValue> {
        let index = self.0.iter().position(|(key, _)| key == name)?;
        Some(self.0.remove(index).1).filter(|value| value.get() != "null")
    }

    /// Takes a field of a given type out; `None` if it is missing.
    pub fn parse<T: Deserialize<'a>>(&mut self, name: &'static str) -> Result<Option<T>, ItemError> {
        let parsed =
            self.take(name).map(|raw| serde_json::from_str(raw.get()).map_err(|error| (error, raw))).transpose();
        parsed.map_err(|(error, raw)| ItemError::unreadable(name, &error.to_string(), raw.get()))
    }

    /// Takes a text out; empty if it is missing.
    pub fn text(&mut self, name: &'static str) -> Result<Cow<'a, str>, ItemError> {
        #[derive(Deserialize)]
        struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
        Ok(self.parse::<Text<'a>>(name)?.map(|t| t.0).unwrap_or_default())
    }

    /// The value of a field that must not be missing.
    pub fn required<T>(value: Option<T>, name: &'static str) -> Result<T, ItemError> {
        value.ok_or(ItemError::Missing(name))
    }

    /// Takes any JSON out, as the client wrote it; a JSON string becomes its text.
    pub fn payload(&mut self, name: &'static str) -> Result<Cow<'a, str>, ItemError> {
        match self.0.iter().find(|(key, _)| key == name) {
            Some((_, value)) if value.get().starts_with('"') => self.text(name),
            _ => Ok(self.take(name).map(|raw| Cow::Borrowed(raw.get())).unwrap_or_default()),
        }
    }
}

/// Whether a JSON text has more than `max` levels of arrays and objects inside one another.
pub fn nests_deeper(text: &str, max: usize) -> bool {
    let bytes = text.as_bytes();
    // Each level takes at least two characters.
    if bytes.len() <= 2 * max || !matches!(bytes[0], b'[' | b'{') {
        return false;
    }
    let (mut depth, mut at) = (0, 0);
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'"' => at = string_end(bytes, at),
            b'[' | b'{' if depth == max => return true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth -= 1,
            _ => {}
        }
    }
    false
}

/// The end of a string whose opening quote is before `at`.
pub fn string_end(bytes: &[u8], mut at: usize) -> usize {
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += found + 1;
        match bytes[at - 1] {
            b'"' => return at,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// A JSON value as an attribute value. Numbers beyond 64 bits keep their text.
pub fn json_value(raw: &RawValue) -> Value<'_> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_cannot_be_read_is_named_with_its_value() {
        let error = |text: &str| {
            let error = Fields::of_text(text).unwrap().parse::<u8>("n").unwrap_err().to_string();
            assert!(error.len() < 400, "{error}");
            error
        };
        assert!(error(r#"{"n":-7}"#).starts_with("`n`: ") && error(r#"{"n":-7}"#).ends_with(": -7"));
        assert!(error(&format!(r#"{{"n":"{}"}}"#, "é".repeat(1_000))).ends_with("é..."));
    }

    #[test]
    fn nesting_levels_ignore_brackets_inside_strings() {
        let nested = |levels: usize, inside: &str| format!("{}{inside}{}", "[".repeat(levels), "]".repeat(levels));
        for (text, deeper) in [
            (nested(5, ""), false),
            (nested(6, ""), true),
            (nested(4, r#"{"a":1},{"b":[]}"#), true),
            (nested(4, r#"{"a":1},{"b":2}"#), false),
            (nested(4, r#""[[[[\"[[\\","]]""#), false),
            (nested(4, r#""]]\"]]\\",[[]]"#), true),
            (r#""[[[[[[[[[[[[[[[[[[""#.to_owned(), false),
            ("123456789012345".to_owned(), false),
        ] {
            serde_json::from_str::<serde_json::Value>(&text).unwrap();
            assert_eq!(nests_deeper(&text, 5), deeper, "{text}");
        }
    }

    #[test]
    fn the_last_value_of_a_repeated_member_wins() {
        let mut fields = Fields::of_text(r#"{"a":1,"b":null,"a":[2],"b":3,"a":"last","a":null}"#).unwrap();
        assert_eq!(fields.0.len(), 2);
        assert_eq!(fields.take("a").unwrap().get(), "\"last\"");
        assert_eq!(fields.take("b").unwrap().get(), "3");
    }

    #[test]
    fn an_oversized_object_or_list_is_refused_while_it_is_read() {
        let object = |n: usize| format!("{{{}}}", (0..n).map(|i| format!("\"k{i}\":0")).collect::<Vec<_>>().join(","));
        let read = |text: &str| Fields::read(serde_json::from_str(text).unwrap()).map(|fields| fields.0.len());
        assert_eq!(read(&object(MEMBERS_MAX)).unwrap(), MEMBERS_MAX);
        let refused = read(&object(MEMBERS_MAX + 1)).unwrap_err().to_string();
        assert!(refused.contains("more than 8192 members"), "{refused}");
        assert_eq!(serde_json::from_str::<Bounded<u8, 3>>("[1,2,3]").unwrap().0, [1, 2, 3]);
        assert!(
            serde_json::from_str::<Bounded<u8, 3>>("[1,2,3,4]").is_err_and(|e| e.to_string().contains("more than 3"))
        );
    }
}
