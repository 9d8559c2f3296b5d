//! The one model that every protocol is translated into: runs and spans, borrowed from the request body.
//!
//! A decoder fills these types and hands them to `wire::tables`. After that, only a row's `source` column says which
//! protocol it came from. An absent value is the zero of its type (nil UUID, empty string, 0 nanoseconds), because that
//! is also what the tables store. Only a value whose zero has a meaning is an `Option`.

use std::borrow::Cow;

use uuid::Uuid;

/// Nanoseconds since the Unix epoch; 0 = not given.
pub type UnixNanos = i64;

/// The kind of an operation. Stored as its lower-case name.
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
    /// An operation of no more specific kind.
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

    /// The kind with that name, which must be in lower case.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, n)| *n == name).map(|(kind, _)| *kind)
    }
}

/// How an operation ended. Stored as its lower-case name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// The operation ended without an error.
    #[default]
    Ok,
    /// The operation ended with an error.
    Error,
    /// The operation has not ended, as far as the client has said.
    Running,
    /// The operation's caller ended it.
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

    /// The status with that name, which must be in lower case.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, n)| *n == name).map(|(status, _)| *status)
    }
}

/// An attribute's value, of any type that OTLP has. [`Value::type_tag`] keeps the type beside the stored text.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// OTLP's empty `AnyValue`, or JSON's null.
    Empty,
    /// A text, stored unchanged.
    Str(Cow<'a, str>),
    /// A boolean, stored as `true` or `false`.
    Bool(bool),
    /// An integer, stored in decimal.
    Int(i64),
    /// A number, stored as the shortest decimal that reads back the same; `NaN`, `inf`, `-inf`.
    Double(f64),
    /// Bytes, stored as base64.
    Bytes(Cow<'a, [u8]>),
    /// An array, already rendered as JSON.
    Array(Cow<'a, str>),
    /// A key-value list, already rendered as a JSON object.
    Map(Cow<'a, str>),
}

impl Value<'_> {
    /// One ASCII letter per type. The `*_types` columns hold one letter per attribute, in the order of the attributes.
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

/// A key and its value. A row has each key once (`unique`).
#[derive(Clone, Debug, PartialEq)]
pub struct Attribute<'a> {
    /// The attribute's name, as the client sent it.
    pub key: Cow<'a, str>,
    /// The attribute's value and its type.
    pub value: Value<'a>,
}

/// Token counts of one model call; `None` = unknown, which the tables store as 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// All input tokens, including cached ones.
    pub prompt: Option<u32>,
    /// All output tokens, including those spent on reasoning.
    pub completion: Option<u32>,
    /// Input and output tokens together.
    pub total: Option<u32>,
    /// Input tokens read from a cache.
    pub cached: Option<u32>,
    /// Input tokens written to a cache.
    pub cache_write: Option<u32>,
    /// Output tokens spent on reasoning.
    pub reasoning: Option<u32>,
    /// Whether the client sent a count or a cost that cannot be read, or counts that contradict each other. Then no
    /// price is computed from them.
    pub doubtful: bool,
}

/// The fields that runs and spans have in common: §7 of the protocol notes calls them the LLM fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Llm<'a> {
    /// What kind of operation it is.
    pub kind: Kind,
    /// The model that the client asked for, else the one that answered.
    pub model: Cow<'a, str>,
    /// The model that answered, under its provider's name for it.
    pub response_model: Cow<'a, str>,
    /// The provider that serves the model, such as `openai`.
    pub provider: Cow<'a, str>,
    /// Token counts of the call.
    pub tokens: Tokens,
    /// Cost in US dollars times 10^8; `None` = unknown (never 0 for unknown).
    pub cost_usd_e8: Option<i64>,
    /// Sampling temperature that the client asked for.
    pub temperature: Option<f64>,
    /// The inputs: text or JSON, as the client wrote it.
    pub inputs: Cow<'a, str>,
    /// The outputs: text or JSON, as the client wrote it.
    pub outputs: Cow<'a, str>,
    /// The attribute that `inputs` was taken from; empty if it came from a field of its own.
    pub inputs_attribute: Cow<'a, str>,
    /// The attribute that `outputs` was taken from; empty if it came from a field of its own.
    pub outputs_attribute: Cow<'a, str>,
    /// Id of the conversation or thread.
    pub session_id: Cow<'a, str>,
    /// Id of the end user, as the client names it.
    pub user_id: Cow<'a, str>,
    /// Labels that the client chose.
    pub tags: Vec<Cow<'a, str>>,
    /// The class of the error, such as an exception type.
    pub error_kind: Cow<'a, str>,
    /// The message of the error.
    pub error_message: Cow<'a, str>,
    /// The hash by which a replayer recognises the same call; zeros where there is nothing to replay.
    pub content_hash: [u8; 16],
}

/// An event at one instant during a span.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event<'a> {
    /// When the event happened.
    pub time: UnixNanos,
    /// The name of the event.
    pub name: Cow<'a, str>,
    /// Attributes of the event.
    pub attributes: Vec<Attribute<'a>>,
    /// How many attributes the SDK dropped before sending.
    pub dropped_attributes: u32,
}

/// A pointer from a span to another one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Link<'a> {
    /// The trace of the other span.
    pub trace_id: Uuid,
    /// The other span, padded as in [`span_uuid`].
    pub span_id: Uuid,
    /// The `tracestate` of the linked span, as W3C Trace Context writes it; empty if none was sent.
    pub trace_state: Cow<'a, str>,
    /// Attributes of the link.
    pub attributes: Vec<Attribute<'a>>,
    /// How many attributes the SDK dropped before sending.
    pub dropped_attributes: u32,
    /// OTLP's flags of the link: bits 0 to 7 are the W3C trace flags.
    pub flags: u32,
}

/// What the spans of one OTLP resource and scope have in common. A native span has an empty one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Origin<'a> {
    /// `service.name` of the resource.
    pub service_name: Cow<'a, str>,
    /// Attributes of the resource, `service.name` among them.
    pub resource_attributes: Vec<Attribute<'a>>,
    /// Schema URL of the resource.
    pub resource_schema_url: Cow<'a, str>,
    /// Name of the instrumentation scope, which is usually the library that made the spans.
    pub scope_name: Cow<'a, str>,
    /// Version of the instrumentation scope; empty if none was sent.
    pub scope_version: Cow<'a, str>,
    /// Attributes of the instrumentation scope.
    pub scope_attributes: Vec<Attribute<'a>>,
    /// Schema URL of the scope.
    pub scope_schema_url: Cow<'a, str>,
}

/// One span. It is final when it arrives: nothing changes it later.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Span<'a> {
    /// The trace it belongs to (an OTLP trace id is these 16 bytes), or the run of a native span.
    pub run_id: Uuid,
    /// Id of the span, padded as in [`span_uuid`].
    pub span_id: Uuid,
    /// Id of the parent span; nil for a root.
    pub parent_span_id: Uuid,
    /// Name of the operation.
    pub name: Cow<'a, str>,
    /// How the operation ended.
    pub status: Status,
    /// The status message as sent.
    pub status_message: Cow<'a, str>,
    /// OTLP span kind (0 unspecified, 1 internal, 2 server, 3 client, 4 producer, 5 consumer).
    pub span_kind: u8,
    /// When the operation began.
    pub start_time: UnixNanos,
    /// When the operation ended.
    pub end_time: UnixNanos,
    /// The `tracestate` of the span, as W3C Trace Context writes it; empty if none was sent.
    pub trace_state: Cow<'a, str>,
    /// W3C trace flags and OTLP's remote bits.
    pub flags: u32,
    /// The LangSmith project, or what stands for it in other conventions; empty in a native span, whose run has it.
    pub session_name: Cow<'a, str>,
    /// The fields that runs and spans have in common.
    pub llm: Llm<'a>,
    /// Everything the client sent that has no column of its own, and small values that have one.
    pub attributes: Vec<Attribute<'a>>,
    /// Events during the span.
    pub events: Vec<Event<'a>>,
    /// Other spans that the span points to.
    pub links: Vec<Link<'a>>,
    /// How many attributes the SDK dropped before sending.
    pub dropped_attributes: u32,
    /// How many events the SDK dropped before sending.
    pub dropped_events: u32,
    /// How many links the SDK dropped before sending.
    pub dropped_links: u32,
}

/// Which write of a run a row is. All writes are stored, and merged when the run is read: a field has the value of the
/// write with the highest of these numbers that has the field, and among equal numbers of the one that was received
/// last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum RunOp {
    /// A creation that leaves the run open.
    Post = 1,
    /// A creation of a run that has ended. In rows from before `0007_later_writes_win` also a change.
    #[default]
    Complete = 2,
    /// A change. It may arrive before the creation, which then does not undo it.
    Patch = 3,
}

/// One write of a run: its creation, or a change. A field with the zero of its type means "not provided".
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run<'a> {
    /// Id of the run; for OTLP the trace id.
    pub run_id: Uuid,
    /// The root run of its tree; equal to `run_id` for a root.
    pub trace_id: Uuid,
    /// Id of the parent run; nil for a root.
    pub parent_run_id: Uuid,
    /// Whether the write creates or changes the run.
    pub op: RunOp,
    /// Name of the operation.
    pub name: Cow<'a, str>,
    /// How the run ended; `None` = not provided (shown as running until another write ends it).
    pub status: Option<Status>,
    /// When the run began.
    pub start_time: UnixNanos,
    /// When the run ended.
    pub end_time: UnixNanos,
    /// LangSmith's path from the root run, which sorts by time.
    pub dotted_order: Cow<'a, str>,
    /// LangSmith's project name, or OTLP's service name.
    pub session_name: Cow<'a, str>,
    /// Name of the SDK that sent the write.
    pub sdk: Cow<'a, str>,
    /// Version of that SDK.
    pub sdk_version: Cow<'a, str>,
    /// The fields that runs and spans have in common.
    pub llm: Llm<'a>,
    /// Metadata: everything the client sent that has no column of its own.
    pub attributes: Vec<Attribute<'a>>,
    /// LangSmith's events, a JSON array as text.
    pub events: Cow<'a, str>,
}

/// A verdict on a run: what LangSmith calls feedback.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Score<'a> {
    /// Id of the run that was judged.
    pub run_id: Uuid,
    /// Id of the root run of that run's tree, if the client gives it.
    pub trace_id: Uuid,
    /// Id of the verdict itself.
    pub score_id: Uuid,
    /// The criterion of the verdict, LangSmith's feedback key.
    pub name: Cow<'a, str>,
    /// The verdict as a number; true is 1, false is 0.
    pub value: Option<f64>,
    /// The verdict as a word, if it is one.
    pub label: Cow<'a, str>,
    /// The verdict as JSON, as the client wrote it.
    pub value_json: Cow<'a, str>,
    /// The reason for the verdict, as text.
    pub comment: Cow<'a, str>,
    /// The correct result, according to the person or program that gave the verdict.
    pub correction: Cow<'a, str>,
    /// The source of the verdict, such as `api` or `model`.
    pub feedback_source: Cow<'a, str>,
    /// More about the source, as JSON.
    pub feedback_source_metadata: Cow<'a, str>,
    /// How `value` is to be read, as JSON.
    pub feedback_config: Cow<'a, str>,
    /// Id of the user who gave the verdict.
    pub user_id: Cow<'a, str>,
    /// Why there is no verdict, as a message.
    pub error_message: Cow<'a, str>,
    /// All other fields that the client sent, as a JSON object.
    pub extra: Cow<'a, str>,
    /// When the run began, as the client says.
    pub start_time: UnixNanos,
    /// When the verdict was given.
    pub created_at: UnixNanos,
    /// When the verdict was last changed.
    pub modified_at: UnixNanos,
}

/// A file that belongs to a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attachment<'a> {
    /// Id of the run that the file belongs to.
    pub run_id: Uuid,
    /// The name that the client gave the file.
    pub name: Cow<'a, str>,
    /// Media type of the file, as in Content-Type.
    pub mime_type: Cow<'a, str>,
    /// Content of the file.
    pub content: &'a [u8],
}

/// A rejected item, as the client sent it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RejectedItem<'a> {
    /// The name of the item, in a form that the client can recognise.
    pub item: Cow<'a, str>,
    /// Why the item was rejected.
    pub reason: Cow<'a, str>,
    /// The bytes of the item, perhaps cut off.
    pub content: Cow<'a, [u8]>,
    /// How many bytes the whole item has.
    pub content_bytes: u64,
    /// `content_hash_128` of the whole item.
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
