//! What the values of the attributes that name a kind mean.

use schema::model::Kind;

use super::table::{Field, Source, TABLE};

/// The kind that the rank-th attribute of [`Field::Kind`] says with this value; `None` = says nothing, ask the next.
pub(super) fn kind(rank: u8, value: &str) -> Option<Kind> {
    let Source::Attribute(name) = TABLE[Field::Kind as usize].1[usize::from(rank)] else { return None };
    match name {
        "langsmith.span.kind" => Kind::parse(value),
        "openinference.span.kind" => match value {
            // A decision has no kind of its own.
            "UNKNOWN" | "DECISION" => Some(Kind::Span),
            _ => Kind::ALL.iter().find(|(_, n)| n.eq_ignore_ascii_case(value)).map(|(kind, _)| *kind),
        },
        "langfuse.observation.type" => match value {
            "generation" => Some(Kind::Llm),
            "span" | "event" => Some(Kind::Span),
            _ => Kind::parse(value),
        },
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
            // The AI SDK from version 7 on.
            "agent_step" => Some(Kind::Chain),
            "rerank" => Some(Kind::Reranker),
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
