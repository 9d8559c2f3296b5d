//! The table of precedence: per field, the sources that can fill it. The first source that is present and has a value
//! wins.

use std::sync::LazyLock;

use Source::{Attribute as A, EventAttribute, List, Member, Messages};
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use translate::usage;

/// A column that attributes can fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Field {
    Kind,
    Model,
    ResponseModel,
    Provider,
    Temperature,
    Inputs,
    Outputs,
    Session,
    User,
    Tags,
    ErrorKind,
    ErrorText,
    Name,
}

/// Number of fields: `Name` is the last of [`Field`].
pub const FIELDS: usize = Field::Name as usize + 1;

/// Which values a field accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A value that is the name of a kind.
    Kind,
    /// Any value that is not empty.
    Text,
    /// A number, or a text that is a number.
    Number,
}

impl Field {
    /// Which values the field accepts.
    pub const fn shape(self) -> Shape {
        match self {
            Field::Kind => Shape::Kind,
            Field::Temperature => Shape::Number,
            _ => Shape::Text,
        }
    }
}

/// Where the value of a field can come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The attribute with this name.
    Attribute(&'static str),
    /// A number inside of the attribute with this name, which holds a JSON object.
    Member(&'static str, &'static [&'static str]),
    /// All attributes whose names begin with this and go on with an index: a flattened list.
    List(&'static str),
    /// An attribute of the last event with this name. It is asked only if no attribute of the span has a value, so it
    /// must be last.
    EventAttribute(&'static str, &'static str),
    /// All events with these names, each of which is a message. It must be last, too.
    Messages(&'static [&'static str]),
}

const DETAILS_EVENT: &str = "gen_ai.client.inference.operation.details";

/// Per field, the sources that can fill it; the first one that is present wins. Counts and costs are in
/// [`translate::usage`].
pub const TABLE: [(Field, &[Source]); FIELDS] = [
    (
        Field::Kind,
        &[
            A("langsmith.span.kind"),
            A("openinference.span.kind"),
            A("langfuse.observation.type"),
            A("ai.operationId"),
            A("gen_ai.operation.name"),
            A("traceloop.span.kind"),
            A("llm.request.type"),
        ],
    ),
    (
        Field::Model,
        &[
            A("gen_ai.request.model"),
            A("llm.model_name"),
            A("llm.request.model_name"),
            A("embedding.model_name"),
            A("reranker.model_name"),
            A("langfuse.observation.model.name"),
            A("ai.model.id"),
            A("model_name"),
        ],
    ),
    (Field::ResponseModel, &[A("gen_ai.response.model"), A("llm.response.model_name"), A("ai.response.model")]),
    (
        Field::Provider,
        &[
            A("langsmith.metadata.ls_provider"),
            A("gen_ai.provider.name"),
            A("gen_ai.system"),
            A("llm.provider"),
            A("llm.system"),
            A("ai.model.provider"),
        ],
    ),
    (
        Field::Temperature,
        &[
            A("gen_ai.request.temperature"),
            Member("llm.invocation_parameters", &["temperature"]),
            Member("langfuse.observation.model.parameters", &["temperature"]),
            A("ai.settings.temperature"),
        ],
    ),
    (
        Field::Inputs,
        &[
            A("langfuse.observation.input"),
            A("gen_ai.input.messages"),
            List("llm.input_messages."),
            List("gen_ai.prompt."),
            A("gen_ai.tool.call.arguments"),
            A("ai.prompt.messages"),
            A("ai.prompt"),
            A("ai.toolCall.args"),
            A("ai.value"),
            A("ai.values"),
            A("traceloop.entity.input"),
            A("input.value"),
            A("gen_ai.prompt"),
            A("pydantic_ai.all_messages"),
            A("langfuse.trace.input"),
            EventAttribute(DETAILS_EVENT, "gen_ai.input.messages"),
            Messages(&[
                "gen_ai.system.message",
                "gen_ai.user.message",
                "gen_ai.assistant.message",
                "gen_ai.tool.message",
            ]),
            EventAttribute("gen_ai.content.prompt", "gen_ai.prompt"),
        ],
    ),
    (
        Field::Outputs,
        &[
            A("langfuse.observation.output"),
            A("gen_ai.output.messages"),
            List("llm.output_messages."),
            List("gen_ai.completion."),
            A("gen_ai.tool.call.result"),
            A("ai.response.text"),
            A("ai.response.object"),
            A("ai.response.toolCalls"),
            A("ai.toolCall.result"),
            A("traceloop.entity.output"),
            A("output.value"),
            A("gen_ai.completion"),
            List("retrieval.documents."),
            A("final_result"),
            A("langfuse.trace.output"),
            EventAttribute(DETAILS_EVENT, "gen_ai.output.messages"),
            Messages(&["gen_ai.choice"]),
            EventAttribute("gen_ai.content.completion", "gen_ai.completion"),
        ],
    ),
    (
        Field::Session,
        &[
            A("langfuse.session.id"),
            A("session.id"),
            A("gen_ai.conversation.id"),
            A("langsmith.metadata.session_id"),
            A("langsmith.metadata.thread_id"),
            A("langsmith.metadata.conversation_id"),
            A("traceloop.association.properties.session_id"),
            A("ai.telemetry.metadata.sessionId"),
            // The AI SDK since version 7.
            A("ai.settings.context.sessionId"),
        ],
    ),
    (
        Field::User,
        &[
            A("langfuse.user.id"),
            A("user.id"),
            A("langsmith.metadata.user_id"),
            A("traceloop.association.properties.user_id"),
            A("ai.telemetry.metadata.userId"),
            A("ai.settings.context.userId"),
        ],
    ),
    (
        Field::Tags,
        &[
            A("tag.tags"),
            A("langfuse.trace.tags"),
            A("langsmith.span.tags"),
            A("ai.telemetry.metadata.tags"),
            A("logfire.tags"),
        ],
    ),
    (Field::ErrorKind, &[A("error.type")]),
    (Field::ErrorText, &[A("langfuse.observation.status_message")]),
    (Field::Name, &[A("langsmith.trace.name")]),
];

/// What the name of an attribute stands for. Small, because it is read for every attribute of every span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A source in [`TABLE`]: its field and its rank (0 wins).
    Field(Field, u8),
    /// An index into the names of counts and costs.
    Usage(u8),
}

/// The meaning of each attribute name. No name has two.
pub(super) static BY_NAME: LazyLock<HashMap<&'static str, Meaning, FixedState>> = LazyLock::new(|| {
    let mut map = HashMap::with_hasher(FixedState::default());
    map.extend(usage::attribute_names().map(|(name, place)| (name, Meaning::Usage(place))));
    for (field, sources) in &TABLE {
        for (rank, source) in sources.iter().enumerate() {
            if let A(name) | Member(name, _) = source {
                map.insert(*name, Meaning::Field(*field, rank as u8));
            }
        }
    }
    map
});

/// The field and the rank of the flattened list that an attribute belongs to.
pub(super) fn list_of(name: &str) -> Option<(Field, u8)> {
    // All lists of the table. The first letter alone excludes nearly every other attribute.
    if !matches!(name.as_bytes().first(), Some(b'l' | b'g' | b'r')) {
        return None;
    }
    LISTS.iter().find(|(prefix, _, _)| is_item(name, prefix)).map(|(_, field, rank)| (*field, *rank))
}

/// Whether an attribute belongs to the list with that prefix: an index follows the prefix.
pub(super) fn is_item(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| rest.as_bytes().first().is_some_and(u8::is_ascii_digit))
}

static LISTS: LazyLock<Vec<(&'static str, Field, u8)>> = LazyLock::new(|| {
    let mut lists = Vec::new();
    for (field, sources) in &TABLE {
        for (rank, source) in sources.iter().enumerate() {
            if let List(prefix) = source {
                lists.push((*prefix, *field, rank as u8));
            }
        }
    }
    lists
});
