//! Decodes OTLP traces in protobuf and JSON into rows.
//!
//! `wire_format` and `protobuf` read the protobuf form, `json` the JSON form. Both fill the same [`Span`] and hand it
//! to a [`Sink`]. `forms` says in which forms a value may come, and what becomes of a value that cannot be read.
//! [`Translator`] is the sink that stores: it finds a span's LLM fields ([`semantics`]) and writes its row. The run
//! that a root span stands for is derived when it is read (view `run_of`).

pub mod encoding;
mod forms;
mod json;
mod json_members;
mod json_value;
pub mod limits;
mod map_text;
pub mod project;
mod protobuf;
pub mod reply;
pub mod semantics;
pub mod untraced;
mod wire_format;

pub use json::decode as decode_json;
pub use protobuf::decode as decode_protobuf;
pub use wire_format::Malformed;

use std::borrow::Cow;

use model::ids::ProjectId;
use model::trace::{Attribute, Origin, Span, UnixNanos, Value};
use translate::batch::{Batch, origin_bytes};
use translate::{times, unique};
use uuid::Uuid;
use wire::envelope::Header;

/// Receives what a decoder finds.
pub trait Sink<'a> {
    /// The spans from here on have another origin than the earlier ones.
    fn origin(&mut self);
    /// Receives a whole span. The sink may take any part out of it; the decoder resets the span afterwards.
    fn span(&mut self, origin: &Origin<'a>, span: &mut Span<'a>);
    /// Receives a rejected span; `span` holds what could be read of it.
    fn reject(&mut self, span: &Span<'a>, error: SpanError);
}

/// Why one span is rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum SpanError {
    #[error("trace id has {0} bytes, not 16")]
    TraceId(usize),
    #[error("span id has {0} bytes, not 8")]
    SpanId(usize),
    #[error("trace id is all zeros or missing")]
    ZeroTraceId,
    #[error("span id is all zeros or missing")]
    ZeroSpanId,
    #[error("`{field}` cannot be read: {found}")]
    Unreadable { field: &'static str, found: String },
    #[error("not a span: it is no JSON object")]
    NotAnObject,
    #[error("not a span: {0}")]
    Json(String),
    #[error("`{0}`, or an item of it, is not what spans come in")]
    NoSpans(&'static str),
}

impl SpanError {
    fn unreadable(field: &'static str, value: &Value<'_>) -> Self {
        Self::Unreadable { field, found: forms::shown(value) }
    }
}

/// The message about a request that is not valid JSON.
pub fn malformed_json(error: &serde_json::Error) -> String {
    format!("malformed JSON: {error}")
}

/// Empties a span for the next one, but keeps the memory of its lists.
fn reset(span: &mut Span<'_>) {
    let (mut attributes, mut events, mut links, mut tags) = (
        std::mem::take(&mut span.attributes),
        std::mem::take(&mut span.events),
        std::mem::take(&mut span.links),
        std::mem::take(&mut span.llm.tags),
    );
    attributes.clear();
    events.clear();
    links.clear();
    tags.clear();
    *span = Span { attributes, events, links, ..Span::default() };
    span.llm.tags = tags;
}

fn check_ids(span: &Span<'_>) -> Result<(), SpanError> {
    if span.run_id.is_nil() {
        return Err(SpanError::ZeroTraceId);
    }
    if span.span_id.is_nil() {
        return Err(SpanError::ZeroSpanId);
    }
    Ok(())
}

/// The service that a resource names, even if the name is not a text.
fn service_name<'a>(resource: &[Attribute<'a>]) -> Cow<'a, str> {
    text_of(resource, "service.name")
}

/// The text of an attribute; empty if there is no such attribute.
fn text_of<'a>(attributes: &[Attribute<'a>], key: &str) -> Cow<'a, str> {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    found.map(|attribute| semantics::text(&attribute.value)).unwrap_or_default()
}

/// The sink that writes spans into the rows of a batch.
#[derive(Debug)]
pub struct Translator<'b> {
    batch: &'b mut Batch,
    project: ProjectId,
    received_at: UnixNanos,
    /// The LangSmith project of spans that do not name one.
    session_name: &'b str,
    same_origin: bool,
    /// Bytes that the current origin takes in each span's row.
    origin_bytes: usize,
}

impl<'b> Translator<'b> {
    /// Writes into `batch`. `session_name` is the LangSmith project that the request's header names; empty if it names
    /// none.
    pub fn new(batch: &'b mut Batch, header: &Header, session_name: &'b str) -> Self {
        let Header { project_id: project, received_at, .. } = *header;
        Self { batch, project, received_at, session_name, same_origin: false, origin_bytes: 0 }
    }
}

impl<'a, 'b: 'a> Sink<'a> for Translator<'b> {
    fn origin(&mut self) {
        self.same_origin = false;
    }

    fn span(&mut self, origin: &Origin<'a>, span: &mut Span<'a>) {
        if !self.same_origin {
            self.origin_bytes = origin_bytes(origin);
        }
        if !self.batch.take_origin_bytes(self.origin_bytes) {
            return;
        }
        limits::apply(span);
        semantics::interpret(span);
        if let Some(flag) = times::of_span(span.start_time, span.end_time, self.received_at) {
            span.attributes.push(flag);
            unique::keep_last(&mut span.attributes);
        }
        span.session_name = session_name(origin, span, self.session_name);
        self.batch.push_span(self.project, origin, self.same_origin, span);
        self.same_origin = true;
    }

    fn reject(&mut self, span: &Span<'a>, error: SpanError) {
        self.batch.reject(hex_ids(span), error.to_string());
    }
}

fn hex_ids(span: &Span<'_>) -> String {
    let hex = |id: Uuid, from: usize| id.simple().to_string()[from..].to_owned();
    format!("trace {} span {}", hex(span.run_id, 0), hex(span.span_id, 16))
}

/// The LangSmith project as the client names it, in an attribute, in the request's header or in OpenInference's way;
/// without one, the service.
fn session_name<'a>(origin: &Origin<'a>, span: &Span<'a>, header: &'a str) -> Cow<'a, str> {
    let named = [
        text_of(&span.attributes, "langsmith.trace.session_name"),
        Cow::Borrowed(header),
        text_of(&origin.resource_attributes, "openinference.project.name"),
    ];
    named.into_iter().find(|name| !name.is_empty()).unwrap_or_else(|| origin.service_name.clone())
}
