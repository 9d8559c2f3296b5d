//! The names that conventions have for counts and costs. Per [`Part`], the first name that has a value counts.
//!
//! `docs/reference/protocols.md` explains which convention includes what in which number.

use std::sync::LazyLock;

use Part::*;
use foldhash::fast::FixedState;
use hashbrown::HashMap;

/// The part of the usage that a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Part {
    Prompt,
    /// Input tokens in addition to [`Part::Prompt`].
    MorePrompt,
    Completion,
    Total,
    CacheRead,
    CacheWrite,
    /// Cache writes by how long they are kept. Together they are [`Part::CacheWrite`].
    CacheWriteShort,
    CacheWriteLong,
    Reasoning,
    TotalCost,
    PromptCost,
    CompletionCost,
    // The parts of the costs of input and output.
    PlainInputCost,
    CacheReadCost,
    CacheWriteCost,
    AudioInputCost,
    PlainOutputCost,
    ReasoningCost,
    AudioOutputCost,
    /// The costs of calls, tools and searches: neither input nor output.
    OtherCost,
}

/// Number of parts: `OtherCost` is the last of [`Part`].
pub(super) const PARTS: usize = OtherCost as usize + 1;

impl Part {
    pub(super) const fn is_cost(self) -> bool {
        self as u8 >= TotalCost as u8
    }
}

/// What the number under a name includes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Input with cached tokens, and output with reasoning. For a part of input or output: it is included in it.
    Whole,
    /// Input or output in a convention that counts some of its parts apart. For such a part: it is one of those.
    Apart,
    /// What remains beside all members that are named as parts of it.
    Rest,
}

/// One name, and the part that it stands for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name {
    pub(super) part: Part,
    pub(super) reach: Reach,
    /// The name of an attribute, or of a member of a JSON object; after a `/`, the name of a member inside of it.
    pub(super) name: &'static str,
}

const fn of(part: Part, name: &'static str) -> Name {
    Name { part, reach: Reach::Whole, name }
}

const fn apart(part: Part, name: &'static str) -> Name {
    Name { part, reach: Reach::Apart, name }
}

const fn rest(part: Part, name: &'static str) -> Name {
    Name { part, reach: Reach::Rest, name }
}

/// Attributes of OpenTelemetry spans.
pub(super) const ATTRIBUTES: &[Name] = &[
    of(Prompt, "gen_ai.usage.input_tokens"),
    of(Prompt, "gen_ai.usage.prompt_tokens"),
    of(Prompt, "llm.token_count.prompt"),
    of(Prompt, "ai.usage.inputTokens"),
    of(Prompt, "ai.usage.promptTokens"),
    // For embeddings.
    of(Prompt, "ai.usage.tokens"),
    of(Prompt, "llm.usage.prompt_tokens"),
    // Claude Code.
    apart(Prompt, "input_tokens"),
    of(Completion, "gen_ai.usage.output_tokens"),
    of(Completion, "gen_ai.usage.completion_tokens"),
    of(Completion, "llm.token_count.completion"),
    of(Completion, "ai.usage.outputTokens"),
    of(Completion, "ai.usage.completionTokens"),
    of(Completion, "llm.usage.completion_tokens"),
    of(Completion, "output_tokens"),
    of(Total, "gen_ai.usage.total_tokens"),
    of(Total, "llm.usage.total_tokens"),
    of(Total, "llm.token_count.total"),
    of(Total, "ai.usage.totalTokens"),
    of(CacheRead, "gen_ai.usage.cache_read.input_tokens"),
    of(CacheRead, "gen_ai.usage.cache_read_input_tokens"),
    of(CacheRead, "gen_ai.usage.cache_read_tokens"),
    of(CacheRead, "gen_ai.usage.cached_input_tokens"),
    of(CacheRead, "gen_ai.usage.cached_tokens"),
    // Sentry.
    of(CacheRead, "gen_ai.usage.input_tokens.cached"),
    // Pydantic AI, in earlier versions.
    of(CacheRead, "gen_ai.usage.details.cache_read_tokens"),
    of(CacheRead, "gen_ai.usage.details.cached_tokens"),
    of(CacheRead, "llm.token_count.prompt_details.cache_read"),
    of(CacheRead, "llm.token_count.prompt_details.cache_input"),
    of(CacheRead, "llm.usage.cache_read_input_tokens"),
    of(CacheRead, "ai.usage.inputTokenDetails.cacheReadTokens"),
    of(CacheRead, "ai.usage.cachedInputTokens"),
    apart(CacheRead, "cache_read_tokens"),
    apart(CacheRead, "cache_read_input_tokens"),
    // OpenTelemetry calls it a write since 2026, and called it a creation before.
    of(CacheWrite, "gen_ai.usage.cache_write.input_tokens"),
    of(CacheWrite, "gen_ai.usage.cache_creation.input_tokens"),
    of(CacheWrite, "gen_ai.usage.cache_write_input_tokens"),
    of(CacheWrite, "gen_ai.usage.cache_creation_input_tokens"),
    of(CacheWrite, "gen_ai.usage.cache_write_tokens"),
    of(CacheWrite, "gen_ai.usage.cache_creation_tokens"),
    of(CacheWrite, "gen_ai.usage.input_tokens.cache_write"),
    of(CacheWrite, "gen_ai.usage.details.cache_write_tokens"),
    of(CacheWrite, "llm.token_count.prompt_details.cache_write"),
    of(CacheWrite, "llm.usage.cache_creation_input_tokens"),
    of(CacheWrite, "ai.usage.inputTokenDetails.cacheWriteTokens"),
    apart(CacheWrite, "cache_creation_tokens"),
    apart(CacheWrite, "cache_creation_input_tokens"),
    of(Reasoning, "gen_ai.usage.reasoning.output_tokens"),
    of(Reasoning, "gen_ai.usage.reasoning_tokens"),
    of(Reasoning, "gen_ai.usage.output_tokens.reasoning"),
    of(Reasoning, "gen_ai.usage.details.reasoning_tokens"),
    of(Reasoning, "llm.usage.reasoning_tokens"),
    of(Reasoning, "llm.token_count.completion_details.reasoning"),
    of(Reasoning, "ai.usage.outputTokenDetails.reasoningTokens"),
    of(Reasoning, "ai.usage.reasoningTokens"),
    of(TotalCost, "llm.cost.total"),
    of(TotalCost, "gen_ai.usage.cost"),
    of(TotalCost, "gen_ai.usage.total_cost"),
    // LiteLLM, under two names.
    of(TotalCost, "gen_ai.cost.total_cost"),
    of(TotalCost, "litellm.cost.total"),
    // Sentry: the cost of the tokens.
    of(TotalCost, "gen_ai.cost.total_tokens"),
    // Pydantic AI and Logfire.
    of(TotalCost, "operation.cost"),
    of(TotalCost, "cost_usd"),
    of(PromptCost, "llm.cost.prompt"),
    of(PromptCost, "gen_ai.usage.input_cost"),
    of(PromptCost, "gen_ai.cost.input_cost"),
    of(PromptCost, "litellm.cost.input"),
    of(PromptCost, "gen_ai.cost.input_tokens"),
    of(CompletionCost, "llm.cost.completion"),
    of(CompletionCost, "gen_ai.usage.output_cost"),
    of(CompletionCost, "gen_ai.cost.output_cost"),
    of(CompletionCost, "litellm.cost.output"),
    of(CompletionCost, "gen_ai.cost.output_tokens"),
    of(PlainInputCost, "llm.cost.prompt_details.input"),
    of(CacheReadCost, "llm.cost.prompt_details.cache_read"),
    apart(CacheReadCost, "gen_ai.cost.cache_read_cost"),
    apart(CacheReadCost, "litellm.cost.cache_read"),
    of(CacheWriteCost, "llm.cost.prompt_details.cache_write"),
    apart(CacheWriteCost, "gen_ai.cost.cache_creation_cost"),
    apart(CacheWriteCost, "litellm.cost.cache_creation"),
    of(AudioInputCost, "llm.cost.prompt_details.audio"),
    of(PlainOutputCost, "llm.cost.completion_details.output"),
    of(ReasoningCost, "llm.cost.completion_details.reasoning"),
    of(AudioOutputCost, "llm.cost.completion_details.audio"),
    apart(OtherCost, "gen_ai.cost.tool_usage_cost"),
    apart(OtherCost, "litellm.cost.tool_usage"),
];

/// Members of JSON objects: what a provider sends about a call, and what SDKs make of it.
pub(super) const MEMBERS: &[Name] = &[
    // Langfuse.
    rest(Prompt, "input"),
    // OpenAI, LiteLLM, DeepSeek and others with the API of OpenAI's chats.
    of(Prompt, "prompt_tokens"),
    // LangChain, LangSmith, OpenAI's responses; Anthropic, which counts cached tokens apart.
    apart(Prompt, "input_tokens"),
    // The AI SDK, inside and then outside; Amazon Bedrock, which counts cached tokens apart.
    of(Prompt, "inputTokens/total"),
    apart(Prompt, "inputTokens"),
    of(Prompt, "promptTokens"),
    // Gemini, with its names in JSON and in Python.
    of(Prompt, "promptTokenCount"),
    of(Prompt, "prompt_token_count"),
    apart(Prompt, "inputTokenCount"),
    of(Prompt, "input_token_count"),
    // Ollama.
    of(Prompt, "prompt_eval_count"),
    // Cohere.
    of(Prompt, "billed_units/input_tokens"),
    of(MorePrompt, "toolUsePromptTokenCount"),
    of(MorePrompt, "tool_use_prompt_token_count"),
    rest(Completion, "output"),
    of(Completion, "completion_tokens"),
    of(Completion, "output_tokens"),
    of(Completion, "outputTokens/total"),
    of(Completion, "outputTokens"),
    of(Completion, "completionTokens"),
    // Gemini counts thoughts apart.
    apart(Completion, "candidatesTokenCount"),
    apart(Completion, "responseTokenCount"),
    apart(Completion, "candidates_token_count"),
    apart(Completion, "response_token_count"),
    of(Completion, "outputTokenCount"),
    of(Completion, "generated_token_count"),
    of(Completion, "eval_count"),
    of(Completion, "billed_units/output_tokens"),
    of(Total, "total"),
    of(Total, "total_tokens"),
    of(Total, "totalTokens"),
    of(Total, "totalTokenCount"),
    of(Total, "total_token_count"),
    of(CacheRead, "input_token_details/cache_read"),
    of(CacheRead, "input_token_details/priority_cache_read"),
    of(CacheRead, "input_token_details/flex_cache_read"),
    of(CacheRead, "prompt_tokens_details/cached_tokens"),
    of(CacheRead, "input_tokens_details/cached_tokens"),
    of(CacheRead, "inputTokens/cacheRead"),
    of(CacheRead, "inputTokenDetails/cacheReadTokens"),
    of(CacheRead, "promptTokensDetails/cachedTokens"),
    of(CacheRead, "inputTokensDetails/cachedTokens"),
    of(CacheRead, "cachedInputTokens"),
    of(CacheRead, "cachedContentTokenCount"),
    of(CacheRead, "cached_content_token_count"),
    of(CacheRead, "prompt_cache_hit_tokens"),
    of(CacheRead, "cached_input_tokens"),
    of(CacheRead, "cached_tokens"),
    of(CacheRead, "input_cached_tokens"),
    of(CacheRead, "input_cache_read"),
    apart(CacheRead, "cache_read_input_tokens"),
    apart(CacheRead, "cacheReadInputTokens"),
    apart(CacheRead, "cacheReadInputTokenCount"),
    apart(CacheRead, "cache_read_tokens"),
    of(CacheWrite, "input_token_details/cache_creation"),
    of(CacheWrite, "prompt_tokens_details/cache_write_tokens"),
    of(CacheWrite, "input_tokens_details/cache_write_tokens"),
    of(CacheWrite, "prompt_tokens_details/cache_creation_tokens"),
    of(CacheWrite, "inputTokens/cacheWrite"),
    of(CacheWrite, "inputTokenDetails/cacheWriteTokens"),
    of(CacheWrite, "input_cache_creation"),
    of(CacheWrite, "input_cache_write"),
    of(CacheWrite, "input_cache_write_tokens"),
    of(CacheWrite, "input_cache_creation_tokens"),
    apart(CacheWrite, "cache_creation_input_tokens"),
    apart(CacheWrite, "cacheWriteInputTokens"),
    apart(CacheWrite, "cacheCreationInputTokens"),
    apart(CacheWrite, "cacheWriteInputTokenCount"),
    apart(CacheWrite, "cache_creation_tokens"),
    apart(CacheWrite, "cache_write_tokens"),
    of(CacheWriteShort, "input_token_details/ephemeral_5m_input_tokens"),
    of(CacheWriteShort, "input_ephemeral_5m_input_tokens"),
    apart(CacheWriteShort, "cache_creation/ephemeral_5m_input_tokens"),
    of(CacheWriteLong, "input_token_details/ephemeral_1h_input_tokens"),
    of(CacheWriteLong, "input_token_details/ephemeral_1hr_input_tokens"),
    of(CacheWriteLong, "input_ephemeral_1h_input_tokens"),
    apart(CacheWriteLong, "cache_creation/ephemeral_1h_input_tokens"),
    of(Reasoning, "output_token_details/reasoning"),
    of(Reasoning, "output_token_details/priority_reasoning"),
    of(Reasoning, "output_token_details/flex_reasoning"),
    of(Reasoning, "completion_tokens_details/reasoning_tokens"),
    of(Reasoning, "output_tokens_details/reasoning_tokens"),
    of(Reasoning, "output_tokens_details/thinking_tokens"),
    of(Reasoning, "outputTokens/reasoning"),
    of(Reasoning, "outputTokenDetails/reasoningTokens"),
    of(Reasoning, "completionTokensDetails/reasoningTokens"),
    of(Reasoning, "outputTokensDetails/reasoningTokens"),
    of(Reasoning, "reasoningTokens"),
    of(Reasoning, "reasoning_tokens"),
    of(Reasoning, "reasoning_output_tokens"),
    of(Reasoning, "output_reasoning_tokens"),
    of(Reasoning, "output_reasoning"),
    apart(Reasoning, "thoughtsTokenCount"),
    apart(Reasoning, "thoughts_token_count"),
    of(TotalCost, "total_cost"),
    // Claude's agents.
    of(TotalCost, "total_cost_usd"),
    // Perplexity; OpenRouter.
    of(TotalCost, "cost/total_cost"),
    of(TotalCost, "cost"),
    of(PromptCost, "input_cost"),
    of(PromptCost, "prompt_cost"),
    of(PromptCost, "cost/input_tokens_cost"),
    of(CompletionCost, "output_cost"),
    of(CompletionCost, "completion_cost"),
    of(CompletionCost, "cost/output_tokens_cost"),
    apart(CacheReadCost, "cache_read_cost"),
    apart(CacheWriteCost, "cache_creation_cost"),
    apart(OtherCost, "tool_usage_cost"),
    apart(OtherCost, "cost/request_cost"),
];

/// Attributes that hold such objects, as text or as a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Object {
    LangfuseUsage,
    LangfuseCost,
    LangsmithUsage,
    InputDetails,
    OutputDetails,
    ProviderMetadata,
}

pub(super) const OBJECTS: [(Object, &str); 6] = [
    (Object::LangfuseUsage, "langfuse.observation.usage_details"),
    (Object::LangfuseCost, "langfuse.observation.cost_details"),
    (Object::LangsmithUsage, "langsmith.metadata.usage_metadata"),
    (Object::InputDetails, "gen_ai.usage.input_token_details"),
    (Object::OutputDetails, "gen_ai.usage.output_token_details"),
    // The AI SDK.
    (Object::ProviderMetadata, "ai.response.providerMetadata"),
];

/// The names of all attributes with counts and costs, each with its place in [`super::Seen`].
pub fn attribute_names() -> impl Iterator<Item = (&'static str, u8)> {
    ATTRIBUTES.iter().map(|name| name.name).chain(OBJECTS.map(|(_, name)| name)).zip(0..)
}

/// The place in [`MEMBERS`] of a member, or of a member inside of one.
pub(super) fn member(outer: &str, inner: &str) -> Option<usize> {
    PLACES.get(&(outer, inner)).copied()
}

/// Whether there are known members inside of a member with that name.
pub(super) fn has_members(outer: &str) -> bool {
    MEMBERS.iter().any(|name| name.name.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/')))
}

static PLACES: LazyLock<HashMap<(&str, &str), usize, FixedState>> = LazyLock::new(|| {
    let places = MEMBERS.iter().enumerate();
    places.map(|(place, name)| (name.name.split_once('/').unwrap_or((name.name, "")), place)).collect()
});
