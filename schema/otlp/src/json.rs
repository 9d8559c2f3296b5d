//! Decodes OTLP trace requests in JSON: the protobuf JSON mapping with OTLP's exceptions (hexadecimal ids, enums as
//! numbers), and other forms that clients send, by the rules in `docs/reference/limits.md`, "Values that cannot be
//! read".
//!
//! Source: OTLP specification, "JSON Protobuf Encoding"; deviations as captured from SDKs.

mod lists;

use model::trace::{Attribute, Event, Link, Origin, Span, span_uuid};
use serde::de::Error as _;
use serde_json::value::RawValue;
use uuid::Uuid;

use self::lists::{Limited, Pairs, Weigh, Weighed};
use super::forms::Kept;
use super::limits::{ATTRIBUTES_MAX, Dropped, EVENTS_MAX, ITEM_ATTRIBUTES_MAX, LINKS_MAX};
use super::{Sink, SpanError, forms, limits};
use crate::json_members::{Found, Scalar, object};

object! {
    Request<'a> {
        resource_spans: Found<'a, Weighed<Found<'a, ResourceSpans<'a>>>> = "resourceSpans" | "resource_spans",
    }
}

object! {
    ResourceSpans<'a> {
        resource: Found<'a, Resource<'a>> = "resource",
        scope_spans: Found<'a, Weighed<Found<'a, ScopeSpans<'a>>>> = "scopeSpans" | "scope_spans",
        schema_url: Scalar<'a> = "schemaUrl" | "schema_url",
    }
}

object! {
    Resource<'a> {
        attributes: Found<'a, Pairs<'a, ATTRIBUTES_MAX>> = "attributes",
    }
}

object! {
    ScopeSpans<'a> {
        scope: Found<'a, Scope<'a>> = "scope",
        // Read one by one, so that a value that is not a span costs only itself.
        spans: Found<'a, Weighed<&'a RawValue>> = "spans",
        schema_url: Scalar<'a> = "schemaUrl" | "schema_url",
    }
}

object! {
    Scope<'a> {
        name: Scalar<'a> = "name",
        version: Scalar<'a> = "version",
        attributes: Found<'a, Pairs<'a, ATTRIBUTES_MAX>> = "attributes",
    }
}

object! {
    SpanJson<'a> {
        trace_id: Scalar<'a> = "traceId" | "trace_id",
        span_id: Scalar<'a> = "spanId" | "span_id",
        trace_state: Scalar<'a> = "traceState" | "trace_state",
        parent_span_id: Scalar<'a> = "parentSpanId" | "parent_span_id",
        name: Scalar<'a> = "name",
        kind: Scalar<'a> = "kind",
        start_time: Scalar<'a> = "startTimeUnixNano" | "start_time_unix_nano",
        end_time: Scalar<'a> = "endTimeUnixNano" | "end_time_unix_nano",
        attributes: Found<'a, Pairs<'a, ATTRIBUTES_MAX>> = "attributes",
        dropped_attributes: Scalar<'a> = "droppedAttributesCount" | "dropped_attributes_count",
        events: Found<'a, Limited<EventJson<'a>, EVENTS_MAX>> = "events",
        dropped_events: Scalar<'a> = "droppedEventsCount" | "dropped_events_count",
        links: Found<'a, Limited<LinkJson<'a>, LINKS_MAX>> = "links",
        dropped_links: Scalar<'a> = "droppedLinksCount" | "dropped_links_count",
        status: Found<'a, StatusJson<'a>> = "status",
        flags: Scalar<'a> = "flags",
    }
}

object! {
    StatusJson<'a> {
        message: Scalar<'a> = "message",
        code: Scalar<'a> = "code",
    }
}

object! {
    EventJson<'a> {
        time: Scalar<'a> = "timeUnixNano" | "time_unix_nano",
        name: Scalar<'a> = "name",
        attributes: Found<'a, Pairs<'a, ITEM_ATTRIBUTES_MAX>> = "attributes",
        dropped_attributes: Scalar<'a> = "droppedAttributesCount" | "dropped_attributes_count",
    }
}

object! {
    LinkJson<'a> {
        trace_id: Scalar<'a> = "traceId" | "trace_id",
        span_id: Scalar<'a> = "spanId" | "span_id",
        trace_state: Scalar<'a> = "traceState" | "trace_state",
        attributes: Found<'a, Pairs<'a, ITEM_ATTRIBUTES_MAX>> = "attributes",
        dropped_attributes: Scalar<'a> = "droppedAttributesCount" | "dropped_attributes_count",
        flags: Scalar<'a> = "flags",
    }
}

impl Weigh for Resource<'_> {
    fn inside(&self) -> usize {
        self.attributes.inside()
    }
}

impl Weigh for Scope<'_> {
    fn inside(&self) -> usize {
        self.attributes.inside()
    }
}

impl Weigh for ScopeSpans<'_> {
    fn inside(&self) -> usize {
        self.spans.inside() + self.scope.inside()
    }
}

impl Weigh for ResourceSpans<'_> {
    fn inside(&self) -> usize {
        self.scope_spans.inside() + self.resource.inside()
    }
}

/// Decodes an `ExportTraceServiceRequest` in JSON, and hands each span to the sink.
pub fn decode<'a>(body: &'a [u8], sink: &mut impl Sink<'a>) -> Result<(), serde_json::Error> {
    let request: Found<'a, Request<'a>> = serde_json::from_slice(body)?;
    let Found::It(request) = request else { return Err(serde_json::Error::custom("not an object")) };
    let resource_spans = match request.resource_spans {
        Found::Nothing => Weighed::default(),
        Found::It(list) => list,
        Found::Other(_) => return Err(serde_json::Error::custom("`resourceSpans` is not a list")),
    };
    let mut span = Span::default();
    for found in resource_spans.items {
        match found {
            Found::It(resource_spans) => decode_resource_spans(resource_spans, &mut span, sink),
            Found::Nothing | Found::Other(_) => reject_group("resourceSpans", &mut span, sink),
        }
    }
    Ok(())
}

fn decode_resource_spans<'a>(json: ResourceSpans<'a>, span: &mut Span<'a>, sink: &mut impl Sink<'a>) {
    let mut origin = Origin::default();
    let mut kept = Kept::default();
    origin.resource_schema_url = kept.text("schemaUrl", json.schema_url.value());
    let resource = part("resource", json.resource, &mut kept);
    origin.resource_attributes = origin_attributes(resource.attributes, kept);
    origin.service_name = super::service_name(&origin.resource_attributes);
    let scope_spans = match json.scope_spans {
        Found::Nothing => Weighed::default(),
        Found::It(list) => list,
        Found::Other(_) => return reject_group("scopeSpans", span, sink),
    };
    for found in scope_spans.items {
        match found {
            Found::It(scope_spans) => decode_scope_spans(scope_spans, &mut origin, span, sink),
            Found::Nothing | Found::Other(_) => reject_group("scopeSpans", span, sink),
        }
    }
}

fn decode_scope_spans<'a>(
    json: ScopeSpans<'a>,
    origin: &mut Origin<'a>,
    span: &mut Span<'a>,
    sink: &mut impl Sink<'a>,
) {
    let mut kept = Kept::default();
    origin.scope_schema_url = kept.text("schemaUrl", json.schema_url.value());
    let scope = part("scope", json.scope, &mut kept);
    origin.scope_name = kept.text("name", scope.name.value());
    origin.scope_version = kept.text("version", scope.version.value());
    origin.scope_attributes = origin_attributes(scope.attributes, kept);
    sink.origin();
    let spans = match json.spans {
        Found::Nothing => return,
        Found::It(list) => list,
        Found::Other(_) => return reject_group("spans", span, sink),
    };
    for raw in spans.items {
        super::reset(span);
        match read_span(raw, span).and_then(|()| super::check_ids(span)) {
            Ok(()) => sink.span(origin, span),
            Err(error) => sink.reject(span, error),
        }
    }
}

/// Rejects a value that should have contained spans but is not a list or an object. The number of its spans is not
/// known, so it counts as one item.
fn reject_group<'a>(field: &'static str, span: &mut Span<'a>, sink: &mut impl Sink<'a>) {
    super::reset(span);
    sink.reject(span, SpanError::NoSpans(field));
}

/// A part of the request; an empty one if the value there is of another type, which is then kept.
fn part<'a, T: Default>(field: &str, found: Found<'a, T>, kept: &mut Kept<'a>) -> T {
    let (part, other) = found.split();
    if let Some(value) = other {
        kept.keep(field, value);
    }
    part.unwrap_or_default()
}

fn origin_attributes<'a>(found: Found<'a, Pairs<'a, ATTRIBUTES_MAX>>, mut kept: Kept<'a>) -> Vec<Attribute<'a>> {
    let Pairs { mut attributes, dropped } = part("attributes", found, &mut kept);
    kept.add_to(&mut attributes);
    limits::note_dropped(&mut attributes, dropped);
    attributes
}

fn read_span<'a>(raw: &'a RawValue, span: &mut Span<'a>) -> Result<(), SpanError> {
    match serde_json::from_str::<Found<'a, SpanJson<'a>>>(raw.get()) {
        Ok(Found::It(json)) => fill(json, span),
        Ok(Found::Nothing | Found::Other(_)) => Err(SpanError::NotAnObject),
        Err(error) => Err(SpanError::Json(error.to_string())),
    }
}

fn fill<'a>(json: SpanJson<'a>, span: &mut Span<'a>) -> Result<(), SpanError> {
    let mut kept = Kept::default();
    let trace = read_id("traceId", json.trace_id).map(Uuid::from_bytes);
    let own = read_id("spanId", json.span_id).map(span_uuid);
    // The answer names the rejected span, so its ids are read as far as they can be.
    span.run_id = trace.as_ref().copied().unwrap_or_default();
    span.span_id = own.as_ref().copied().unwrap_or_default();
    trace.and(own)?;
    span.start_time = match json.start_time.value() {
        Some(value) => {
            let nanos = forms::nanos(&value).ok_or_else(|| SpanError::unreadable("startTimeUnixNano", &value))?;
            kept.instant("startTimeUnixNano", nanos)
        }
        None => 0,
    };
    span.end_time = kept.time("endTimeUnixNano", json.end_time.value());
    span.parent_span_id = span_uuid(kept.read("parentSpanId", json.parent_span_id.value(), forms::id));
    span.trace_state = kept.text("traceState", json.trace_state.value());
    span.name = kept.text("name", json.name.value());
    span.span_kind = kept.read("kind", json.kind.value(), forms::span_kind);
    span.flags = kept.count("flags", json.flags.value());
    let status = part("status", json.status, &mut kept);
    let code = kept.read("status.code", status.code.value(), forms::status_code);
    span.status = kept.status(code.into());
    span.status_message = kept.text("status.message", status.message.value());
    span.dropped_attributes = kept.count("droppedAttributesCount", json.dropped_attributes.value());
    span.dropped_events = kept.count("droppedEventsCount", json.dropped_events.value());
    span.dropped_links = kept.count("droppedLinksCount", json.dropped_links.value());
    let attributes = part("attributes", json.attributes, &mut kept);
    let events = part("events", json.events, &mut kept);
    let links = part("links", json.links, &mut kept);
    Dropped { attributes: attributes.dropped, events: events.dropped, links: links.dropped }.note(span);
    span.attributes = attributes.attributes;
    kept.add_to(&mut span.attributes);
    span.events.extend(events.items.into_iter().map(event));
    span.links.extend(links.items.into_iter().map(link));
    Ok(())
}

fn read_id<const N: usize>(field: &'static str, given: Scalar<'_>) -> Result<[u8; N], SpanError> {
    let Some(value) = given.value() else { return Ok([0; N]) };
    forms::id(value).map_err(|value| SpanError::unreadable(field, &value))
}

fn event(json: EventJson<'_>) -> Event<'_> {
    let mut kept = Kept::default();
    let pairs = part("attributes", json.attributes, &mut kept);
    let dropped = kept.count("droppedAttributesCount", json.dropped_attributes.value());
    let mut event = Event {
        time: kept.time("timeUnixNano", json.time.value()),
        name: kept.text("name", json.name.value()),
        dropped_attributes: dropped.saturating_add(pairs.dropped),
        attributes: pairs.attributes,
    };
    kept.add_to(&mut event.attributes);
    event
}

fn link(json: LinkJson<'_>) -> Link<'_> {
    let mut kept = Kept::default();
    let pairs = part("attributes", json.attributes, &mut kept);
    let dropped = kept.count("droppedAttributesCount", json.dropped_attributes.value());
    let mut link = Link {
        trace_id: Uuid::from_bytes(kept.read("traceId", json.trace_id.value(), forms::id)),
        span_id: span_uuid(kept.read("spanId", json.span_id.value(), forms::id)),
        trace_state: kept.text("traceState", json.trace_state.value()),
        flags: kept.count("flags", json.flags.value()),
        dropped_attributes: dropped.saturating_add(pairs.dropped),
        attributes: pairs.attributes,
    };
    kept.add_to(&mut link.attributes);
    link
}
