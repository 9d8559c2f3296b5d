//! What a span's attributes mean: which of them fill the LLM columns.
//!
//! Many conventions name the same thing. [`TABLE`] lists, per field, what can fill it, the first present one winning.
//! Small values are copied and stay in the attributes; the winning `inputs` and `outputs` texts, which are most of a span's
//! bytes, are moved, and the attribute they came from is noted beside them, so that nothing is lost and nothing is stored
//! twice. The exceptions are values that are not text, flattened lists and messages in events: their columns are made
//! from them, and they stay.

mod gather;
mod kind;
mod table;

use std::borrow::Cow;

use schema::model::{Attribute, Kind, Span, Status, Tokens, Value};

use crate::provider;

pub use table::{FIELDS, Field, Shape, Source, TABLE};

/// A text whose members are asked for may be this long, in bytes; a longer one is none of the small objects in question.
const MEMBERS_BYTES_MAX: usize = 16 << 10;

/// Keeps the span's name where `langsmith.trace.name` takes its place.
pub const SPAN_NAME: &str = "tracebility.span_name";

/// What was found for each field: the lowest rank that says something.
struct Found {
    best: [Option<Best>; FIELDS],
    kind: Kind,
}

#[derive(Clone, Copy)]
struct Best {
    rank: u8,
    /// Where the attribute is.
    index: usize,
    /// Its value, for fields that are numbers.
    number: f64,
}

impl Found {
    fn scan(attributes: &[Attribute<'_>]) -> Self {
        let mut found = Found { best: [None; FIELDS], kind: Kind::Span };
        for (index, Attribute { key, value }) in attributes.iter().enumerate() {
            match table::BY_NAME.get(&**key) {
                Some(places) => {
                    let mut members = None;
                    for (field, rank) in places.iter() {
                        found.offer(field, rank, index, value, &mut members);
                    }
                }
                None => {
                    if let Some((field, rank)) = table::list_of(key) {
                        found.take(field, Best { rank, index, number: 0.0 });
                    }
                }
            }
        }
        found
    }

    /// `members` caches the value's members, because one attribute can stand in many places.
    fn offer(
        &mut self,
        field: Field,
        rank: u8,
        index: usize,
        value: &Value<'_>,
        members: &mut Option<serde_json::Value>,
    ) {
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
                let found = match TABLE[field as usize].1[usize::from(rank)] {
                    Source::Member(_, path) => member(members.get_or_insert_with(|| read_members(value)), path),
                    _ => number_of(value),
                };
                let Some(found) = found else { return };
                number = found;
            }
        }
        self.take(field, Best { rank, index, number });
    }

    fn take(&mut self, field: Field, new: Best) {
        let best = &mut self.best[field as usize];
        if best.is_none_or(|best| new.rank < best.rank) {
            *best = Some(new);
        }
    }

    /// What won.
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

    /// A count; one that is negative is none, one that is too large the largest.
    fn count(&self, field: Field) -> u32 {
        self.number(field).unwrap_or_default() as u32
    }
}

/// Whether a value leaves its field to the next attribute.
fn says_nothing(value: &Value<'_>) -> bool {
    match value {
        Value::Empty | Value::Bytes(_) => true,
        Value::Str(text) => text.is_empty(),
        Value::Bool(_) | Value::Int(_) | Value::Double(_) | Value::Array(_) | Value::Map(_) => false,
    }
}

fn number_of(value: &Value<'_>) -> Option<f64> {
    let n = match value {
        Value::Int(n) => *n as f64,
        Value::Double(n) => *n,
        Value::Str(text) => text.parse().ok()?,
        _ => return None,
    };
    n.is_finite().then_some(n)
}

fn read_members(value: &Value<'_>) -> serde_json::Value {
    match value {
        Value::Str(json) | Value::Map(json) if json.len() <= MEMBERS_BYTES_MAX => {
            serde_json::from_str(json).unwrap_or_default()
        }
        _ => serde_json::Value::Null,
    }
}

fn member(members: &serde_json::Value, path: &[&str]) -> Option<f64> {
    let found = path.iter().try_fold(members, |value, name| value.get(name))?;
    found.as_f64().or_else(|| found.as_str()?.parse().ok()).filter(|n: &f64| n.is_finite())
}

/// A value as a text column shows it.
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
    // Agents and chains repeat the sum of their steps: counted there too, a trace's total would be a multiple.
    if matches!(llm.kind, Kind::Llm | Kind::Embedding | Kind::Reranker) {
        let count = |field| found.count(field).saturating_add(parts_beside(field, &found, attributes));
        let (prompt, completion) = (count(Field::PromptTokens), count(Field::CompletionTokens));
        let total = found.count(Field::TotalTokens);
        llm.tokens = Tokens {
            prompt,
            completion,
            total: if total > 0 { total } else { prompt.saturating_add(completion) },
            cached: found.count(Field::CachedTokens),
            cache_write: found.count(Field::CacheWriteTokens),
            reasoning: found.count(Field::ReasoningTokens),
        };
        llm.cost_usd_e8 = cost(&found).and_then(cost_e8);
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

/// What Langfuse counts beside `input` and `output` where every other convention counts it in: what was cached, reasoned,
/// heard.
fn parts_beside(field: Field, found: &Found, attributes: &[Attribute<'_>]) -> u32 {
    let Some(Source::Member(table::LANGFUSE_USAGE, [whole @ ("input" | "output")])) = found.source(field) else {
        return 0;
    };
    let members = found.value(field, attributes).map(read_members).unwrap_or_default();
    let is_part = |name: &str| match name.strip_prefix(whole) {
        // How fast a token was asked for is no part of its own.
        Some(rest) => rest.starts_with('_') && !rest.starts_with("_priority"),
        None => *whole == "input" && name.starts_with("cache_") && name.ends_with("_input_tokens"),
    };
    let parts = members.as_object().into_iter().flatten().filter(|(name, _)| is_part(name));
    parts.filter_map(|(name, _)| member(&members, &[name])).sum::<f64>() as u32
}

/// Without a kind, a span that names a model and who serves it by the GenAI conventions is a call of that model.
fn calls_a_model(found: &Found) -> bool {
    let provider =
        matches!(found.source(Field::Provider), Some(Source::Attribute("gen_ai.provider.name" | "gen_ai.system")));
    provider && matches!(found.source(Field::Model), Some(Source::Attribute("gen_ai.request.model")))
}

/// In US dollars: the total, else the sum of the parts that are known.
fn cost(found: &Found) -> Option<f64> {
    let (prompt, completion) = (found.number(Field::PromptCost), found.number(Field::CompletionCost));
    let sum = || (prompt.is_some() || completion.is_some()).then(|| prompt.unwrap_or(0.0) + completion.unwrap_or(0.0));
    found.number(Field::Cost).or_else(sum)
}

/// US dollars in units of 10^-8, the scale of `cost_usd Decimal(18, 8)`; `None` if that cannot hold it.
fn cost_e8(usd: f64) -> Option<i64> {
    const DECIMAL_18_MAX: f64 = 1e18;
    let scaled = (usd * 1e8).round();
    (scaled.abs() < DECIMAL_18_MAX).then_some(scaled as i64)
}

fn tags<'a>(value: &Value<'a>, out: &mut Vec<Cow<'a, str>>) {
    match value {
        Value::Array(json) => json_tags(json, out),
        Value::Str(json) if json.starts_with('[') => json_tags(json, out),
        // LangSmith's OTel mode joins them with commas.
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
    // An exception event of a span that did not fail is one that was handled.
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

/// Fills `inputs` and `outputs`. A text is moved there; of another type, or of several attributes, it is a copy.
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
    // From the back, so that the first removal does not shift the second.
    let (first, second) = if inputs > outputs { (inputs, outputs) } else { (outputs, inputs) };
    for index in [first, second].into_iter().flatten() {
        span.attributes.remove(index);
    }
}

/// What fills a payload without leaving its place; empty if it is a text, which is moved instead.
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

/// Gives the span the name that LangSmith has for it; the one it had is kept.
fn rename<'a>(span: &mut Span<'a>, name: Cow<'a, str>) {
    if !name.is_empty() && name != span.name {
        let value = Value::Str(std::mem::replace(&mut span.name, name));
        span.attributes.push(Attribute { key: Cow::Borrowed(SPAN_NAME), value });
    }
}

#[cfg(test)]
mod tests;
