//! The one model that every protocol is translated into: runs and spans, borrowing from the request body.
//!
//! A decoder fills these and hands them to [`wire::tables`]; nothing downstream knows which protocol a row came from,
//! except by its `source` column. Absent values are the zero of their type (nil UUID, empty string, 0 nanoseconds),
//! because that is also what the tables store; only what has a meaningful zero is an `Option`.

use std::borrow::Cow;

use uuid::Uuid;

/// Nanoseconds since the Unix epoch; 0 = not given.
pub type UnixNanos = i64;

/// What an operation is. Stored as its lower-case name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Llm,
    Chain,
    Tool,
    Agent,
    Retriever,
    Embedding,
    Parser,
    Prompt,
    Workflow,
    Task,
    Guardrail,
    Evaluator,
    Reranker,
    /// Nothing more specific is known.
    #[default]
    Span,
}

impl Kind {
    /// Every kind with its stored name.
    pub const ALL: [(Kind, &'static str); 14] = [
        (Kind::Llm, "llm"),
        (Kind::Chain, "chain"),
        (Kind::Tool, "tool"),
        (Kind::Agent, "agent"),
        (Kind::Retriever, "retriever"),
        (Kind::Embedding, "embedding"),
        (Kind::Parser, "parser"),
        (Kind::Prompt, "prompt"),
        (Kind::Workflow, "workflow"),
        (Kind::Task, "task"),
        (Kind::Guardrail, "guardrail"),
        (Kind::Evaluator, "evaluator"),
        (Kind::Reranker, "reranker"),
        (Kind::Span, "span"),
    ];

    /// The name stored in the `kind` column.
    pub const fn as_str(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// The kind of that (lower-case) name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, n)| *n == name).map(|(kind, _)| *kind)
    }
}

/// How an operation ended. Stored as its lower-case name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// Ended without an error.
    #[default]
    Ok,
    /// Ended with an error.
    Error,
    /// Not ended as far as we were told.
    Running,
    /// Ended by its caller.
    Cancelled,
}

impl Status {
    /// Every status with its stored name.
    pub const ALL: [(Status, &'static str); 4] =
        [(Status::Ok, "ok"), (Status::Error, "error"), (Status::Running, "running"), (Status::Cancelled, "cancelled")];

    /// The name stored in the `status` column.
    pub const fn as_str(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// The status of that (lower-case) name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, n)| *n == name).map(|(status, _)| *status)
    }
}

/// An attribute's value. What OTLP can say, this can say; [`Value::type_tag`] keeps the type beside the stored text.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// OTLP's empty `AnyValue`, JSON's null.
    Empty,
    /// Text, stored as it is.
    Str(Cow<'a, str>),
    /// Stored as `true` or `false`.
    Bool(bool),
    /// Stored in decimal.
    Int(i64),
    /// Stored as the shortest decimal that reads back the same; `NaN`, `inf`, `-inf`.
    Double(f64),
    /// Stored as base64.
    Bytes(Cow<'a, [u8]>),
    /// An array, already rendered as JSON.
    Array(Cow<'a, str>),
    /// A key-value list, already rendered as a JSON object.
    Map(Cow<'a, str>),
}

impl Value<'_> {
    /// One ASCII letter per type; the `*_types` columns hold one per attribute, in the attributes' order.
    pub const fn type_tag(&self) -> u8 {
        match self {
            Value::Empty => b'e',
            Value::Str(_) => b's',
            Value::Bool(_) => b'b',
            Value::Int(_) => b'i',
            Value::Double(_) => b'd',
            Value::Bytes(_) => b'y',
            Value::Array(_) => b'a',
            Value::Map(_) => b'm',
        }
    }
}

/// A key and its value. In a row each key is there once ([`unique`](translate::unique)).
#[derive(Clone, Debug, PartialEq)]
pub struct Attribute<'a> {
    /// The attribute's name.
    pub key: Cow<'a, str>,
    /// Its value.
    pub value: Value<'a>,
}

/// Token counts of one model call; `None` = unknown, which the tables store as 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// All input tokens, cached ones included.
    pub prompt: Option<u32>,
    /// All output tokens, reasoning included.
    pub completion: Option<u32>,
    /// Input and output.
    pub total: Option<u32>,
    /// Input tokens read from a cache.
    pub cached: Option<u32>,
    /// Input tokens written to a cache.
    pub cache_write: Option<u32>,
    /// Output tokens spent on reasoning.
    pub reasoning: Option<u32>,
    /// A count or a cost was sent that is not understood, or counts contradict each other: no price is made of them.
    pub doubtful: bool,
}

/// What a run and a span have in common: the meaning that §7 of the protocol notes calls the LLM fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Llm<'a> {
    /// What the operation is.
    pub kind: Kind,
    /// The model asked for, else the one that answered.
    pub model: Cow<'a, str>,
    /// The model that answered, as its provider names it.
    pub response_model: Cow<'a, str>,
    /// Who serves the model.
    pub provider: Cow<'a, str>,
    /// Token counts.
    pub tokens: Tokens,
    /// Cost in US dollars times 10^8; `None` = unknown (never 0 for unknown).
    pub cost_usd_e8: Option<i64>,
    /// Sampling temperature.
    pub temperature: Option<f64>,
    /// What went in: text or JSON, as the client wrote it.
    pub inputs: Cow<'a, str>,
    /// What came out.
    pub outputs: Cow<'a, str>,
    /// The attribute that `inputs` was moved from; empty if it came from a field of its own.
    pub inputs_attribute: Cow<'a, str>,
    /// The attribute that `outputs` was moved from.
    pub outputs_attribute: Cow<'a, str>,
    /// The conversation or thread.
    pub session_id: Cow<'a, str>,
    /// The end user.
    pub user_id: Cow<'a, str>,
    /// Free labels.
    pub tags: Vec<Cow<'a, str>>,
    /// The error's class, e.g. an exception type.
    pub error_kind: Cow<'a, str>,
    /// The error's text.
    pub error_message: Cow<'a, str>,
}

/// Something that happened during a span, at an instant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event<'a> {
    /// When.
    pub time: UnixNanos,
    /// What.
    pub name: Cow<'a, str>,
    /// More about it.
    pub attributes: Vec<Attribute<'a>>,
    /// Attributes the SDK dropped before sending.
    pub dropped_attributes: u32,
}

/// A pointer from a span to another one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Link<'a> {
    /// The other trace.
    pub trace_id: Uuid,
    /// The other span, padded as in [`span_uuid`].
    pub span_id: Uuid,
    /// W3C trace state.
    pub trace_state: Cow<'a, str>,
    /// More about it.
    pub attributes: Vec<Attribute<'a>>,
    /// Attributes the SDK dropped before sending.
    pub dropped_attributes: u32,
    /// W3C trace flags.
    pub flags: u32,
}

/// What the spans of one OTLP resource and scope share. A native span has an empty one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Origin<'a> {
    /// `service.name` of the resource.
    pub service_name: Cow<'a, str>,
    /// All resource attributes.
    pub resource_attributes: Vec<Attribute<'a>>,
    /// Schema URL of the resource.
    pub resource_schema_url: Cow<'a, str>,
    /// Instrumentation scope name.
    pub scope_name: Cow<'a, str>,
    /// Instrumentation scope version.
    pub scope_version: Cow<'a, str>,
    /// Scope attributes.
    pub scope_attributes: Vec<Attribute<'a>>,
    /// Schema URL of the scope.
    pub scope_schema_url: Cow<'a, str>,
}

/// One span. Final when it arrives: never patched.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Span<'a> {
    /// The trace it belongs to (an OTLP trace id is these 16 bytes), or the run of a native span.
    pub run_id: Uuid,
    /// Its own id, padded as in [`span_uuid`].
    pub span_id: Uuid,
    /// Its parent's; nil for a root.
    pub parent_span_id: Uuid,
    /// What was done.
    pub name: Cow<'a, str>,
    /// How it ended.
    pub status: Status,
    /// The status message as sent.
    pub status_message: Cow<'a, str>,
    /// OTLP span kind (0 unspecified, 1 internal, 2 server, 3 client, 4 producer, 5 consumer).
    pub span_kind: u8,
    /// When it began.
    pub start_time: UnixNanos,
    /// When it ended.
    pub end_time: UnixNanos,
    /// W3C trace state.
    pub trace_state: Cow<'a, str>,
    /// W3C trace flags and OTLP's remote bits.
    pub flags: u32,
    /// The LLM fields.
    pub llm: Llm<'a>,
    /// Everything the client sent that has no column of its own, and the small things that have.
    pub attributes: Vec<Attribute<'a>>,
    /// What happened during it.
    pub events: Vec<Event<'a>>,
    /// Other spans it points to.
    pub links: Vec<Link<'a>>,
    /// Attributes the SDK dropped before sending.
    pub dropped_attributes: u32,
    /// Events the SDK dropped before sending.
    pub dropped_events: u32,
    /// Links the SDK dropped before sending.
    pub dropped_links: u32,
}

/// Which write of a run a row is. All are kept, and merged when read: a field is that of the highest of these which has
/// it, and among equals of the one that was received last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum RunOp {
    /// A creation that leaves the run open.
    Post = 1,
    /// A creation that tells of the end, too. In rows from before `0007_later_writes_win` also a change.
    #[default]
    Complete = 2,
    /// A change. It may arrive before the creation, which takes nothing of it back.
    Patch = 3,
}

/// One write of a run: its creation, or a change. A field at its zero means "not provided".
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run<'a> {
    /// Its id; for OTLP the trace id.
    pub run_id: Uuid,
    /// The root run of its tree; equal to `run_id` for a root.
    pub trace_id: Uuid,
    /// Its parent; nil for a root.
    pub parent_run_id: Uuid,
    /// Which write this is.
    pub op: RunOp,
    /// What was done.
    pub name: Cow<'a, str>,
    /// How it ended; `None` = not provided (shown as running until something ends it).
    pub status: Option<Status>,
    /// When it began.
    pub start_time: UnixNanos,
    /// When it ended.
    pub end_time: UnixNanos,
    /// LangSmith's sortable path from the root.
    pub dotted_order: Cow<'a, str>,
    /// LangSmith's project name, OTLP's service name.
    pub session_name: Cow<'a, str>,
    /// The SDK that sent it.
    pub sdk: Cow<'a, str>,
    /// Its version.
    pub sdk_version: Cow<'a, str>,
    /// The LLM fields.
    pub llm: Llm<'a>,
    /// Metadata: everything the client sent that has no column of its own.
    pub attributes: Vec<Attribute<'a>>,
    /// LangSmith's events, a JSON array as text.
    pub events: Cow<'a, str>,
}

/// A verdict on a run: what LangSmith calls feedback.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Score<'a> {
    /// The run it is about.
    pub run_id: Uuid,
    /// The root run of that run's tree, if given.
    pub trace_id: Uuid,
    /// Its own id.
    pub score_id: Uuid,
    /// What was judged.
    pub name: Cow<'a, str>,
    /// The verdict as a number; true is 1, false is 0.
    pub value: Option<f64>,
    /// The verdict as a word, if it is one.
    pub label: Cow<'a, str>,
    /// The verdict as JSON, as the client wrote it.
    pub value_json: Cow<'a, str>,
    /// Why.
    pub comment: Cow<'a, str>,
    /// What would have been right.
    pub correction: Cow<'a, str>,
    /// Where the verdict comes from, such as `api` or `model`.
    pub feedback_source: Cow<'a, str>,
    /// More about that, as JSON.
    pub feedback_source_metadata: Cow<'a, str>,
    /// How `value` is to be read, as JSON.
    pub feedback_config: Cow<'a, str>,
    /// Who judged.
    pub user_id: Cow<'a, str>,
    /// Why there is no verdict.
    pub error_message: Cow<'a, str>,
    /// Everything else, as a JSON object.
    pub extra: Cow<'a, str>,
    /// When the run began, as the client says.
    pub start_time: UnixNanos,
    /// When the verdict was given.
    pub created_at: UnixNanos,
    /// When it was last changed.
    pub modified_at: UnixNanos,
}

/// A file that belongs to a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attachment<'a> {
    /// The run.
    pub run_id: Uuid,
    /// The file's name.
    pub name: Cow<'a, str>,
    /// Its media type.
    pub mime_type: Cow<'a, str>,
    /// Its bytes.
    pub content: &'a [u8],
}

/// A call as a replayer finds and recognises it. What went in and what came out are in its run or span.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReplayCapture<'a> {
    /// The run it is, or the run its span belongs to.
    pub run_id: Uuid,
    /// The span it is; nil for a run.
    pub span_id: Uuid,
    /// Of a span, its parent; of a run, the run that is its parent.
    pub parent_span_id: Uuid,
    /// What is called.
    pub kind: Kind,
    /// Its name.
    pub name: &'a str,
    /// The model, if one is called.
    pub model: &'a str,
    /// Who serves it.
    pub provider: &'a str,
    /// When the call began.
    pub start_time: UnixNanos,
    /// When it ended; 0 if that was not known yet.
    pub end_time: UnixNanos,
    /// What it was called with beside its inputs: a JSON object.
    pub parameters: &'a str,
    /// By which the same call is recognised.
    pub content_hash: [u8; 16],
}

/// An item that could not be stored, as it came.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SetAside<'a> {
    /// Which item, as the client can recognise it.
    pub item: Cow<'a, str>,
    /// Why.
    pub reason: Cow<'a, str>,
    /// Its bytes, perhaps not all of them.
    pub content: Cow<'a, [u8]>,
    /// How many bytes it had.
    pub content_bytes: u64,
    /// [`content_hash_128`](wire::tables::content_hash_128) of all of them.
    pub content_hash: [u8; 16],
}

/// An OTLP span id as a UUID: left-padded with zero bytes, so that it reads back as the last 16 hex digits.
pub fn span_uuid(id: [u8; 8]) -> Uuid {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&id);
    Uuid::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_discriminants() {
        for (kind, name) in Kind::ALL {
            assert_eq!((kind.as_str(), Kind::parse(name)), (name, Some(kind)));
        }
        for (status, name) in Status::ALL {
            assert_eq!((status.as_str(), Status::parse(name)), (name, Some(status)));
        }
    }

    #[test]
    fn span_id_reads_back_as_its_hex() {
        let id = span_uuid([0x4c, 0x2b, 0xa6, 0x6a, 0xaa, 0x84, 0x7a, 0x55]);
        assert_eq!(id.to_string(), "00000000-0000-0000-4c2b-a66aaa847a55");
    }
}
