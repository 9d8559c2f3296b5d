//! OTLP traces: protobuf and JSON in, rows out.
//!
//! `wire` and `protobuf` walk the protobuf form, `json` the JSON form; both fill the same [`Span`] and hand it to a
//! [`Sink`]. [`Translator`] is the sink that stores: it gives a span its LLM meaning ([`semantics`]), derives the run of a
//! root span, and writes rows.

mod json;
mod json_value;
pub mod limits;
pub mod project;
mod protobuf;
pub mod reply;
pub mod semantics;
pub mod untraced;
mod wire;

pub use json::decode as decode_json;
pub use protobuf::decode as decode_protobuf;
pub use wire::Malformed;

use std::borrow::Cow;

use schema::envelope::Header;
use schema::ids::ProjectId;
use schema::model::{Attribute, Origin, Run, RunOp, Span, Status, UnixNanos, Value};
use schema::tables::content_hash;
use schema::translate::batch::{Batch, origin_bytes};
use schema::translate::prices::COST_SOURCE;
use schema::translate::times;
use uuid::Uuid;

/// `STATUS_CODE_ERROR` of `opentelemetry.proto.trace.v1.Status`.
const STATUS_ERROR: u64 = 2;

/// What a decoder hands its findings to.
pub trait Sink<'a> {
    /// The spans that follow have another origin than those before.
    fn origin(&mut self);
    /// A whole span. The sink may take what it likes out of it; the decoder resets it.
    fn span(&mut self, origin: &Origin<'a>, span: &mut Span<'a>);
    /// A span that cannot be stored; `span` holds what was read of it.
    fn set_aside(&mut self, span: &Span<'a>, error: SpanError);
}

/// Why one span cannot be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
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
    #[error("an id is not hexadecimal")]
    NotHex,
    #[error("text that is not UTF-8")]
    NotUtf8,
    #[error("not a span of OTLP/JSON: a field has the wrong type")]
    WrongType,
    #[error("an attribute is nested deeper than {0} levels")]
    NestedTooDeep(u8),
}

/// What is wrong with a request in JSON. What is nested too deep inside a span is the span's fault alone.
pub fn malformed_json(error: &serde_json::Error) -> String {
    match json::is_too_deep(error) {
        true => {
            let max = limits::NESTING_MAX_JSON;
            format!("an attribute of a resource or scope is nested deeper than {max} levels: {error}")
        }
        false => format!("malformed JSON: {error}"),
    }
}

/// Empties a span for the next one, keeping its lists' memory.
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

fn status(is_error: bool) -> Status {
    if is_error { Status::Error } else { Status::Ok }
}

/// The sink that stores.
#[derive(Debug)]
pub struct Translator<'b> {
    batch: &'b mut Batch,
    project: ProjectId,
    received_at: UnixNanos,
    /// LangSmith's project of the spans that do not name one.
    session_name: &'b str,
    same_origin: bool,
    /// What the current origin takes per span, in bytes.
    origin_bytes: usize,
}

impl<'b> Translator<'b> {
    /// Writes into `batch`, on behalf of a request whose header names LangSmith's project so; empty if it names none.
    pub fn new(batch: &'b mut Batch, header: &Header, session_name: &'b str) -> Self {
        let Header { project_id: project, received_at, .. } = *header;
        Self { batch, project, received_at, session_name, same_origin: false, origin_bytes: 0 }
    }
}

impl<'a> Sink<'a> for Translator<'_> {
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
        let time_flag = times::of_span(span.start_time, span.end_time, self.received_at);
        span.attributes.extend(time_flag.clone());
        self.batch.push_span(self.project, origin, self.same_origin, span);
        self.same_origin = true;
        if span.parent_span_id.is_nil() {
            let mut run = run_of_root(origin, span, self.session_name);
            run.attributes.extend(time_flag);
            run.attributes.extend(span.attributes.last().filter(|a| a.key == COST_SOURCE).cloned());
            self.batch.push_derived_run(self.project, &run, content_hash(span.span_id.as_bytes()));
        }
    }

    fn set_aside(&mut self, span: &Span<'a>, error: SpanError) {
        self.batch.set_aside(hex_ids(span), error.to_string());
    }
}

fn hex_ids(span: &Span<'_>) -> String {
    let hex = |id: Uuid, from: usize| id.simple().to_string()[from..].to_owned();
    format!("trace {} span {}", hex(span.run_id, 0), hex(span.span_id, 16))
}

/// The run that a trace's root span stands for. Totals over the trace are computed when read, from its spans.
fn run_of_root<'a>(origin: &Origin<'a>, span: &Span<'a>, header: &'a str) -> Run<'a> {
    let text_of = |attributes: &[Attribute<'a>], key: &str| {
        let found = attributes.iter().find(|a| a.key == key);
        match found.map(|a| &a.value) {
            Some(Value::Str(text)) => text.clone(),
            _ => Cow::Borrowed(""),
        }
    };
    let resource = |key| text_of(&origin.resource_attributes, key);
    // The project as the client calls it; without one, the service.
    let named = [
        text_of(&span.attributes, "langsmith.trace.session_name"),
        Cow::Borrowed(header),
        resource("openinference.project.name"),
    ];
    let session_name = named.into_iter().find(|name| !name.is_empty());
    Run {
        run_id: span.run_id,
        trace_id: span.run_id,
        parent_run_id: Uuid::nil(),
        op: RunOp::Complete,
        name: span.name.clone(),
        status: Some(span.status),
        start_time: span.start_time,
        end_time: span.end_time,
        session_name: session_name.unwrap_or_else(|| origin.service_name.clone()),
        sdk: resource("telemetry.sdk.name"),
        sdk_version: resource("telemetry.sdk.version"),
        llm: span.llm.clone(),
        ..Run::default()
    }
}
