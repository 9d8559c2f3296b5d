//! Finds which of a span's attributes fill the LLM columns.
//!
//! Many conventions name the same thing. [`TABLE`] lists, per field, the attributes that can fill it; the first one
//! that is present wins. Small values are copied and stay in the attributes. The winning `inputs` and `outputs` texts,
//! which are most of a span's bytes, are moved, and the name of their attribute is stored beside them. So nothing is
//! lost and nothing is stored twice. Values that are not text, flattened lists and messages in events are exceptions:
//! their columns are built from them, and they stay in the attributes.

mod gather;
mod kind;
mod table;

use std::borrow::Cow;

use model::trace::{Attribute, Kind, Span, Status, Value};
use translate::usage::{OBJECT_BYTES_MAX, Seen, SentNumber};

use translate::provider;

use table::Meaning;
pub use table::{FIELDS, Field, Shape, Source, TABLE};

/// The attribute that keeps the span's name when `langsmith.trace.name` replaces it.
pub const SPAN_NAME: &str = "tracebility.span_name";

/// For each field, the attribute with the lowest rank that has a value.
struct Found {
    best: [Option<Candidate>; FIELDS],
    kind: Kind,
    usage: Seen,
}

#[derive(Clone, Copy)]
struct Candidate {
    rank: u8,
    /// Index of the attribute in the span.
    index: usize,
    /// Its value, for fields that are numbers.
    number: f64,
}

impl Found {
    fn scan(attributes: &[Attribute<'_>]) -> Self {
        let mut found = Found { best: [None; FIELDS], kind: Kind::Span, usage: Seen::default() };
        for (index, Attribute { key, value }) in attributes.iter().enumerate() {
            match table::BY_NAME.get(&**key) {
                Some(Meaning::Field(field, rank)) => found.offer(*field, *rank, index, value),
                Some(Meaning::Usage(place)) => found.usage.note(*place, index),
                None => {
                    if let Some((field, rank)) = table::list_of(key) {
                        found.take(field, Candidate { rank, index, number: 0.0 });
                    }
                }
            }
        }
        found
    }

    fn offer(&mut self, field: Field, rank: u8, index: usize, value: &Value<'_>) {
        if self.best[field as usize].is_some_and(|best| best.rank <= rank) {
            return;
        }
        let mut number = 0.0;
        match field.shape() {
            Shape::Kind => {
                let Value::Str(text) = value else { return };
                let Some(kind) = kind::kind(rank, text) else { return };
                self.kind = kind;
            }
            Shape::Text => {
                if says_nothing(value) {
                    return;
                }
            }
            Shape::Number => {
                let said = match TABLE[field as usize].1[usize::from(rank)] {
                    Source::Member(_, path) => member(value, path),
                    _ => SentNumber::value(value),
                };
                let SentNumber::Number(said) = said else { return };
                number = said;
            }
        }
        self.take(field, Candidate { rank, index, number });
    }

    fn take(&mut self, field: Field, new: Candidate) {
        let best = &mut self.best[field as usize];
        if best.is_none_or(|best| new.rank < best.rank) {
            *best = Some(new);
        }
    }

    /// The source that won for a field.
    fn source(&self, field: Field) -> Option<Source> {
        self.best[field as usize].map(|best| TABLE[field as usize].1[usize::from(best.rank)])
    }

    fn value<'s, 'a>(&self, field: Field, attributes: &'s [Attribute<'a>]) -> Option<&'s Value<'a>> {
        self.best[field as usize].map(|best| &attributes[best.index].value)
    }

    fn text<'a>(&self, field: Field, attributes: &[Attribute<'a>]) -> Cow<'a, str> {
        self.value(field, attributes).map(text).unwrap_or_default()
    }

    fn number(&self, field: Field) -> Option<f64> {
        self.best[field as usize].map(|best| best.number)
    }
}

/// Whether a value is empty, so that the field takes the next attribute.
fn says_nothing(value: &Value<'_>) -> bool {
    match value {
        Value::Empty | Value::Bytes(_) => true,
        Value::Str(text) => text.is_empty(),
        Value::Bool(_) | Value::Int(_) | Value::Double(_) | Value::Array(_) | Value::Map(_) => false,
    }
}

/// A member of the JSON object that an attribute holds, as a number.
fn member(value: &Value<'_>, path: &[&str]) -> SentNumber {
    let members: serde_json::Value = match value {
        Value::Str(json) | Value::Map(json) if json.len() <= OBJECT_BYTES_MAX => {
            serde_json::from_str(json).unwrap_or_default()
        }
        _ => return SentNumber::Nothing,
    };
    path.iter().try_fold(&members, |value, name| value.get(name)).map_or(SentNumber::Nothing, SentNumber::json)
}

/// A value as text for a column.
pub(super) fn text<'a>(value: &Value<'a>) -> Cow<'a, str> {
    match value {
        Value::Str(text) | Value::Array(text) | Value::Map(text) => text.clone(),
        Value::Int(n) => n.to_string().into(),
        Value::Bool(b) => if *b { "true" } else { "false" }.into(),
        Value::Double(n) => n.to_string().into(),
        Value::Empty | Value::Bytes(_) => Cow::Borrowed(""),
    }
}

/// Fills `span.llm` from the span's attributes, events and status.
pub fn interpret(span: &mut Span<'_>) {
    let found = Found::scan(&span.attributes);
    let attributes = &span.attributes;
    let llm = &mut span.llm;
    llm.model = found.text(Field::Model, attributes);
    llm.response_model = found.text(Field::ResponseModel, attributes);
    llm.provider = provider::current_name(found.text(Field::Provider, attributes));
    llm.kind = match found.best[Field::Kind as usize] {
        Some(_) => found.kind,
        None if calls_a_model(&found) => Kind::Llm,
        None => Kind::Span,
    };
    if llm.model.is_empty() {
        llm.model = llm.response_model.clone();
    }
    // Agents and chains repeat the sum of their steps. If they were counted too, a trace's total would be a multiple.
    if matches!(llm.kind, Kind::Llm | Kind::Embedding | Kind::Reranker) {
        found.usage.read(attributes).fill(llm);
    }
    llm.temperature = found.number(Field::Temperature);
    llm.session_id = found.text(Field::Session, attributes);
    llm.user_id = found.text(Field::User, attributes);
    if let Some(value) = found.value(Field::Tags, attributes) {
        tags(value, &mut llm.tags);
    }
    interpret_error(span, &found);
    let name = found.text(Field::Name, &span.attributes);
    fill_payloads(span, &found);
    rename(span, name);
}

/// Whether a span without a kind is a model call: one that names a model and its provider by the GenAI conventions.
fn calls_a_model(found: &Found) -> bool {
    let provider =
        matches!(found.source(Field::Provider), Some(Source::Attribute("gen_ai.provider.name" | "gen_ai.system")));
    provider && matches!(found.source(Field::Model), Some(Source::Attribute("gen_ai.request.model")))
}

fn tags<'a>(value: &Value<'a>, out: &mut Vec<Cow<'a, str>>) {
    match value {
        Value::Array(json) => json_tags(json, out),
        Value::Str(json) if json.starts_with('[') => json_tags(json, out),
        // LangSmith's OTel mode joins tags with commas.
        Value::Str(Cow::Borrowed(text)) => out.extend(comma_separated(text).map(Cow::Borrowed)),
        Value::Str(Cow::Owned(text)) => out.extend(comma_separated(text).map(|tag| Cow::Owned(tag.to_owned()))),
        _ => {}
    }
}

fn comma_separated(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|tag| !tag.is_empty())
}

fn json_tags<'a>(json: &str, out: &mut Vec<Cow<'a, str>>) {
    let parsed: Vec<serde_json::Value> = serde_json::from_str(json).unwrap_or_default();
    out.extend(parsed.into_iter().filter(|tag| !tag.is_null()).map(|tag| match tag {
        serde_json::Value::String(tag) => Cow::Owned(tag),
        other => Cow::Owned(other.to_string()),
    }));
}

fn interpret_error(span: &mut Span<'_>, found: &Found) {
    // An exception event of a span that did not fail is a handled exception.
    if span.status != Status::Error {
        return;
    }
    let exception = span.events.iter().rev().find(|e| e.name == "exception");
    let of_exception = |key: &str| {
        let attribute = exception.and_then(|e| e.attributes.iter().find(|a| a.key == key));
        attribute.map(|a| text(&a.value)).filter(|t| !t.is_empty())
    };
    let error_type = found.text(Field::ErrorKind, &span.attributes);
    let of_status = Some(span.status_message.clone()).filter(|message| !message.is_empty());
    span.llm.error_message = of_exception("exception.message")
        .or_else(|| of_exception("exception.stacktrace"))
        .or(of_status)
        .or_else(|| Some(error_type.clone()).filter(|t| !t.is_empty()))
        .unwrap_or_else(|| found.text(Field::ErrorText, &span.attributes));
    span.llm.error_kind = of_exception("exception.type").unwrap_or(error_type);
}

/// Fills `inputs` and `outputs`. A text is moved; a value of another type, or one from several attributes, is copied.
fn fill_payloads(span: &mut Span<'_>, found: &Found) {
    span.llm.inputs = copied(Field::Inputs, span, found);
    span.llm.outputs = copied(Field::Outputs, span, found);
    let movable = |field| {
        let index = found.best[field as usize].map(|best| best.index)?;
        let whole = matches!(found.source(field), Some(Source::Attribute(_)));
        (whole && matches!(span.attributes[index].value, Value::Str(_))).then_some(index)
    };
    let (inputs, outputs) = (movable(Field::Inputs), movable(Field::Outputs));
    let mut take = |index: usize| {
        let Attribute { key, value } = &mut span.attributes[index];
        match std::mem::replace(value, Value::Empty) {
            Value::Str(text) => (key.clone(), text),
            _ => Default::default(),
        }
    };
    if let Some(index) = inputs {
        (span.llm.inputs_attribute, span.llm.inputs) = take(index);
    }
    if let Some(index) = outputs {
        (span.llm.outputs_attribute, span.llm.outputs) = take(index);
    }
    // The larger index first, so that the first removal does not shift the second.
    let (first, second) = if inputs > outputs { (inputs, outputs) } else { (outputs, inputs) };
    for index in [first, second].into_iter().flatten() {
        span.attributes.remove(index);
    }
}

/// The payload, if it is built as a copy; empty if it is a text, which is moved instead.
fn copied<'a>(field: Field, span: &Span<'a>, found: &Found) -> Cow<'a, str> {
    match (found.source(field), found.value(field, &span.attributes)) {
        (Some(Source::List(prefix)), _) => gather::list(prefix, &span.attributes).into(),
        (Some(_), Some(Value::Str(_))) => Cow::Borrowed(""),
        (Some(_), Some(value)) => text(value),
        _ if span.events.is_empty() => Cow::Borrowed(""),
        _ => TABLE[field as usize].1.iter().find_map(|source| of_events(source, span)).unwrap_or_default(),
    }
}

fn of_events<'a>(source: &Source, span: &Span<'a>) -> Option<Cow<'a, str>> {
    match source {
        Source::EventAttribute(name, key) => {
            let event = span.events.iter().rev().find(|event| event.name == *name)?;
            let value = &event.attributes.iter().find(|a| a.key == *key)?.value;
            (!says_nothing(value)).then(|| text(value))
        }
        Source::Messages(names) => gather::messages(names, &span.events).map(Cow::Owned),
        Source::Attribute(_) | Source::Member(..) | Source::List(_) => None,
    }
}

/// Gives the span the name that LangSmith has for it, and keeps the old name as an attribute.
fn rename<'a>(span: &mut Span<'a>, name: Cow<'a, str>) {
    if !name.is_empty() && name != span.name {
        let value = Value::Str(std::mem::replace(&mut span.name, name));
        span.attributes.push(Attribute { key: Cow::Borrowed(SPAN_NAME), value });
    }
}

#[cfg(test)]
mod tests;
