//! JSON as clients write it: `null` anywhere, members that occur again, and values of another type than expected. Such
//! a value may cost only itself, so nothing here refuses a value that is JSON.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use model::trace::Value;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use translate::fields::nests_deeper;
use translate::json_text;

use crate::limits::NESTING_MAX;

/// The methods of a visitor for scalars, each of which becomes a [`Value`].
macro_rules! scalars {
    ($wrap:expr) => {
        fn visit_bool<E>(self, b: bool) -> Result<Self::Value, E> {
            Ok($wrap(model::trace::Value::Bool(b)))
        }

        fn visit_i64<E>(self, n: i64) -> Result<Self::Value, E> {
            Ok($wrap(model::trace::Value::Int(n)))
        }

        fn visit_u64<E>(self, n: u64) -> Result<Self::Value, E> {
            let text = || model::trace::Value::Str(n.to_string().into());
            Ok($wrap(i64::try_from(n).map_or_else(|_| text(), model::trace::Value::Int)))
        }

        fn visit_f64<E>(self, n: f64) -> Result<Self::Value, E> {
            Ok($wrap(model::trace::Value::Double(n)))
        }

        fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
            Ok($wrap(model::trace::Value::Str(text.into())))
        }

        fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
            Ok($wrap(model::trace::Value::Str(text.to_owned().into())))
        }

        fn visit_string<E>(self, text: String) -> Result<Self::Value, E> {
            Ok($wrap(model::trace::Value::Str(text.into())))
        }
    };
}
pub(crate) use scalars;

/// A type that is read from JSON: from a list, from an object, or from neither.
pub(crate) trait Shape<'de>: Sized {
    /// Reads a list. Unless overridden, it counts as a value of another type: [`Found::Other`].
    fn list<A: SeqAccess<'de>>(seq: A) -> Result<Found<'de, Self>, A::Error> {
        any_list(seq).map(Found::Other)
    }

    /// Reads an object. Unless overridden, it counts as a value of another type: [`Found::Other`].
    fn object<A: MapAccess<'de>>(map: A) -> Result<Found<'de, Self>, A::Error> {
        any_object(map).map(Found::Other)
    }
}

/// The value that was found where a `T` was expected.
#[derive(Default)]
pub(crate) enum Found<'a, T> {
    /// The member is missing, or is `null`.
    #[default]
    Nothing,
    /// A value of the expected type.
    It(T),
    /// A value of another type; lists and objects as their JSON.
    Other(Value<'a>),
}

impl<'a, T> Found<'a, T> {
    /// Takes the value of a member. If the member occurs again, its value replaces the earlier one; `null` replaces
    /// nothing.
    pub(crate) fn put(&mut self, given: Self) {
        if !matches!(given, Found::Nothing) {
            *self = given;
        }
    }

    /// Splits into the expected value and a value of another type; at most one of them is there.
    pub(crate) fn split(self) -> (Option<T>, Option<Value<'a>>) {
        match self {
            Found::Nothing => (None, None),
            Found::It(it) => (Some(it), None),
            Found::Other(value) => (None, Some(value)),
        }
    }
}

impl<'de, T: Shape<'de>> Deserialize<'de> for Found<'de, T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any<T>(PhantomData<T>);
        impl<'de, T: Shape<'de>> Visitor<'de> for Any<T> {
            type Value = Found<'de, T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }

            scalars!(Found::Other);

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Found::Nothing)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
                T::list(seq)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::object(map)
            }
        }
        deserializer.deserialize_any(Any(PhantomData))
    }
}

/// The expected type where only scalars are expected: lists and objects are values of another type.
pub(crate) enum Never {}

impl Shape<'_> for Never {}

/// A scalar of any type.
pub(crate) type Scalar<'a> = Found<'a, Never>;

impl<'a> Scalar<'a> {
    /// The value, if there is one.
    pub(crate) fn value(self) -> Option<Value<'a>> {
        self.split().1
    }
}

/// The name of a member.
#[derive(Deserialize)]
pub(crate) struct Key<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

/// Declares an object with these members, each with all its names. Unknown members are skipped.
macro_rules! object {
    ($(#[$doc:meta])* $name:ident<$a:lifetime> { $($field:ident: $ty:ty = $($key:literal)|+,)* }) => {
        $(#[$doc])*
        #[derive(Default)]
        struct $name<$a> { $($field: $ty,)* }

        impl<$a> $crate::json_members::Shape<$a> for $name<$a> {
            fn object<A: serde::de::MapAccess<$a>>(
                mut map: A,
            ) -> Result<$crate::json_members::Found<$a, Self>, A::Error> {
                let mut object = Self::default();
                while let Some($crate::json_members::Key(key)) = map.next_key()? {
                    match &*key {
                        $($($key)|+ => object.$field.put(map.next_value()?),)*
                        _ => {
                            map.next_value::<serde::de::IgnoredAny>()?;
                        }
                    }
                }
                Ok($crate::json_members::Found::It(object))
            }
        }
    };
}
pub(crate) use object;

/// Reads a list where none was expected, as its JSON.
pub(crate) fn any_list<'de, A: SeqAccess<'de>>(mut seq: A) -> Result<Value<'de>, A::Error> {
    let mut json = String::from("[");
    while let Some(item) = seq.next_element::<&RawValue>()? {
        json_text::separate(&mut json, '[');
        json.push_str(item.get());
    }
    json.push(']');
    Ok(bounded(json, Value::Array))
}

/// Reads an object where none was expected, as its JSON.
pub(crate) fn any_object<'de, A: MapAccess<'de>>(mut map: A) -> Result<Value<'de>, A::Error> {
    let mut json = String::from("{");
    while let Some((Key(key), value)) = map.next_entry::<Key<'de>, &RawValue>()? {
        json_text::separate(&mut json, '{');
        json_text::string(&key, &mut json);
        json.push(':');
        json.push_str(value.get());
    }
    json.push('}');
    Ok(bounded(json, Value::Map))
}

/// JSON that nests too deep for later readers becomes a text.
fn bounded<'a>(json: String, typed: fn(Cow<'a, str>) -> Value<'a>) -> Value<'a> {
    match nests_deeper(&json, NESTING_MAX.into()) {
        true => Value::Str(json.into()),
        false => typed(json.into()),
    }
}
