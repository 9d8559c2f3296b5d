//! Rebuilds what a convention took apart: lists that were flattened into many attributes, and messages that were sent
//! as events. The result is JSON for the `inputs` or `outputs` column. The attributes and events stay as they are,
//! because the rebuilt text is not always the original one.

use std::cmp::Ordering;

use model::trace::{Attribute, Event, Value};
use translate::json_text;

use super::table::is_item;

/// Most levels into which a flattened name is split. A deeper name keeps its rest as one key.
const LEVELS_MAX: usize = 16;
/// A segment of more digits than this is a name and not an index.
const INDEX_DIGITS_MAX: usize = 9;

/// One attribute of a flattened list: the rest of its name below the current level, and its value.
type Item<'s, 'a> = (Option<&'s str>, &'s Value<'a>);

/// The list for which the attributes `<prefix><index>.<name>…` stand, in the numeric order of the indexes, as JSON.
pub(super) fn list(prefix: &str, attributes: &[Attribute<'_>]) -> String {
    let items = attributes.iter().filter(|a| is_item(&a.key, prefix));
    let mut items: Vec<Item<'_, '_>> = items.map(|a| (a.key.strip_prefix(prefix), &a.value)).collect();
    items.sort_by(|a, b| by_path(a.0, b.0));
    let mut out = String::new();
    render(&mut items, 0, &mut out);
    out
}

/// The next segment of a name, and the rest after it.
fn split(rest: &str, level: usize) -> (&str, Option<&str>) {
    match rest.split_once('.') {
        Some((segment, rest)) if level < LEVELS_MAX => (segment, Some(rest)),
        _ => (rest, None),
    }
}

fn index(segment: &str) -> Option<u32> {
    let digits = !segment.is_empty() && segment.len() <= INDEX_DIGITS_MAX;
    (digits && segment.bytes().all(|b| b.is_ascii_digit())).then(|| segment.parse().ok()).flatten()
}

/// Compares paths: numbers by their value and before names; a name before the paths below it.
fn by_path(mut a: Option<&str>, mut b: Option<&str>) -> Ordering {
    for level in 0.. {
        let (Some(rest_a), Some(rest_b)) = (a, b) else { break };
        let ((first_a, next_a), (first_b, next_b)) = (split(rest_a, level), split(rest_b, level));
        let order = match (index(first_a), index(first_b)) {
            (Some(m), Some(n)) => m.cmp(&n).then_with(|| first_a.cmp(first_b)),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => first_a.cmp(first_b),
        };
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (next_a, next_b);
    }
    a.is_some().cmp(&b.is_some())
}

/// Writes the items that have the same path above `level`. If items contradict each other (a name has a value and also
/// names below it, or there are names beside indexes), the first wins.
fn render(items: &mut [Item<'_, '_>], level: usize, out: &mut String) {
    let Some((first, value)) = items.first() else { return };
    let Some(first) = first else { return json_text::value(value, out) };
    let is_array = index(split(first, level).0).is_some();
    out.push(if is_array { '[' } else { '{' });
    let mut is_first = true;
    let mut at = 0;
    while let Some((Some(rest), _)) = items.get(at).copied() {
        let segment = split(rest, level).0;
        let same = |item: &Item<'_, '_>| item.0.is_some_and(|rest| split(rest, level).0 == segment);
        let end = at + items[at..].iter().take_while(|item| same(item)).count();
        let group = &mut items[at..end];
        at = end;
        if index(segment).is_some() != is_array {
            continue;
        }
        if !std::mem::take(&mut is_first) {
            out.push(',');
        }
        if !is_array {
            json_text::string(segment, out);
            out.push(':');
        }
        group.iter_mut().for_each(|item| item.0 = item.0.and_then(|rest| split(rest, level).1));
        render(group, level + 1, out);
    }
    out.push(if is_array { ']' } else { '}' });
}

/// The events with these names as a list of messages: their attributes, and as `role` the role that the event's name
/// stands for.
pub(super) fn messages(names: &[&str], events: &[Event<'_>]) -> Option<String> {
    let mut out = String::new();
    for event in events.iter().filter(|e| names.contains(&&*e.name)) {
        out.push(if out.is_empty() { '[' } else { ',' });
        out.push('{');
        let role = event.name.strip_prefix("gen_ai.").and_then(|name| name.strip_suffix(".message"));
        if let Some(role) = role.filter(|_| event.attributes.iter().all(|a| a.key != "role")) {
            out.push_str("\"role\":");
            json_text::string(role, &mut out);
        }
        for attribute in &event.attributes {
            json_text::separate(&mut out, '{');
            json_text::string(&attribute.key, &mut out);
            out.push(':');
            json_text::value(&attribute.value, &mut out);
        }
        out.push('}');
    }
    if out.is_empty() {
        return None;
    }
    out.push(']');
    Some(out)
}
