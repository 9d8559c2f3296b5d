//! Lists in JSON, each bounded by its length or by its memory. An element of the wrong type is counted.

use model::trace::Attribute;
use serde::de::{Error as _, IgnoredAny, SeqAccess};
use serde_json::value::RawValue;

use crate::forms;
use crate::json_members::{Found, Scalar, Shape, object};
use crate::json_value::AnyValue;
use crate::limits::{Limit, TREE_BYTES_MAX};

object! {
    KeyValue<'a> {
        key: Scalar<'a> = "key",
        value: Found<'a, AnyValue<'a>> = "value",
    }
}

impl<'a> KeyValue<'a> {
    /// The attribute; `None` if the value nests too deep, or if the key is not a text.
    fn attribute(self) -> Option<Attribute<'a>> {
        let key = self.key.value().map_or_else(|| Ok(Default::default()), forms::text).ok()?;
        let value = match self.value {
            Found::Nothing => model::trace::Value::Empty,
            Found::It(given) if given.is_too_deep => return None,
            Found::It(given) => given.value,
            Found::Other(value) => value,
        };
        Some(Attribute { key, value })
    }
}

/// At most `MAX` attributes; further ones are only counted.
#[derive(Default)]
pub(super) struct Pairs<'a, const MAX: usize> {
    pub(super) attributes: Vec<Attribute<'a>>,
    pub(super) dropped: u32,
}

impl<'de, const MAX: usize> Shape<'de> for Pairs<'de, MAX> {
    fn list<A: SeqAccess<'de>>(mut seq: A) -> Result<Found<'de, Self>, A::Error> {
        let mut attributes = Vec::new();
        let mut limit = Limit::new(MAX);
        while let Some(pair) = seq.next_element::<Found<'de, KeyValue<'de>>>()? {
            match pair.split().0.and_then(KeyValue::attribute) {
                Some(attribute) => {
                    attributes.push(attribute);
                    limit.pushed(&mut attributes);
                }
                None => limit.dropped = limit.dropped.saturating_add(1),
            }
        }
        Ok(Found::It(Self { attributes, dropped: limit.dropped }))
    }
}

/// At most `MAX` items; further ones are only counted.
pub(super) struct Limited<T, const MAX: usize> {
    pub(super) items: Vec<T>,
    pub(super) dropped: u32,
}

impl<T, const MAX: usize> Default for Limited<T, MAX> {
    fn default() -> Self {
        Self { items: Vec::new(), dropped: 0 }
    }
}

impl<'de, T: Shape<'de>, const MAX: usize> Shape<'de> for Limited<T, MAX> {
    fn list<A: SeqAccess<'de>>(mut seq: A) -> Result<Found<'de, Self>, A::Error> {
        let mut list = Self::default();
        while list.items.len() < MAX {
            match seq.next_element::<Found<'de, T>>()? {
                Some(Found::It(item)) => list.items.push(item),
                Some(Found::Nothing | Found::Other(_)) => list.dropped = list.dropped.saturating_add(1),
                None => return Ok(Found::It(list)),
            }
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {
            list.dropped = list.dropped.saturating_add(1);
        }
        Ok(Found::It(list))
    }
}

/// A type whose memory can be measured, beyond the bytes of the request.
pub(super) trait Weigh {
    /// Bytes of memory that the item refers to, without the item itself.
    fn inside(&self) -> usize;
}

impl Weigh for &RawValue {
    fn inside(&self) -> usize {
        0
    }
}

impl<T: Weigh> Weigh for Found<'_, T> {
    fn inside(&self) -> usize {
        if let Found::It(it) = self { it.inside() } else { 0 }
    }
}

impl<T> Weigh for Weighed<T> {
    fn inside(&self) -> usize {
        self.bytes
    }
}

impl<const MAX: usize> Weigh for Pairs<'_, MAX> {
    fn inside(&self) -> usize {
        self.attributes.len() * size_of::<Attribute<'_>>()
    }
}

/// A list that is in memory as a whole. It must not take much more memory than its JSON, as `[{},{},...` would.
pub(super) struct Weighed<T> {
    pub(super) items: Vec<T>,
    bytes: usize,
}

impl<T> Default for Weighed<T> {
    fn default() -> Self {
        Self { items: Vec::new(), bytes: 0 }
    }
}

impl<'de, T: serde::Deserialize<'de> + Weigh> Shape<'de> for Weighed<T> {
    fn list<A: SeqAccess<'de>>(mut seq: A) -> Result<Found<'de, Self>, A::Error> {
        let mut list = Self::default();
        while let Some(item) = seq.next_element::<T>()? {
            list.bytes += size_of::<T>() + item.inside();
            if list.bytes > TREE_BYTES_MAX {
                return Err(A::Error::custom(format_args!(
                    "resources, scopes and their attributes take more than {TREE_BYTES_MAX} bytes; send less per request"
                )));
            }
            list.items.push(item);
        }
        Ok(Found::It(list))
    }
}
