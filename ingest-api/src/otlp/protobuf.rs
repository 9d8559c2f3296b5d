//! OTLP trace requests in protobuf, walked in one pass into the model.
//!
//! Source: opentelemetry-proto 1.x, `collector/trace/v1`, `trace/v1`, `resource/v1`, `common/v1`.

use std::borrow::Cow;

use schema::model::{Attribute, Event, Link, Origin, Span, UnixNanos, Value, span_uuid};
use schema::translate::json_text;
use uuid::Uuid;

use super::limits::{self, ATTRIBUTES_MAX, Dropped, EVENTS_MAX, ITEM_ATTRIBUTES_MAX, LINKS_MAX, NESTING_MAX};
use super::wire::{Fields, Malformed, Message, Value as Wire};
use super::{STATUS_ERROR, Sink, SpanError};

/// Walks an `ExportTraceServiceRequest`, handing each span to the sink. An error means that the request as a whole cannot
/// be understood; a span that is merely invalid goes to [`Sink::set_aside`].
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
    // The resource may follow its spans on the wire, and its schema URL always does: hence two walks, the first of which
    // jumps over the spans.
    let mut fields = message.fields();
    while let Some(field) = fields.next_field()? {
        match field {
            (1, Wire::Message(resource)) => decode_resource(resource, &mut origin)?,
            (3, Wire::Message(url)) => origin.resource_schema_url = text(url)?,
            (1 | 3, _) => return fields.wrong_type(),
            _ => {}
        }
    }
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

fn decode_resource<'a>(message: Message<'a>, origin: &mut Origin<'a>) -> Result<(), Malformed> {
    let mut dropped = 0u32;
    let mut fields = message.fields();
    while let Some(field) = fields.next_field()? {
        match field {
            (1, Wire::Message(_)) if origin.resource_attributes.len() >= ATTRIBUTES_MAX => dropped += 1,
            (1, Wire::Message(pair)) => {
                push_attribute(pair, &mut origin.resource_attributes).map_err(|e| e.whole_request(pair))?;
                if let Some(Attribute { key, value: Value::Str(name) }) = origin.resource_attributes.last()
                    && key == "service.name"
                {
                    origin.service_name = name.clone();
                }
            }
            (1, _) => return fields.wrong_type(),
            _ => {}
        }
    }
    limits::note_dropped(&mut origin.resource_attributes, dropped);
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
    let mut fields = message.fields();
    while let Some(field) = fields.next_field()? {
        match field {
            (1, Wire::Message(scope)) => decode_scope(scope, origin)?,
            (3, Wire::Message(url)) => origin.scope_schema_url = text(url)?,
            (1 | 3, _) => return fields.wrong_type(),
            _ => {}
        }
    }
    sink.origin();
    let mut fields = message.fields();
    while let Some(field) = fields.next_field()? {
        match field {
            (2, Wire::Message(bytes)) => match decode_span(bytes, span) {
                Ok(()) => sink.span(origin, span),
                Err(Error::Span(error)) => sink.set_aside(span, error),
                Err(Error::Malformed(malformed)) => return Err(malformed),
            },
            (2, _) => return fields.wrong_type(),
            _ => {}
        }
    }
    Ok(())
}

fn decode_scope<'a>(message: Message<'a>, origin: &mut Origin<'a>) -> Result<(), Malformed> {
    let mut dropped = 0u32;
    let mut fields = message.fields();
    while let Some(field) = fields.next_field()? {
        match field {
            (1, Wire::Message(name)) => origin.scope_name = text(name)?,
            (2, Wire::Message(version)) => origin.scope_version = text(version)?,
            (3, Wire::Message(_)) if origin.scope_attributes.len() >= ATTRIBUTES_MAX => dropped += 1,
            (3, Wire::Message(pair)) => {
                push_attribute(pair, &mut origin.scope_attributes).map_err(|e| e.whole_request(pair))?;
            }
            (1..=3, _) => return fields.wrong_type(),
            _ => {}
        }
    }
    limits::note_dropped(&mut origin.scope_attributes, dropped);
    Ok(())
}

/// Why a span could not be read: the request is broken, or just this span is.
enum Error {
    Malformed(Malformed),
    Span(SpanError),
}

impl From<Malformed> for Error {
    fn from(malformed: Malformed) -> Self {
        Error::Malformed(malformed)
    }
}

impl Error {
    /// What is wrong with a resource or scope is wrong with all its spans.
    fn whole_request(self, at: Message<'_>) -> Malformed {
        match self {
            Error::Malformed(malformed) => malformed,
            Error::Span(SpanError::NestedTooDeep(_)) => at.malformed("an attribute is nested too deep"),
            Error::Span(_) => at.malformed("text that is not UTF-8"),
        }
    }
}

/// Text of a resource or scope, which must be UTF-8 or nothing under it can be stored.
fn text<'a>(message: Message<'a>) -> Result<Cow<'a, str>, Malformed> {
    std::str::from_utf8(message.bytes).map(Cow::Borrowed).map_err(|_| message.malformed("text that is not UTF-8"))
}

/// Text of a span.
fn span_text<'a>(message: Message<'a>) -> Result<Cow<'a, str>, Error> {
    std::str::from_utf8(message.bytes).map(Cow::Borrowed).map_err(|_| Error::Span(SpanError::NotUtf8))
}

fn trace_id(message: Message<'_>) -> Result<Uuid, Error> {
    Uuid::from_slice(message.bytes).map_err(|_| Error::Span(SpanError::TraceId(message.bytes.len())))
}

fn span_id(message: Message<'_>) -> Result<Uuid, Error> {
    let id = message.bytes.try_into().map_err(|_| Error::Span(SpanError::SpanId(message.bytes.len())))?;
    Ok(span_uuid(id))
}

/// OTLP times are unsigned; one past the year 2262 is kept as the last instant we can store.
fn nanos(n: u64) -> UnixNanos {
    UnixNanos::try_from(n).unwrap_or(UnixNanos::MAX)
}

fn decode_span<'a>(message: Message<'a>, span: &mut Span<'a>) -> Result<(), Error> {
    super::reset(span);
    let mut fields = message.fields();
    // An invalid span is still walked to its end: a request that is cut off inside one must be refused as a whole.
    let mut invalid = None;
    let mut dropped = Dropped::default();
    while let Some(field) = fields.next_field()? {
        match span_field(&fields, field, span, &mut dropped) {
            Ok(()) => {}
            Err(Error::Span(error)) => invalid = invalid.or(Some(error)),
            Err(malformed) => return Err(malformed),
        }
    }
    dropped.note(span);
    match invalid {
        None => super::check_ids(span).map_err(Error::Span),
        Some(error) => Err(Error::Span(error)),
    }
}

fn span_field<'a>(
    fields: &Fields<'a>,
    field: (u32, Wire<'a>),
    span: &mut Span<'a>,
    dropped: &mut Dropped,
) -> Result<(), Error> {
    match field {
        (9, Wire::Message(_)) if span.attributes.len() >= ATTRIBUTES_MAX => dropped.attributes += 1,
        (9, Wire::Message(pair)) => push_attribute(pair, &mut span.attributes)?,
        (1, Wire::Message(id)) => span.run_id = trace_id(id)?,
        (2, Wire::Message(id)) => span.span_id = span_id(id)?,
        (3, Wire::Message(state)) => span.trace_state = span_text(state)?,
        (4, Wire::Message(id)) if id.bytes.is_empty() => {}
        (4, Wire::Message(id)) => span.parent_span_id = span_id(id)?,
        (5, Wire::Message(name)) => span.name = span_text(name)?,
        (6, Wire::Varint(kind)) => span.span_kind = u8::try_from(kind).unwrap_or_default(),
        (7, Wire::Fixed64(n)) => span.start_time = nanos(n),
        (8, Wire::Fixed64(n)) => span.end_time = nanos(n),
        (10, Wire::Varint(n)) => span.dropped_attributes = n as u32,
        (11, Wire::Message(_)) if span.events.len() >= EVENTS_MAX => dropped.events += 1,
        (11, Wire::Message(event)) => span.events.push(decode_event(event)?),
        (12, Wire::Varint(n)) => span.dropped_events = n as u32,
        (13, Wire::Message(_)) if span.links.len() >= LINKS_MAX => dropped.links += 1,
        (13, Wire::Message(link)) => span.links.push(decode_link(link)?),
        (14, Wire::Varint(n)) => span.dropped_links = n as u32,
        (15, Wire::Message(status)) => decode_status(status, span)?,
        (16, Wire::Fixed32(flags)) => span.flags = flags,
        (1..=16, _) => return Ok(fields.wrong_type()?),
        _ => {}
    }
    Ok(())
}

fn decode_status<'a>(message: Message<'a>, span: &mut Span<'a>) -> Result<(), Error> {
    let mut fields = message.fields();
    while let Some(field) = fields.next_field()? {
        match field {
            (2, Wire::Message(text)) => span.status_message = span_text(text)?,
            (3, Wire::Varint(code)) => span.status = super::status(code == STATUS_ERROR),
            (2 | 3, _) => return Ok(fields.wrong_type()?),
            _ => {}
        }
    }
    Ok(())
}

fn decode_event<'a>(message: Message<'a>) -> Result<Event<'a>, Error> {
    let mut event = Event::default();
    let mut dropped = 0u32;
    let mut fields = message.fields();
    while let Some(field) = fields.next_field()? {
        match field {
            (1, Wire::Fixed64(n)) => event.time = nanos(n),
            (2, Wire::Message(name)) => event.name = span_text(name)?,
            (3, Wire::Message(_)) if event.attributes.len() >= ITEM_ATTRIBUTES_MAX => dropped += 1,
            (3, Wire::Message(pair)) => push_attribute(pair, &mut event.attributes)?,
            (4, Wire::Varint(n)) => event.dropped_attributes = n as u32,
            (1..=4, _) => return Ok(fields.wrong_type()?),
            _ => {}
        }
    }
    event.dropped_attributes = event.dropped_attributes.saturating_add(dropped);
    Ok(event)
}

fn decode_link<'a>(message: Message<'a>) -> Result<Link<'a>, Error> {
    let mut link = Link::default();
    let mut dropped = 0u32;
    let mut fields = message.fields();
    while let Some(field) = fields.next_field()? {
        match field {
            (1, Wire::Message(id)) => link.trace_id = trace_id(id)?,
            (2, Wire::Message(id)) => link.span_id = span_id(id)?,
            (3, Wire::Message(state)) => link.trace_state = span_text(state)?,
            (4, Wire::Message(_)) if link.attributes.len() >= ITEM_ATTRIBUTES_MAX => dropped += 1,
            (4, Wire::Message(pair)) => push_attribute(pair, &mut link.attributes)?,
            (5, Wire::Varint(n)) => link.dropped_attributes = n as u32,
            (6, Wire::Fixed32(flags)) => link.flags = flags,
            (1..=6, _) => return Ok(fields.wrong_type()?),
            _ => {}
        }
    }
    link.dropped_attributes = link.dropped_attributes.saturating_add(dropped);
    Ok(link)
}

/// Reads a key and value onto the end of a list. Filled in place, because handing attributes on by value was a third of the
/// cost of the whole walk.
fn push_attribute<'a>(message: Message<'a>, out: &mut Vec<Attribute<'a>>) -> Result<(), Error> {
    out.push(Attribute { key: Cow::Borrowed(""), value: Value::Empty });
    let Some(attribute) = out.last_mut() else { return Ok(()) };
    let mut fields = message.fields();
    while let Some(field) = fields.next_field()? {
        match field {
            (1, Wire::Message(key)) => attribute.key = span_text(key)?,
            (2, Wire::Message(value)) => read_value(value, &mut attribute.value)?,
            (1 | 2, _) => return Ok(fields.wrong_type()?),
            _ => {}
        }
    }
    Ok(())
}

fn read_value<'a>(message: Message<'a>, value: &mut Value<'a>) -> Result<(), Error> {
    let mut fields = message.fields();
    while let Some(field) = fields.next_field()? {
        match field {
            (1, Wire::Message(text)) => *value = Value::Str(span_text(text)?),
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

fn render_array(message: Message<'_>, depth: u8, out: &mut String) -> Result<(), Error> {
    let depth = depth.checked_sub(1).ok_or(Error::Span(SpanError::NestedTooDeep(NESTING_MAX)))?;
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

fn render_map(message: Message<'_>, depth: u8, out: &mut String) -> Result<(), Error> {
    let depth = depth.checked_sub(1).ok_or(Error::Span(SpanError::NestedTooDeep(NESTING_MAX)))?;
    let mut fields = message.fields();
    out.push('{');
    while let Some(field) = fields.next_field()? {
        match field {
            (1, Wire::Message(pair)) => {
                json_text::separate(out, '{');
                render_pair(pair, depth, out)?;
            }
            (1, _) => return Ok(fields.wrong_type()?),
            _ => {}
        }
    }
    out.push('}');
    Ok(())
}

fn render_pair(message: Message<'_>, depth: u8, out: &mut String) -> Result<(), Error> {
    let (mut key, mut value) = (Cow::Borrowed(""), None);
    let mut fields = message.fields();
    while let Some(field) = fields.next_field()? {
        match field {
            (1, Wire::Message(text)) => key = span_text(text)?,
            (2, Wire::Message(message)) => value = Some(message),
            (1 | 2, _) => return Ok(fields.wrong_type()?),
            _ => {}
        }
    }
    json_text::string(&key, out);
    out.push(':');
    match value {
        Some(value) => render_value(value, depth, out),
        None => {
            out.push_str("null");
            Ok(())
        }
    }
}

fn render_value(message: Message<'_>, depth: u8, out: &mut String) -> Result<(), Error> {
    let start = out.len();
    out.push_str("null");
    let mut fields = message.fields();
    while let Some(field) = fields.next_field()? {
        if (1..=7).contains(&field.0) {
            // Of a repeated choice the last one counts.
            out.truncate(start);
        }
        match field {
            (1, Wire::Message(text)) => json_text::string(&span_text(text)?, out),
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
