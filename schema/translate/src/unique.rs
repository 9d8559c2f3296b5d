//! Removes repeated keys: the last value of each key stays, once, at the place where the key came first.
//!
//! Hardly any list has repeated keys. So a filter looks at all keys first, which costs some nanoseconds per key and can
//! report a repetition where there is none, but never misses one. Only then are keys compared one by one. The time of
//! both grows only in proportion to the list.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use model::trace::Attribute;

/// Bits of the filter. With sixteen keys, 3 of 100 lists look as if they had a repeated key.
const BITS: usize = 4_096;

/// Whether a key may occur twice; false is certain.
pub fn may_repeat<'k>(keys: impl Iterator<Item = &'k [u8]>) -> bool {
    let mut seen = [0_u64; BITS / 64];
    let mut again = false;
    for key in keys {
        let bit = mix(key) as usize % BITS;
        let (word, mask) = (&mut seen[bit / 64], 1 << (bit % 64));
        again |= *word & mask != 0;
        *word |= mask;
    }
    again
}

/// Cheaper than a hash, and good enough for names: mixes their length, beginning, middle and end.
#[inline]
fn mix(key: &[u8]) -> u64 {
    let word =
        |at: usize| key.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let length = key.len();
    let words = match length {
        0..8 => key.iter().fold(0, |all, byte| all << 8 | u64::from(*byte)),
        _ => word(0) ^ word(length / 2 - 4).rotate_left(21) ^ word(length - 8).rotate_left(42),
    };
    (words ^ length as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40
}

/// The place of each key in a list.
#[derive(Debug, Default)]
pub struct Index {
    places: HashTable<usize>,
    // Seeded at random, so that a client cannot choose keys that collide.
    hasher: RandomState,
}

impl Index {
    /// The place of that key, where `key_at` returns the key at a place. A key without a place gets the place `new`.
    pub fn place<K: AsRef<[u8]>>(&mut self, key: &[u8], new: usize, key_at: impl Fn(usize) -> K) -> Option<usize> {
        let hash = |key: &[u8]| self.hasher.hash_one(key);
        let found = self.places.entry(hash(key), |at| key_at(*at).as_ref() == key, |at| hash(key_at(*at).as_ref()));
        match found {
            hashbrown::hash_table::Entry::Occupied(found) => Some(*found.get()),
            hashbrown::hash_table::Entry::Vacant(free) => {
                free.insert(new);
                None
            }
        }
    }

    /// The place of a key, if it has one.
    pub fn find<K: AsRef<[u8]>>(&self, key: &[u8], key_at: impl Fn(usize) -> K) -> Option<usize> {
        self.places.find(self.hasher.hash_one(key), |at| key_at(*at).as_ref() == key).copied()
    }
}

/// Keeps one attribute of each key, with its last value.
pub fn keep_last(attributes: &mut Vec<Attribute<'_>>) {
    if attributes.len() > 1 && may_repeat(attributes.iter().map(|a| a.key.as_bytes())) {
        compact(attributes);
    }
}

/// The same without the filter. Returns the place of each key afterwards.
pub fn compact(attributes: &mut Vec<Attribute<'_>>) -> Index {
    compact_by(attributes, &(), |attribute, ()| attribute.key.as_bytes(), |_| true)
}

/// The same for anything that has a key, in the item or in `context`, and that may have no value: such an item replaces
/// no other.
pub fn keep_last_of<T, C: ?Sized>(
    items: &mut Vec<T>,
    context: &C,
    key: impl for<'k> Fn(&'k T, &'k C) -> &'k [u8],
    says_something: impl Fn(&T) -> bool,
) {
    if items.len() > 1 && may_repeat(items.iter().map(|item| key(item, context))) {
        compact_by(items, context, key, says_something);
    }
}

fn compact_by<T, C: ?Sized>(
    items: &mut Vec<T>,
    context: &C,
    key: impl for<'k> Fn(&'k T, &'k C) -> &'k [u8],
    says_something: impl Fn(&T) -> bool,
) -> Index {
    let mut index = Index::default();
    let mut kept = 0;
    for at in 0..items.len() {
        match index.place(key(&items[at], context), kept, |at| key(&items[at], context)) {
            Some(first) if says_something(&items[at]) => items.swap(first, at),
            Some(_) => {}
            None => {
                items.swap(kept, at);
                kept += 1;
            }
        }
    }
    items.truncate(kept);
    index
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::trace::Value;
    use std::time::Instant;

    fn list(keys: impl IntoIterator<Item = impl Into<String>>) -> Vec<Attribute<'static>> {
        let keys = keys.into_iter().enumerate();
        keys.map(|(i, key)| Attribute { key: key.into().into(), value: Value::Int(i as i64) }).collect()
    }

    fn kept(mut attributes: Vec<Attribute<'static>>) -> Vec<(String, i64)> {
        keep_last(&mut attributes);
        let pair = |a: Attribute<'static>| (a.key.into_owned(), if let Value::Int(n) = a.value { n } else { -1 });
        attributes.into_iter().map(pair).collect()
    }

    #[test]
    fn the_last_value_of_each_key_stays_at_the_place_of_the_first() {
        for (keys, wanted) in [
            (&[][..], &[][..]),
            (&["a"], &[("a", 0)]),
            (&["a", "b", "c"], &[("a", 0), ("b", 1), ("c", 2)]),
            (&["a", "b", "a", "c", "b", "a"], &[("a", 5), ("b", 4), ("c", 3)]),
            (&["", "", ""], &[("", 2)]),
            (&["x", "X", "é", "e\u{301}"], &[("x", 0), ("X", 1), ("é", 2), ("e\u{301}", 3)]),
        ] {
            let wanted: Vec<_> = wanted.iter().map(|(key, n)| ((*key).to_owned(), *n)).collect();
            assert_eq!(kept(list(keys.iter().copied())), wanted, "{keys:?}");
        }
    }

    #[test]
    fn similar_keys_are_distinguished() {
        // Enough keys to fill the filter many times over, some of which differ only where the filter does not look.
        let alike = (0..20_000).map(|i| format!("{}{}{i:05}{}", "a".repeat(20), "b".repeat(9), "c".repeat(30)));
        assert_eq!(kept(list(alike)).len(), 20_000);
    }

    #[test]
    fn the_quick_check_never_misses_a_repeated_key() {
        for length in 0..40 {
            let key = "k".repeat(length);
            let others: Vec<_> = (0..10).map(|i| format!("{i}{key}")).collect();
            let keys = [key.as_bytes()].into_iter().chain(others.iter().map(String::as_bytes)).chain([key.as_bytes()]);
            assert!(may_repeat(keys), "{length}");
        }
    }

    #[test]
    fn a_hundred_thousand_keys_take_no_longer_than_linear_time() {
        let time = |keys: Vec<Attribute<'static>>| {
            let begun = Instant::now();
            let (before, after) = (keys.len(), kept(keys).len());
            (begun.elapsed(), before, after)
        };
        for repeats in [1, 2, 100_000] {
            let (took, before, after) = time(list((0..100_000).map(|i| format!("key {}", i / repeats))));
            assert_eq!((before, after), (100_000, 100_000 / repeats));
            // Comparing each key with each other would take minutes.
            assert!(took.as_secs() < 2, "{repeats}: {took:?}");
        }
    }
}
