//! Limits of one span. What exceeds them is left out and counted in `dropped_attributes`, `dropped_events` or
//! `dropped_links`, in which SDKs count what they left out themselves. The span is stored and says that it is not
//! whole.
//!
//! The decoders enforce the counts while they read, because a list of empty items takes a hundred times the memory of
//! its bytes. The sizes are checked afterwards. All limits are in `docs/reference/limits.md`.

use std::borrow::Cow;

use model::trace::{Attribute, Span, Value};
use translate::unique;
use translate::unique::Index;

/// Most attributes of a span, a resource or a scope.
pub const ATTRIBUTES_MAX: usize = 4_096;
/// Most attributes of an event or a link.
pub const ITEM_ATTRIBUTES_MAX: usize = 128;
/// Most events of a span.
pub const EVENTS_MAX: usize = 4_096;
/// Most links of a span.
pub const LINKS_MAX: usize = 1_024;
/// Most bytes of an attribute's name.
pub const KEY_BYTES_MAX: usize = 1_024;
/// Most bytes of an attribute's value. A longer text is cut at a character boundary. Other types cannot be cut, so
/// longer values are left out.
pub const VALUE_BYTES_MAX: usize = 16 << 20;
/// Most levels to which arrays and maps may nest inside one attribute.
pub const NESTING_MAX: u8 = 64;
/// Most bytes of memory for the resources and scopes of one JSON request, with their attributes and the places of their
/// spans.
pub const TREE_BYTES_MAX: usize = 64 << 20;

/// The attribute of a resource or scope that says how many of its attributes were left out. They have no column for it.
pub const DROPPED: &str = "tracebility.dropped_attributes";

/// How much a decoder left out of a span.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Dropped {
    pub attributes: u32,
    pub events: u32,
    pub links: u32,
}

impl Dropped {
    /// Adds these counts to those of the SDK.
    pub(super) fn note(self, span: &mut Span<'_>) {
        for (count, dropped) in [
            (&mut span.dropped_attributes, self.attributes),
            (&mut span.dropped_events, self.events),
            (&mut span.dropped_links, self.links),
        ] {
            *count = count.saturating_add(dropped);
        }
    }
}

/// Keeps one list of attributes within its limit. A full list still takes new values for keys that it has.
#[derive(Debug)]
pub(super) struct Limit {
    max: usize,
    /// Number of attributes that were left out.
    pub dropped: u32,
    /// Made when the list gets full for the first time.
    index: Option<Index>,
}

impl Limit {
    /// A limit of `max` attributes.
    pub(super) fn new(max: usize) -> Self {
        Self { max, dropped: 0, index: None }
    }

    /// Must be called after each attribute that is added to the list.
    #[inline]
    pub(super) fn pushed(&mut self, attributes: &mut Vec<Attribute<'_>>) {
        if attributes.len() > self.max || self.index.is_some() {
            self.settle(attributes);
        }
    }

    #[cold]
    fn settle<'a>(&mut self, attributes: &mut Vec<Attribute<'a>>) {
        let Some(new) = attributes.pop() else { return };
        let index = self.index.get_or_insert_with(|| unique::compact(attributes));
        let (key, length) = (new.key.as_bytes(), attributes.len());
        let key_at = |at: usize| attributes[at].key.as_bytes();
        let known = if length < self.max { index.place(key, length, key_at) } else { index.find(key, key_at) };
        match known {
            Some(at) => attributes[at].value = new.value,
            None if length < self.max => attributes.push(new),
            None => self.dropped = self.dropped.saturating_add(1),
        }
    }
}

/// Removes repeated attributes of a resource or scope, and adds an attribute with the number of those left out.
pub(super) fn note_dropped(attributes: &mut Vec<Attribute<'_>>, dropped: u32) {
    unique::keep_last(attributes);
    let dropped = dropped.saturating_add(cut(attributes));
    if dropped > 0 {
        attributes.retain(|attribute| attribute.key != DROPPED);
        attributes.push(Attribute { key: Cow::Borrowed(DROPPED), value: Value::Int(dropped.into()) });
    }
}

/// Removes repeated attributes, and cuts the span to the limits.
pub(super) fn apply(span: &mut Span<'_>) {
    let own = (&mut span.attributes, &mut span.dropped_attributes);
    let of_events = span.events.iter_mut().map(|event| (&mut event.attributes, &mut event.dropped_attributes));
    let of_links = span.links.iter_mut().map(|link| (&mut link.attributes, &mut link.dropped_attributes));
    for (attributes, dropped) in of_events.chain(of_links).chain([own]) {
        unique::keep_last(attributes);
        *dropped = dropped.saturating_add(cut(attributes));
    }
}

/// Cuts the attributes, and returns how many were left out or cut.
fn cut(attributes: &mut Vec<Attribute<'_>>) -> u32 {
    if attributes.iter().all(fits) {
        return 0;
    }
    let mut dropped = 0;
    attributes.retain_mut(|attribute| {
        if fits(attribute) {
            return true;
        }
        dropped += 1;
        match &mut attribute.value {
            Value::Str(text) if attribute.key.len() <= KEY_BYTES_MAX => {
                let end = text.floor_char_boundary(VALUE_BYTES_MAX);
                match text {
                    Cow::Borrowed(text) => *text = &text[..end],
                    Cow::Owned(text) => text.truncate(end),
                }
                true
            }
            _ => false,
        }
    });
    dropped
}

fn fits(attribute: &Attribute<'_>) -> bool {
    let bytes = match &attribute.value {
        Value::Str(text) | Value::Array(text) | Value::Map(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        Value::Empty | Value::Bool(_) | Value::Int(_) | Value::Double(_) => 0,
    };
    bytes <= VALUE_BYTES_MAX && attribute.key.len() <= KEY_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::trace::Event;

    #[test]
    fn a_full_attribute_list_still_updates_the_keys_it_has() {
        let attribute = |key: usize, n: i64| Attribute { key: key.to_string().into(), value: Value::Int(n) };
        let mut limit = Limit::new(4);
        let mut attributes = Vec::new();
        // First only one key; then three more keys fit; then no more.
        for (i, key) in [1, 1, 1, 1, 1, 2, 3, 1, 4, 5, 6, 2, 5].into_iter().enumerate() {
            attributes.push(attribute(key, i as i64));
            limit.pushed(&mut attributes);
        }
        assert_eq!(attributes, [attribute(1, 7), attribute(2, 11), attribute(3, 6), attribute(4, 8)]);
        assert_eq!(limit.dropped, 3);
    }

    #[test]
    fn long_texts_are_cut_at_a_character_and_the_rest_left_out() {
        let attribute = |key: &str, value| Attribute { key: key.to_owned().into(), value };
        let long = format!("x{}", "é".repeat(VALUE_BYTES_MAX / 2));
        let mut span = Span {
            attributes: vec![
                attribute("borrowed", Value::Str(Cow::Borrowed(&long))),
                attribute("owned", Value::Str(long.clone().into())),
                attribute("array", Value::Array(long.clone().into())),
                attribute("bytes", Value::Bytes(long.as_bytes().into())),
                attribute(&"k".repeat(KEY_BYTES_MAX + 1), Value::Int(1)),
                attribute("fits", Value::Str(Cow::Borrowed(&long[..VALUE_BYTES_MAX - 1]))),
            ],
            events: vec![Event {
                attributes: vec![attribute("m", Value::Map(long.clone().into()))],
                ..Event::default()
            }],
            dropped_attributes: 2,
            ..Span::default()
        };
        apply(&mut span);
        let kept: Vec<_> = span.attributes.iter().map(|a| &*a.key).collect();
        assert_eq!(kept, ["borrowed", "owned", "fits"]);
        for attribute in &span.attributes {
            let Value::Str(text) = &attribute.value else { panic!("{attribute:?}") };
            assert_eq!(text.len(), VALUE_BYTES_MAX - 1, "{}", attribute.key);
        }
        assert_eq!((span.dropped_attributes, span.events[0].dropped_attributes), (7, 1));
    }
}
