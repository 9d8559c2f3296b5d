//! Decodes OTLP trace requests in protobuf into the model, in one pass.
//!
//! Source: opentelemetry-proto 1.x, `collector/trace/v1`, `trace/v1`, `resource/v1`, `common/v1`.

use std::borrow::Cow;

use model::trace::{Attribute, Event, Link, Origin, Span, Value, span_uuid};
use translate::json_text;
use uuid::Uuid;

use super::forms::Kept;
use super::limits::{ATTRIBUTES_MAX, Dropped, EVENTS_MAX, ITEM_ATTRIBUTES_MAX, LINKS_MAX, Limit, NESTING_MAX};
use super::map_text::Members;
use super::wire_format::{Fields, Malformed, Message, Value as Wire};
use super::{Sink, SpanError, limits};

/// Decodes an `ExportTraceServiceRequest`, and hands each span to the sink. Fails if the request as a whole cannot be
/// decoded; a span that is merely invalid goes to [`Sink::reject`].
pub fn decode<'a>(body: &'a [u8], sink: &mut impl Sink<'a>) -> Result<(), Malformed> {
    let mut fields = Message::new(body).fields();
    let mut span = Span::default();
    while let Some(field) = fields.next_field()? {
        match field {
            (1, Wire::Message(resource_spans)) => decode_resource_spans(resource_spans, &mut span, sink)?,
            (1, _) => return fields.wrong_type(),
            _ => {}
        }
    }
    Ok(())
}

fn decode_resource_spans<'a>(
    message: Message<'a>,
    span: &mut Span<'a>,
    sink: &mut impl Sink<'a>,
) -> Result<(), Malformed> {
    let mut origin = Origin::default();
    let mut limit = Limit::new(ATTRIBUTES_MAX);
    // The resource may follow its spans in the bytes, and its schema URL always does. So there are two passes, and the
    // first skips the spans.
    let mut fields = message.fields();
    while let Some(field) = fields.next_field()? {
        match field {
            (1, Wire::Message(resource)) => decode_resource(resource, &mut origin.resource_attributes, &mut limit)?,
            (3, Wire::Message(url)) => origin.resource_schema_url = text(url),
            (1 | 3, _) => return fields.wrong_type(),
            _ => {}
        }
    }
    limits::note_dropped(&mut origin.resource_attributes, limit.dropped);
    origin.service_name = super::service_name(&origin.resource_attributes);
    let mut fields = message.fields();
    while let Some(field) = fields.next_field()? {
        match field {
            (2, Wire::Message(scope_spans)) => decode_scope_spans(scope_spans, &mut origin, span, sink)?,
            (2, _) => return fields.wrong_type(),
            _ => {}
        }
    }
    Ok(())
}

fn decode_resource<'a>(
    message: Message<'a>,
    attributes: &mut Vec<Attribute<'a>>,
    limit: &mut Limit,
) -> Result<(), Malformed> {
    let mut fields = message.fields();
    while let Some(field) = fields.next_field()? {
        match field {
            (1, Wire::Message(pair)) => push_attribute(pair, attributes, limit)?,
            (1, _) => return fields.wrong_type(),
            _ => {}
        }
    }
    Ok(())
}

fn decode_scope_spans<'a>(
    message: Message<'a>,
    origin: &mut Origin<'a>,
    span: &mut Span<'a>,
    sink: &mut impl Sink<'a>,
) -> Result<(), Malformed> {
    origin.scope_name = Cow::Borrowed("");
    origin.scope_version = Cow::Borrowed("");
    origin.scope_schema_url = Cow::Borrowed("");
    origin.scope_attributes.clear();
    let mut limit = Limit::new(ATTRIBUTES_MAX);
    let mut fields = message.fields();
    while let Some(field) = fields.next_field()? {
        match field {
            (1, Wire::Message(scope)) => decode_scope(scope, origin, &mut limit)?,
            (3, Wire::Message(url)) => origin.scope_schema_url = text(url),
            (1 | 3, _) => return fields.wrong_type(),
            _ => {}
        }
    }
    limits::note_dropped(&mut origin.scope_attributes, limit.dropped);
    sink.origin();
    let mut fields = message.fields();
    while let Some(field) = fields.next_field()? {
        match field {
            (2, Wire::Message(bytes)) => match decode_span(bytes, span)? {
                Ok(()) => sink.span(origin, span),
                Err(error) => sink.reject(span, error),
            },
            (2, _) => return fields.wrong_type(),
            _ => {}
        }
    }
    Ok(())
}

fn decode_scope<'a>(message: Message<'a>, origin: &mut Origin<'a>, limit: &mut Limit) -> Result<(), Malformed> {
    let mut fields = message.fields();
    while let Some(field) = fields.next_field()? {
        match field {
            (1, Wire::Message(name)) => origin.scope_name = text(name),
            (2, Wire::Message(version)) => origin.scope_version = text(version),
            (3, Wire::Message(pair)) => push_attribute(pair, &mut origin.scope_attributes, limit)?,
            (1..=3, _) => return fields.wrong_type(),
            _ => {}
        }
    }
    Ok(())
}

/// From this many bytes on, a text is checked with SIMD instructions.
const SIMD_BYTES_MIN: usize = 64;

/// A text. Bytes that are not UTF-8 become U+FFFD, as everywhere else.
#[inline]
fn text<'a>(message: Message<'a>) -> Cow<'a, str> {
    // Short texts are names, which the standard library checks as fast; a call into simdutf8 costs some instructions.
    let checked = if message.bytes.len() < SIMD_BYTES_MIN {
        std::str::from_utf8(message.bytes).ok()
    } else {
        simdutf8::basic::from_utf8(message.bytes).ok()
    };
    checked.map_or_else(|| String::from_utf8_lossy(message.bytes), Cow::Borrowed)
}

/// An id that must not be missing or zero.
fn trace_id(message: Message<'_>) -> Result<Uuid, SpanError> {
    Uuid::from_slice(message.bytes).map_err(|_| SpanError::TraceId(message.bytes.len()))
}

fn span_id(message: Message<'_>) -> Result<Uuid, SpanError> {
    let id = message.bytes.try_into().map_err(|_| SpanError::SpanId(message.bytes.len()))?;
    Ok(span_uuid(id))
}

/// An id that may be missing. An empty id counts as missing; an id of the wrong length is kept as an attribute.
fn optional<'a>(
    field: &str,
    message: Message<'a>,
    read: fn(Message<'_>) -> Result<Uuid, SpanError>,
    kept: &mut Kept<'a>,
) -> Uuid {
    if message.bytes.is_empty() {
        return Uuid::nil();
    }
    read(message).unwrap_or_else(|_| {
        kept.keep(field, Value::Bytes(message.bytes.into()));
        Uuid::nil()
    })
}

/// An enum value, which is a number of 32 bits.
fn kind(n: u64, kept: &mut Kept<'_>) -> u8 {
    const KIND_MAX: i32 = 5;
    match n as i32 {
        kind @ 0..=KIND_MAX => kind as u8,
        unknown => {
            kept.keep("kind", Value::Int(unknown.into()));
            0
        }
    }
}

fn decode_span<'a>(message: Message<'a>, span: &mut Span<'a>) -> Result<Result<(), SpanError>, Malformed> {
    super::reset(span);
    let mut fields = message.fields();
    let (limit, kept) = (Limit::new(ATTRIBUTES_MAX), Kept::default());
    let mut left_out = LeftOut { limit, events: 0, links: 0, status_code: 0, kept };
    // An invalid span is still read to its end: a request that is cut off inside of it must be refused as a whole.
    let mut ids = [Err(SpanError::ZeroTraceId), Err(SpanError::ZeroSpanId)];
    while let Some(field) = fields.next_field()? {
        match field {
            (1, Wire::Message(id)) => ids[0] = trace_id(id).map(|id| span.run_id = id),
            (2, Wire::Message(id)) => ids[1] = span_id(id).map(|id| span.span_id = id),
            field => span_field(&fields, field, span, &mut left_out)?,
        }
    }
    let LeftOut { limit, events, links, status_code, mut kept } = left_out;
    span.status = kept.status(status_code);
    kept.add_to(&mut span.attributes);
    Dropped { attributes: limit.dropped, events, links }.note(span);
    let [trace, own] = ids;
    Ok(trace.and(own).and_then(|()| super::check_ids(span)))
}

/// The parts of a span that are not stored as they came.
struct LeftOut<'a> {
    limit: Limit,
    events: u32,
    links: u32,
    status_code: i32,
    kept: Kept<'a>,
}

fn span_field<'a>(
    fields: &Fields<'a>,
    field: (u32, Wire<'a>),
    span: &mut Span<'a>,
    left_out: &mut LeftOut<'a>,
) -> Result<(), Malformed> {
    let kept = &mut left_out.kept;
    match field {
        (9, Wire::Message(pair)) => push_attribute(pair, &mut span.attributes, &mut left_out.limit)?,
        (3, Wire::Message(state)) => span.trace_state = text(state),
        (4, Wire::Message(id)) => span.parent_span_id = optional("parentSpanId", id, span_id, kept),
        (5, Wire::Message(name)) => span.name = text(name),
        (6, Wire::Varint(n)) => span.span_kind = kind(n, kept),
        (7, Wire::Fixed64(n)) => span.start_time = kept.instant("startTimeUnixNano", n),
        (8, Wire::Fixed64(n)) => span.end_time = kept.instant("endTimeUnixNano", n),
        (10, Wire::Varint(n)) => span.dropped_attributes = n as u32,
        (11, Wire::Message(_)) if span.events.len() >= EVENTS_MAX => left_out.events += 1,
        (11, Wire::Message(event)) => span.events.push(decode_event(event)?),
        (12, Wire::Varint(n)) => span.dropped_events = n as u32,
        (13, Wire::Message(_)) if span.links.len() >= LINKS_MAX => left_out.links += 1,
        (13, Wire::Message(link)) => span.links.push(decode_link(link)?),
        (14, Wire::Varint(n)) => span.dropped_links = n as u32,
        (15, Wire::Message(status)) => decode_status(status, span, &mut left_out.status_code)?,
        (16, Wire::Fixed32(flags)) => span.flags = flags,
        (1..=16, _) => return fields.wrong_type(),
        _ => {}
    }
    Ok(())
}

fn decode_status<'a>(message: Message<'a>, span: &mut Span<'a>, status_code: &mut i32) -> Result<(), Malformed> {
    let mut fields = message.fields();
    while let Some(field) = fields.next_field()? {
        match field {
            (2, Wire::Message(message)) => span.status_message = text(message),
            (3, Wire::Varint(code)) => *status_code = code as i32,
            (2 | 3, _) => return fields.wrong_type(),
            _ => {}
        }
    }
    Ok(())
}

fn decode_event<'a>(message: Message<'a>) -> Result<Event<'a>, Malformed> {
    let mut event = Event::default();
    let mut limit = Limit::new(ITEM_ATTRIBUTES_MAX);
    let mut kept = Kept::default();
    let mut fields = message.fields();
    while let Some(field) = fields.next_field()? {
        match field {
            (1, Wire::Fixed64(n)) => event.time = kept.instant("timeUnixNano", n),
            (2, Wire::Message(name)) => event.name = text(name),
            (3, Wire::Message(pair)) => push_attribute(pair, &mut event.attributes, &mut limit)?,
            (4, Wire::Varint(n)) => event.dropped_attributes = n as u32,
            (1..=4, _) => return fields.wrong_type(),
            _ => {}
        }
    }
    kept.add_to(&mut event.attributes);
    event.dropped_attributes = event.dropped_attributes.saturating_add(limit.dropped);
    Ok(event)
}

fn decode_link<'a>(message: Message<'a>) -> Result<Link<'a>, Malformed> {
    let mut link = Link::default();
    let mut limit = Limit::new(ITEM_ATTRIBUTES_MAX);
    let mut kept = Kept::default();
    let mut fields = message.fields();
    while let Some(field) = fields.next_field()? {
        match field {
            (1, Wire::Message(id)) => link.trace_id = optional("traceId", id, trace_id, &mut kept),
            (2, Wire::Message(id)) => link.span_id = optional("spanId", id, span_id, &mut kept),
            (3, Wire::Message(state)) => link.trace_state = text(state),
            (4, Wire::Message(pair)) => push_attribute(pair, &mut link.attributes, &mut limit)?,
            (5, Wire::Varint(n)) => link.dropped_attributes = n as u32,
            (6, Wire::Fixed32(flags)) => link.flags = flags,
            (1..=6, _) => return fields.wrong_type(),
            _ => {}
        }
    }
    kept.add_to(&mut link.attributes);
    link.dropped_attributes = link.dropped_attributes.saturating_add(limit.dropped);
    Ok(link)
}

/// Why a value cannot be written out as text.
enum Unwritten {
    Malformed(Malformed),
    TooDeep,
}

impl From<Malformed> for Unwritten {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// Reads a key and its value onto the end of a list. The attribute is filled in place, because passing attributes by
/// value took a third of the time of the whole pass. If a value nests too deep, its attribute is left out.
fn push_attribute<'a>(message: Message<'a>, out: &mut Vec<Attribute<'a>>, limit: &mut Limit) -> Result<(), Malformed> {
    out.push(Attribute { key: Cow::Borrowed(""), value: Value::Empty });
    let Some(attribute) = out.last_mut() else { return Ok(()) };
    match read_attribute(message, attribute) {
        Ok(()) => limit.pushed(out),
        Err(Unwritten::TooDeep) => {
            out.pop();
            limit.dropped = limit.dropped.saturating_add(1);
        }
        Err(Unwritten::Malformed(malformed)) => return Err(malformed),
    }
    Ok(())
}

fn read_attribute<'a>(message: Message<'a>, attribute: &mut Attribute<'a>) -> Result<(), Unwritten> {
    let mut fields = message.fields();
    while let Some(field) = fields.next_field()? {
        match field {
            (1, Wire::Message(key)) => attribute.key = text(key),
            (2, Wire::Message(value)) => read_value(value, &mut attribute.value)?,
            (1 | 2, _) => return Ok(fields.wrong_type()?),
            _ => {}
        }
    }
    Ok(())
}

fn read_value<'a>(message: Message<'a>, value: &mut Value<'a>) -> Result<(), Unwritten> {
    let mut fields = message.fields();
    while let Some(field) = fields.next_field()? {
        match field {
            (1, Wire::Message(message)) => *value = Value::Str(text(message)),
            (2, Wire::Varint(b)) => *value = Value::Bool(b != 0),
            (3, Wire::Varint(n)) => *value = Value::Int(n as i64),
            (4, Wire::Fixed64(bits)) => *value = Value::Double(f64::from_bits(bits)),
            (5, Wire::Message(array)) => {
                let mut text = String::new();
                render_array(array, NESTING_MAX, &mut text)?;
                *value = Value::Array(text.into());
            }
            (6, Wire::Message(map)) => {
                let mut text = String::new();
                render_map(map, NESTING_MAX, &mut text)?;
                *value = Value::Map(text.into());
            }
            (7, Wire::Message(bytes)) => *value = Value::Bytes(bytes.bytes.into()),
            (1..=7, _) => return Ok(fields.wrong_type()?),
            _ => {}
        }
    }
    Ok(())
}

fn render_array(message: Message<'_>, depth: u8, out: &mut String) -> Result<(), Unwritten> {
    let depth = depth.checked_sub(1).ok_or(Unwritten::TooDeep)?;
    let mut fields = message.fields();
    out.push('[');
    while let Some(field) = fields.next_field()? {
        match field {
            (1, Wire::Message(value)) => {
                json_text::separate(out, '[');
                render_value(value, depth, out)?;
            }
            (1, _) => return Ok(fields.wrong_type()?),
            _ => {}
        }
    }
    out.push(']');
    Ok(())
}

fn render_map(message: Message<'_>, depth: u8, out: &mut String) -> Result<(), Unwritten> {
    let depth = depth.checked_sub(1).ok_or(Unwritten::TooDeep)?;
    let mut fields = message.fields();
    out.push('{');
    let mut members = Members::new(out);
    while let Some(field) = fields.next_field()? {
        match field {
            (1, Wire::Message(pair)) => {
                json_text::separate(out, '{');
                let at = out.len();
                let value_at = render_pair(pair, depth, out)?;
                members.written(at, value_at, out);
            }
            (1, _) => return Ok(fields.wrong_type()?),
            _ => {}
        }
    }
    members.keep_last(out);
    out.push('}');
    Ok(())
}

/// Returns where the value begins.
fn render_pair(message: Message<'_>, depth: u8, out: &mut String) -> Result<usize, Unwritten> {
    let (mut key, mut value) = (Cow::Borrowed(""), None);
    let mut fields = message.fields();
    while let Some(field) = fields.next_field()? {
        match field {
            (1, Wire::Message(message)) => key = text(message),
            (2, Wire::Message(message)) => value = Some(message),
            (1 | 2, _) => return Ok(fields.wrong_type()?),
            _ => {}
        }
    }
    json_text::string(&key, out);
    out.push(':');
    let value_at = out.len();
    match value {
        Some(value) => render_value(value, depth, out)?,
        None => out.push_str("null"),
    }
    Ok(value_at)
}

fn render_value(message: Message<'_>, depth: u8, out: &mut String) -> Result<(), Unwritten> {
    let start = out.len();
    out.push_str("null");
    let mut fields = message.fields();
    while let Some(field) = fields.next_field()? {
        if (1..=7).contains(&field.0) {
            // If the choice is repeated, the last one counts.
            out.truncate(start);
        }
        match field {
            (1, Wire::Message(message)) => json_text::string(&text(message), out),
            (2, Wire::Varint(b)) => out.push_str(if b != 0 { "true" } else { "false" }),
            (3, Wire::Varint(n)) => out.push_str(itoa::Buffer::new().format(n as i64)),
            (4, Wire::Fixed64(bits)) => json_text::double(f64::from_bits(bits), out),
            (5, Wire::Message(array)) => render_array(array, depth, out)?,
            (6, Wire::Message(map)) => render_map(map, depth, out)?,
            (7, Wire::Message(bytes)) => json_text::bytes(bytes.bytes, out),
            (1..=7, _) => return Ok(fields.wrong_type()?),
            _ => {}
        }
    }
    Ok(())
}
