//! What a span's attributes mean: which of them fill the LLM columns.
//!
//! Many conventions name the same thing. [`TABLE`] lists, per field, the attributes that can fill it, the first present
//! one winning. Small values are copied and stay in the attributes; the winning `inputs` and `outputs` texts, which are
//! most of a span's bytes, are moved, and the attribute they came from is noted beside them, so that nothing is lost and
//! nothing is stored twice.

use std::borrow::Cow;
use std::sync::LazyLock;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use schema::model::{Attribute, Kind, Span, Status, Tokens, Value};

/// A column that attributes can fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Field {
    Kind,
    Model,
    ResponseModel,
    Provider,
    PromptTokens,
    CompletionTokens,
    TotalTokens,
    CachedTokens,
    ReasoningTokens,
    Cost,
    Temperature,
    Inputs,
    Outputs,
    Session,
    User,
    Tags,
    ErrorKind,
}

const FIELDS: usize = Field::ErrorKind as usize + 1;

/// Per field the attributes that can fill it; the first present one wins.
pub const TABLE: [(Field, &[&str]); FIELDS] = [
    (
        Field::Kind,
        &[
            "langsmith.span.kind",
            "openinference.span.kind",
            "langfuse.observation.type",
            "ai.operationId",
            "gen_ai.operation.name",
            "traceloop.span.kind",
            "llm.request.type",
        ],
    ),
    (
        Field::Model,
        &[
            "gen_ai.request.model",
            "llm.model_name",
            "llm.request.model_name",
            "embedding.model_name",
            "reranker.model_name",
            "langfuse.observation.model.name",
            "ai.model.id",
            "model_name",
        ],
    ),
    (Field::ResponseModel, &["gen_ai.response.model", "llm.response.model_name", "ai.response.model"]),
    (
        Field::Provider,
        &[
            "langsmith.metadata.ls_provider",
            "gen_ai.provider.name",
            "gen_ai.system",
            "llm.provider",
            "llm.system",
            "ai.model.provider",
        ],
    ),
    (
        Field::PromptTokens,
        &[
            "gen_ai.usage.input_tokens",
            "gen_ai.usage.prompt_tokens",
            "llm.token_count.prompt",
            "ai.usage.inputTokens",
            "ai.usage.promptTokens",
        ],
    ),
    (
        Field::CompletionTokens,
        &[
            "gen_ai.usage.output_tokens",
            "gen_ai.usage.completion_tokens",
            "llm.token_count.completion",
            "ai.usage.outputTokens",
            "ai.usage.completionTokens",
        ],
    ),
    (
        Field::TotalTokens,
        &["gen_ai.usage.total_tokens", "llm.usage.total_tokens", "llm.token_count.total", "ai.usage.totalTokens"],
    ),
    (
        Field::CachedTokens,
        &[
            "gen_ai.usage.cache_read.input_tokens",
            "llm.token_count.prompt_details.cache_read",
            "llm.token_count.prompt_details.cache_input",
            "ai.usage.inputTokenDetails.cacheReadTokens",
            "ai.usage.cachedInputTokens",
        ],
    ),
    (
        Field::ReasoningTokens,
        &[
            "gen_ai.usage.reasoning.output_tokens",
            "gen_ai.usage.reasoning_tokens",
            "llm.token_count.completion_details.reasoning",
            "ai.usage.outputTokenDetails.reasoningTokens",
            "ai.usage.reasoningTokens",
        ],
    ),
    (Field::Cost, &["llm.cost.total"]),
    (Field::Temperature, &["gen_ai.request.temperature"]),
    (
        Field::Inputs,
        &[
            "langfuse.observation.input",
            "gen_ai.input.messages",
            "gen_ai.tool.call.arguments",
            "ai.prompt.messages",
            "ai.prompt",
            "ai.toolCall.args",
            "traceloop.entity.input",
            "input.value",
            "gen_ai.prompt",
            "pydantic_ai.all_messages",
            "langfuse.trace.input",
        ],
    ),
    (
        Field::Outputs,
        &[
            "langfuse.observation.output",
            "gen_ai.output.messages",
            "gen_ai.tool.call.result",
            "ai.response.text",
            "ai.response.object",
            "ai.response.toolCalls",
            "ai.toolCall.result",
            "traceloop.entity.output",
            "output.value",
            "gen_ai.completion",
            "final_result",
            "langfuse.trace.output",
        ],
    ),
    (
        Field::Session,
        &[
            "langfuse.session.id",
            "session.id",
            "gen_ai.conversation.id",
            "langsmith.metadata.session_id",
            "langsmith.metadata.thread_id",
            "langsmith.metadata.conversation_id",
            "traceloop.association.properties.session_id",
            "ai.telemetry.metadata.sessionId",
        ],
    ),
    (
        Field::User,
        &[
            "langfuse.user.id",
            "user.id",
            "langsmith.metadata.user_id",
            "traceloop.association.properties.user_id",
            "ai.telemetry.metadata.userId",
        ],
    ),
    (
        Field::Tags,
        &["tag.tags", "langfuse.trace.tags", "langsmith.span.tags", "ai.telemetry.metadata.tags", "logfire.tags"],
    ),
    (Field::ErrorKind, &["error.type"]),
];

/// Attribute name → field and rank (0 wins).
static BY_NAME: LazyLock<HashMap<&'static str, (Field, u8), FixedState>> = LazyLock::new(|| {
    let entries = TABLE
        .iter()
        .flat_map(|(field, names)| names.iter().enumerate().map(move |(rank, name)| (*name, (*field, rank as u8))));
    let mut map = HashMap::with_hasher(FixedState::default());
    map.extend(entries);
    map
});

/// The kind that the rank-th attribute of [`Field::Kind`] says with this value; `None` = says nothing, ask the next.
fn kind(rank: usize, value: &str) -> Option<Kind> {
    match TABLE[Field::Kind as usize].1[rank] {
        "langsmith.span.kind" => Kind::parse(value),
        "openinference.span.kind" => match value {
            "UNKNOWN" | "DECISION" => Some(Kind::Span),
            _ => Kind::parse(&value.to_ascii_lowercase()),
        },
        "langfuse.observation.type" => match value {
            "generation" => Some(Kind::Llm),
            "span" | "event" => Some(Kind::Span),
            _ => Kind::parse(value),
        },
        "ai.operationId" => match value {
            v if v.ends_with(".doGenerate") || v.ends_with(".doStream") => Some(Kind::Llm),
            v if v.ends_with(".doEmbed") => Some(Kind::Embedding),
            "ai.toolCall" => Some(Kind::Tool),
            v if v.starts_with("ai.") => Some(Kind::Chain),
            _ => None,
        },
        "gen_ai.operation.name" => match value {
            "chat" | "generate_content" | "text_completion" => Some(Kind::Llm),
            "embeddings" => Some(Kind::Embedding),
            "execute_tool" => Some(Kind::Tool),
            "invoke_agent" | "create_agent" => Some(Kind::Agent),
            "retrieval" => Some(Kind::Retriever),
            "invoke_workflow" => Some(Kind::Chain),
            // LangSmith's OTel mode says "chain" and "parser" here, beside a better attribute.
            _ => None,
        },
        "traceloop.span.kind" => match value {
            "workflow" | "task" => Some(Kind::Chain),
            "agent" => Some(Kind::Agent),
            "tool" => Some(Kind::Tool),
            _ => None,
        },
        "llm.request.type" => match value {
            "chat" | "completion" => Some(Kind::Llm),
            "embedding" => Some(Kind::Embedding),
            "rerank" => Some(Kind::Reranker),
            _ => None,
        },
        _ => None,
    }
}

/// Where the winning attribute of each field is.
struct Found {
    /// Per field: (rank, index), the lowest rank.
    best: [Option<(u8, usize)>; FIELDS],
    kind: Option<(usize, Kind)>,
}

impl Found {
    fn scan(attributes: &[Attribute<'_>]) -> Self {
        let mut found = Found { best: [None; FIELDS], kind: None };
        for (index, Attribute { key, value }) in attributes.iter().enumerate() {
            let Some(&(field, rank)) = BY_NAME.get(&**key) else { continue };
            if matches!(value, Value::Empty) {
                continue;
            }
            if field == Field::Kind {
                let rank = usize::from(rank);
                if let (Value::Str(value), true) = (value, found.kind.is_none_or(|(r, _)| rank < r)) {
                    found.kind = kind(rank, value).map(|k| (rank, k)).or(found.kind);
                }
            }
            let best = &mut found.best[field as usize];
            if best.is_none_or(|(r, _)| rank < r) {
                *best = Some((rank, index));
            }
        }
        found
    }

    fn index(&self, field: Field) -> Option<usize> {
        self.best[field as usize].map(|(_, index)| index)
    }

    fn value<'s, 'a>(&self, field: Field, attributes: &'s [Attribute<'a>]) -> Option<&'s Value<'a>> {
        self.index(field).map(|i| &attributes[i].value)
    }

    fn text<'a>(&self, field: Field, attributes: &[Attribute<'a>]) -> Cow<'a, str> {
        self.value(field, attributes).map(text).unwrap_or_default()
    }

    fn count(&self, field: Field, attributes: &[Attribute<'_>]) -> u32 {
        let n = match self.value(field, attributes) {
            Some(Value::Int(n)) => *n,
            Some(Value::Double(n)) => *n as i64,
            Some(Value::Str(text)) => text.parse().unwrap_or_default(),
            _ => 0,
        };
        u32::try_from(n.max(0)).unwrap_or(u32::MAX)
    }

    fn number(&self, field: Field, attributes: &[Attribute<'_>]) -> Option<f64> {
        let n = match self.value(field, attributes)? {
            Value::Int(n) => *n as f64,
            Value::Double(n) => *n,
            Value::Str(text) => text.parse().ok()?,
            _ => return None,
        };
        n.is_finite().then_some(n)
    }
}

fn text<'a>(value: &Value<'a>) -> Cow<'a, str> {
    match value {
        Value::Str(text) | Value::Array(text) | Value::Map(text) => text.clone(),
        Value::Int(n) => n.to_string().into(),
        Value::Bool(b) => b.to_string().into(),
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
    llm.provider = found.text(Field::Provider, attributes);
    let calls_a_model = !llm.model.is_empty() && !llm.provider.is_empty();
    llm.kind = match found.kind {
        Some((_, kind)) => kind,
        None if calls_a_model => Kind::Llm,
        None => Kind::Span,
    };
    if llm.model.is_empty() {
        llm.model = llm.response_model.clone();
    }
    // Agents and chains repeat the sum of their steps: counted there too, a trace's total would be a multiple.
    if matches!(llm.kind, Kind::Llm | Kind::Embedding | Kind::Reranker) {
        let count = |field| found.count(field, attributes);
        let (prompt, completion) = (count(Field::PromptTokens), count(Field::CompletionTokens));
        let total = count(Field::TotalTokens);
        llm.tokens = Tokens {
            prompt,
            completion,
            total: if total > 0 { total } else { prompt.saturating_add(completion) },
            cached: count(Field::CachedTokens),
            reasoning: count(Field::ReasoningTokens),
        };
        llm.cost_usd_e8 = found.number(Field::Cost, attributes).and_then(cost_e8);
    }
    llm.temperature = found.number(Field::Temperature, attributes);
    llm.session_id = found.text(Field::Session, attributes);
    llm.user_id = found.text(Field::User, attributes);
    if let Some(value) = found.value(Field::Tags, attributes) {
        tags(value, &mut llm.tags);
    }
    interpret_error(span, &found);
    move_texts(span, &found);
}

/// US dollars in units of 10^-8, the scale of `cost_usd Decimal(18, 8)`; `None` if that cannot hold it.
fn cost_e8(usd: f64) -> Option<i64> {
    const DECIMAL_18_MAX: f64 = 1e18;
    let scaled = (usd * 1e8).round();
    (scaled.abs() < DECIMAL_18_MAX).then_some(scaled as i64)
}

fn tags<'a>(value: &Value<'a>, out: &mut Vec<Cow<'a, str>>) {
    match value {
        Value::Array(json) => {
            let parsed: Vec<String> = serde_json::from_str(json).unwrap_or_default();
            out.extend(parsed.into_iter().map(Cow::Owned));
        }
        // LangSmith's OTel mode joins them with commas.
        Value::Str(text) => {
            let names = text.split(',').map(str::trim).filter(|t| !t.is_empty());
            out.extend(names.map(|t| Cow::Owned(t.to_owned())));
        }
        _ => {}
    }
}

fn interpret_error(span: &mut Span<'_>, found: &Found) {
    if span.status != Status::Error {
        return;
    }
    let exception = span.events.iter().rev().find(|e| e.name == "exception");
    let of_exception = |key: &str| {
        let attribute = exception.and_then(|e| e.attributes.iter().find(|a| a.key == key));
        attribute.map(|a| text(&a.value)).filter(|t| !t.is_empty())
    };
    span.llm.error_kind =
        of_exception("exception.type").unwrap_or_else(|| found.text(Field::ErrorKind, &span.attributes));
    span.llm.error_message = of_exception("exception.message").unwrap_or_else(|| span.status_message.clone());
}

/// Moves the winning inputs and outputs out of the attributes, if they are text. (Other types stay, and are shown from
/// there, because a column of text would lose the type.)
fn move_texts(span: &mut Span<'_>, found: &Found) {
    let is_text = |i: &usize| matches!(span.attributes[*i].value, Value::Str(_));
    let inputs = found.index(Field::Inputs).filter(is_text);
    let outputs = found.index(Field::Outputs).filter(is_text);
    let mut take = |index: Option<usize>| match index.map(|i| &mut span.attributes[i]) {
        Some(Attribute { key, value: value @ Value::Str(_) }) => match std::mem::replace(value, Value::Empty) {
            Value::Str(text) => (key.clone(), text),
            _ => Default::default(),
        },
        _ => Default::default(),
    };
    (span.llm.inputs_attribute, span.llm.inputs) = take(inputs);
    (span.llm.outputs_attribute, span.llm.outputs) = take(outputs);
    // From the back, so that the first removal does not shift the second.
    let (first, second) = if inputs > outputs { (inputs, outputs) } else { (outputs, inputs) };
    for index in [first, second].into_iter().flatten() {
        span.attributes.remove(index);
    }
}

#[cfg(test)]
mod tests;
