//! OTLP trace requests in JSON: the protobuf JSON mapping with OTLP's exceptions (hex ids, enums as numbers), plus what
//! real SDKs send: 64-bit integers as numbers or strings, non-integral `intValue`s, `null` doubles, enum names.
//!
//! Source: OTLP specification, "JSON Protobuf Encoding"; deviations as captured from SDKs.

use std::borrow::Cow;

use schema::model::{Attribute, Event, Link, Origin, Span, UnixNanos, Value, span_uuid};
use serde::Deserialize;
use serde::de::{Error as _, IgnoredAny};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::json_value::AnyValue;
use super::limits::{
    self, ATTRIBUTES_MAX, Dropped, EVENTS_MAX, ITEM_ATTRIBUTES_MAX, LINKS_MAX, NESTING_MAX_JSON, TREE_BYTES_MAX,
};
use super::{STATUS_ERROR, Sink, SpanError};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    #[serde(borrow, default, alias = "resource_spans")]
    resource_spans: Weighed<ResourceSpans<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResourceSpans<'a> {
    #[serde(borrow, default)]
    resource: Option<Resource<'a>>,
    #[serde(borrow, default, alias = "scope_spans")]
    scope_spans: Weighed<ScopeSpans<'a>>,
    #[serde(borrow, default, alias = "schema_url")]
    schema_url: Text<'a>,
}

#[derive(Deserialize)]
struct Resource<'a> {
    #[serde(borrow, default)]
    attributes: Pairs<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ScopeSpans<'a> {
    #[serde(borrow, default)]
    scope: Option<Scope<'a>>,
    /// Read one by one: a span that is no span costs only itself.
    #[serde(borrow, default)]
    spans: Weighed<&'a RawValue>,
    #[serde(borrow, default, alias = "schema_url")]
    schema_url: Text<'a>,
}

#[derive(Deserialize)]
struct Scope<'a> {
    #[serde(borrow, default)]
    name: Text<'a>,
    #[serde(borrow, default)]
    version: Text<'a>,
    #[serde(borrow, default)]
    attributes: Pairs<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SpanJson<'a> {
    #[serde(borrow, default, alias = "trace_id")]
    trace_id: Text<'a>,
    #[serde(borrow, default, alias = "span_id")]
    span_id: Text<'a>,
    #[serde(borrow, default, alias = "trace_state")]
    trace_state: Text<'a>,
    #[serde(borrow, default, alias = "parent_span_id")]
    parent_span_id: Text<'a>,
    #[serde(borrow, default)]
    name: Text<'a>,
    #[serde(borrow, default)]
    kind: Option<Number<'a>>,
    #[serde(borrow, default, alias = "start_time_unix_nano")]
    start_time_unix_nano: Option<Number<'a>>,
    #[serde(borrow, default, alias = "end_time_unix_nano")]
    end_time_unix_nano: Option<Number<'a>>,
    #[serde(borrow, default)]
    attributes: Pairs<'a>,
    #[serde(borrow, default, alias = "dropped_attributes_count")]
    dropped_attributes_count: Option<Number<'a>>,
    #[serde(borrow, default)]
    events: Limited<EventJson<'a>, EVENTS_MAX>,
    #[serde(borrow, default, alias = "dropped_events_count")]
    dropped_events_count: Option<Number<'a>>,
    #[serde(borrow, default)]
    links: Limited<LinkJson<'a>, LINKS_MAX>,
    #[serde(borrow, default, alias = "dropped_links_count")]
    dropped_links_count: Option<Number<'a>>,
    #[serde(borrow, default)]
    status: Option<StatusJson<'a>>,
    #[serde(borrow, default)]
    flags: Option<Number<'a>>,
}

#[derive(Deserialize)]
struct StatusJson<'a> {
    #[serde(borrow, default)]
    message: Text<'a>,
    #[serde(borrow, default)]
    code: Option<Number<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EventJson<'a> {
    #[serde(borrow, default, alias = "time_unix_nano")]
    time_unix_nano: Option<Number<'a>>,
    #[serde(borrow, default)]
    name: Text<'a>,
    #[serde(borrow, default)]
    attributes: Limited<KeyValue<'a>, ITEM_ATTRIBUTES_MAX>,
    #[serde(borrow, default, alias = "dropped_attributes_count")]
    dropped_attributes_count: Option<Number<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LinkJson<'a> {
    #[serde(borrow, default, alias = "trace_id")]
    trace_id: Text<'a>,
    #[serde(borrow, default, alias = "span_id")]
    span_id: Text<'a>,
    #[serde(borrow, default, alias = "trace_state")]
    trace_state: Text<'a>,
    #[serde(borrow, default)]
    attributes: Limited<KeyValue<'a>, ITEM_ATTRIBUTES_MAX>,
    #[serde(borrow, default, alias = "dropped_attributes_count")]
    dropped_attributes_count: Option<Number<'a>>,
    #[serde(borrow, default)]
    flags: Option<Number<'a>>,
}

#[derive(Deserialize)]
struct KeyValue<'a> {
    #[serde(borrow, default)]
    key: Text<'a>,
    #[serde(borrow, default)]
    value: AnyValue<'a>,
}

/// Attributes of a span, a resource or a scope.
type Pairs<'a> = Limited<KeyValue<'a>, ATTRIBUTES_MAX>;

/// A list of at most `MAX` items; further ones are only counted.
struct Limited<T, const MAX: usize> {
    items: Vec<T>,
    dropped: u32,
}

impl<T, const MAX: usize> Default for Limited<T, MAX> {
    fn default() -> Self {
        Self { items: Vec::new(), dropped: 0 }
    }
}

impl<T, const MAX: usize> Limited<T, MAX> {
    fn bytes(&self) -> usize {
        self.items.len() * size_of::<T>()
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Limited<T, MAX> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T, const MAX: usize>(Limited<T, MAX>);
        impl<'de, T: Deserialize<'de>, const MAX: usize> serde::de::Visitor<'de> for Visitor<T, MAX> {
            type Value = Limited<T, MAX>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let Self(mut list) = self;
                while list.items.len() < MAX {
                    match seq.next_element()? {
                        Some(item) => list.items.push(item),
                        None => return Ok(list),
                    }
                }
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    list.dropped = list.dropped.saturating_add(1);
                }
                Ok(list)
            }
        }
        deserializer.deserialize_seq(Visitor(Self::default()))
    }
}

/// What a list takes beside the request's own bytes.
trait Weigh {
    /// In bytes, without the item itself.
    fn inside(&self) -> usize;
}

impl Weigh for &RawValue {
    fn inside(&self) -> usize {
        0
    }
}

impl Weigh for ScopeSpans<'_> {
    fn inside(&self) -> usize {
        self.spans.bytes + self.scope.as_ref().map_or(0, |scope| scope.attributes.bytes())
    }
}

impl Weigh for ResourceSpans<'_> {
    fn inside(&self) -> usize {
        self.scope_spans.bytes + self.resource.as_ref().map_or(0, |resource| resource.attributes.bytes())
    }
}

/// A list that is all in memory at once, and so must not take much more than the text that it was: `[{},{},...` would.
struct Weighed<T> {
    items: Vec<T>,
    bytes: usize,
}

impl<T> Default for Weighed<T> {
    fn default() -> Self {
        Self { items: Vec::new(), bytes: 0 }
    }
}

impl<'de, T: Deserialize<'de> + Weigh> Deserialize<'de> for Weighed<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(Weighed<T>);
        impl<'de, T: Deserialize<'de> + Weigh> serde::de::Visitor<'de> for Visitor<T> {
            type Value = Weighed<T>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let Self(mut list) = self;
                while let Some(item) = seq.next_element::<T>()? {
                    list.bytes += size_of::<T>() + item.inside();
                    if list.bytes > TREE_BYTES_MAX {
                        return Err(A::Error::custom(format_args!(
                            "resources, scopes and their attributes take more than {TREE_BYTES_MAX} bytes; send less per request"
                        )));
                    }
                    list.items.push(item);
                }
                Ok(list)
            }
        }
        deserializer.deserialize_seq(Visitor(Self::default()))
    }
}

/// A string, borrowed where it has no escapes; `null` is the empty one.
#[derive(Default)]
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Borrowed<'a>(#[serde(borrow)] Cow<'a, str>);
        let text: Option<Borrowed<'de>> = Option::deserialize(deserializer)?;
        Ok(Self(text.map(|t| t.0).unwrap_or_default()))
    }
}

/// A number as the client wrote it, in quotes or not.
#[derive(Deserialize)]
pub(super) struct Number<'a>(#[serde(borrow)] &'a RawValue);

impl Number<'_> {
    fn text(&self) -> &str {
        self.0.get().trim_matches('"')
    }

    fn unsigned(number: &Option<Self>) -> u64 {
        number.as_ref().map_or(0, |n| n.text().parse().unwrap_or_default())
    }

    fn count(number: &Option<Self>) -> u32 {
        u32::try_from(Self::unsigned(number)).unwrap_or(u32::MAX)
    }

    fn nanos(number: &Option<Self>) -> UnixNanos {
        UnixNanos::try_from(Self::unsigned(number)).unwrap_or(UnixNanos::MAX)
    }

    /// JavaScript writes 1.0 as an integer and 1e300 as an `intValue`: what does not fit 64 bits is a double.
    pub(super) fn int_value<'v>(&self) -> Value<'v> {
        match self.text().parse() {
            Ok(n) => Value::Int(n),
            Err(_) => self.double_value(),
        }
    }

    pub(super) fn double_value<'v>(&self) -> Value<'v> {
        match self.text() {
            "Infinity" => Value::Double(f64::INFINITY),
            "-Infinity" => Value::Double(f64::NEG_INFINITY),
            text => text.parse().map_or(Value::Empty, Value::Double),
        }
    }
}

/// Reads an `ExportTraceServiceRequest` in JSON, handing each span to the sink.
pub fn decode<'a>(body: &'a [u8], sink: &mut impl Sink<'a>) -> Result<(), serde_json::Error> {
    let request: Request<'a> = serde_json::from_slice(body)?;
    let mut span = Span::default();
    for resource_spans in request.resource_spans.items {
        let mut origin = Origin {
            resource_attributes: origin_attributes(resource_spans.resource.map(|r| r.attributes)),
            resource_schema_url: resource_spans.schema_url.0,
            ..Origin::default()
        };
        let service = origin.resource_attributes.iter().find(|a| a.key == "service.name");
        if let Some(Attribute { value: Value::Str(name), .. }) = service {
            origin.service_name = name.clone();
        }
        for scope_spans in resource_spans.scope_spans.items {
            let scope = scope_spans.scope;
            origin.scope_schema_url = scope_spans.schema_url.0;
            (origin.scope_name, origin.scope_version, origin.scope_attributes) = match scope {
                Some(s) => (s.name.0, s.version.0, origin_attributes(Some(s.attributes))),
                None => Default::default(),
            };
            sink.origin();
            for raw in scope_spans.spans.items {
                super::reset(&mut span);
                match read_span(raw, &mut span).and_then(|()| super::check_ids(&span)) {
                    Ok(()) => sink.span(&origin, &mut span),
                    Err(error) => sink.set_aside(&span, error),
                }
            }
        }
    }
    Ok(())
}

fn read_span<'a>(raw: &'a RawValue, span: &mut Span<'a>) -> Result<(), SpanError> {
    let error = match serde_json::from_str::<SpanJson<'a>>(raw.get()) {
        Ok(json) => return fill(json, span),
        Err(error) => error,
    };
    // Whose span it is, if that much can be read: the answer names it.
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Ids<'a> {
        #[serde(borrow, default, alias = "trace_id")]
        trace_id: Text<'a>,
        #[serde(borrow, default, alias = "span_id")]
        span_id: Text<'a>,
    }
    if let Ok(ids) = serde_json::from_str::<Ids<'_>>(raw.get()) {
        span.run_id = trace_id(&ids.trace_id.0).unwrap_or_default();
        span.span_id = span_id(&ids.span_id.0).unwrap_or_default();
    }
    Err(if is_too_deep(&error) { SpanError::NestedTooDeep(NESTING_MAX_JSON) } else { SpanError::WrongType })
}

/// Whether a document or span nests deeper than serde_json reads.
pub(super) fn is_too_deep(error: &serde_json::Error) -> bool {
    error.to_string().starts_with("recursion limit exceeded")
}

fn fill<'a>(json: SpanJson<'a>, span: &mut Span<'a>) -> Result<(), SpanError> {
    span.run_id = trace_id(&json.trace_id.0)?;
    span.span_id = span_id(&json.span_id.0)?;
    if !json.parent_span_id.0.is_empty() {
        span.parent_span_id = span_id(&json.parent_span_id.0)?;
    }
    span.trace_state = json.trace_state.0;
    span.name = json.name.0;
    span.span_kind = json.kind.map_or(0, |kind| span_kind(kind.text()));
    span.start_time = Number::nanos(&json.start_time_unix_nano);
    span.end_time = Number::nanos(&json.end_time_unix_nano);
    span.dropped_attributes = Number::count(&json.dropped_attributes_count);
    span.dropped_events = Number::count(&json.dropped_events_count);
    span.dropped_links = Number::count(&json.dropped_links_count);
    span.flags = Number::count(&json.flags);
    if let Some(status) = json.status {
        let code = status.code.as_ref().map_or("0", Number::text);
        span.status = super::status(code == "STATUS_CODE_ERROR" || code.parse() == Ok(STATUS_ERROR));
        span.status_message = status.message.0;
    }
    let dropped =
        Dropped { attributes: json.attributes.dropped, events: json.events.dropped, links: json.links.dropped };
    dropped.note(span);
    fill_attributes(json.attributes.items, &mut span.attributes);
    for event in json.events.items {
        let mut filled = Event {
            time: Number::nanos(&event.time_unix_nano),
            name: event.name.0,
            dropped_attributes: Number::count(&event.dropped_attributes_count).saturating_add(event.attributes.dropped),
            ..Event::default()
        };
        fill_attributes(event.attributes.items, &mut filled.attributes);
        span.events.push(filled);
    }
    for link in json.links.items {
        let mut filled = Link {
            trace_id: trace_id(&link.trace_id.0)?,
            span_id: span_id(&link.span_id.0)?,
            trace_state: link.trace_state.0,
            dropped_attributes: Number::count(&link.dropped_attributes_count).saturating_add(link.attributes.dropped),
            flags: Number::count(&link.flags),
            ..Link::default()
        };
        fill_attributes(link.attributes.items, &mut filled.attributes);
        span.links.push(filled);
    }
    Ok(())
}

fn span_kind(text: &str) -> u8 {
    match text {
        "SPAN_KIND_INTERNAL" => 1,
        "SPAN_KIND_SERVER" => 2,
        "SPAN_KIND_CLIENT" => 3,
        "SPAN_KIND_PRODUCER" => 4,
        "SPAN_KIND_CONSUMER" => 5,
        number => number.parse().unwrap_or_default(),
    }
}

fn hex<const N: usize>(text: &str) -> Result<[u8; N], Option<usize>> {
    if text.len() != 2 * N {
        return Err(Some(text.len() / 2));
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |c: u8| char::from(c).to_digit(16).ok_or(None);
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Ok(bytes)
}

fn trace_id(text: &str) -> Result<Uuid, SpanError> {
    hex(text).map(Uuid::from_bytes).map_err(|len| len.map_or(SpanError::NotHex, SpanError::TraceId))
}

fn span_id(text: &str) -> Result<Uuid, SpanError> {
    hex(text).map(span_uuid).map_err(|len| len.map_or(SpanError::NotHex, SpanError::SpanId))
}

fn fill_attributes<'a>(pairs: Vec<KeyValue<'a>>, out: &mut Vec<Attribute<'a>>) {
    out.extend(pairs.into_iter().map(|KeyValue { key, value }| Attribute { key: key.0, value: value.0 }));
}

fn origin_attributes<'a>(pairs: Option<Pairs<'a>>) -> Vec<Attribute<'a>> {
    let pairs = pairs.unwrap_or_default();
    let mut attributes = Vec::with_capacity(pairs.items.len());
    fill_attributes(pairs.items, &mut attributes);
    limits::note_dropped(&mut attributes, pairs.dropped);
    attributes
}
