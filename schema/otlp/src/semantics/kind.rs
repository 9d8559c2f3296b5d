//! The kinds that the values of attributes stand for.

use model::trace::Kind;

use super::table::{Field, Source, TABLE};

/// The kind for this value of the attribute with that rank in [`Field::Kind`]; `None` = no kind, so the next attribute
/// is asked.
pub(super) fn kind(rank: u8, value: &str) -> Option<Kind> {
    let Source::Attribute(name) = TABLE[Field::Kind as usize].1[usize::from(rank)] else { return None };
    match name {
        "langsmith.span.kind" => named(value, &[]),
        // There is no kind for a decision.
        "openinference.span.kind" => named(value, &[("unknown", Kind::Span), ("decision", Kind::Span)]),
        "langfuse.observation.type" => named(value, &[("generation", Kind::Llm), ("event", Kind::Span)]),
        "ai.operationId" => match value {
            v if v.ends_with(".doGenerate") || v.ends_with(".doStream") => Some(Kind::Llm),
            v if v.ends_with(".doEmbed") => Some(Kind::Embedding),
            v if v.ends_with(".doRerank") => Some(Kind::Reranker),
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
            // The AI SDK since version 7.
            "agent_step" => Some(Kind::Chain),
            "rerank" => Some(Kind::Reranker),
            // LangSmith's OTel mode writes "chain" and "parser" here, but also a better attribute.
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

/// The kind with that name, or with one of these other names, in upper or lower case: Langfuse's API writes
/// `GENERATION`, its SDKs write `generation`.
fn named(value: &str, others: &[(&str, Kind)]) -> Option<Kind> {
    let mut all = others.iter().copied().chain(Kind::ALL.map(|(kind, name)| (name, kind)));
    all.find(|(name, _)| name.eq_ignore_ascii_case(value)).map(|(_, kind)| kind)
}
