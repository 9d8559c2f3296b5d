//! Finds where LangSmith's SDKs, LangChain and providers put token counts and costs. [`translate::usage`] reads what is
//! there.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use translate::fields::{Bounded, Fields};
use translate::usage::Usage;

/// Most generations that a model returned for one call.
const GENERATIONS_MAX: usize = 1_024;
/// The names that LangSmith's API has for the usage of a run itself.
const OF_RUNS: [&str; 6] =
    ["prompt_tokens", "completion_tokens", "total_tokens", "prompt_cost", "completion_cost", "total_cost"];

/// The usage of a run: from its metadata, else from its outputs, else from fields of the run itself.
pub(super) fn of_run(
    metadata: Option<&RawValue>,
    outputs: Option<&RawValue>,
    fields: &[(Cow<'_, str>, &RawValue)],
) -> Usage {
    let mut usage = metadata.and_then(read).unwrap_or_default();
    if usage.has_no_counts() {
        usage = usage.or(outputs.and_then(of_outputs).unwrap_or_default());
    }
    if fields.iter().any(|(name, _)| OF_RUNS.contains(&&**name)) {
        let own = fields.iter().filter(|(name, _)| OF_RUNS.contains(&&**name));
        let own = own.filter_map(|(name, raw)| Some((name.to_string(), serde_json::from_str(raw.get()).ok()?)));
        usage = usage.or(Usage::of_members(&own.collect()));
    }
    usage
}

fn read(raw: &RawValue) -> Option<Usage> {
    Usage::of_json(raw.get())
}

/// The first usage in a run's outputs: LangSmith's own format, else LangChain's message, else a provider's answer, else
/// LangChain's older format.
fn of_outputs(outputs: &RawValue) -> Option<Usage> {
    #[derive(Deserialize)]
    struct Outputs<'a> {
        #[serde(borrow)]
        usage_metadata: Option<&'a RawValue>,
        #[serde(borrow)]
        generations: Option<&'a RawValue>,
        #[serde(borrow)]
        usage: Option<&'a RawValue>,
        #[serde(borrow, rename = "usageMetadata")]
        of_gemini: Option<&'a RawValue>,
        #[serde(borrow)]
        llm_output: Option<&'a RawValue>,
        #[serde(borrow, rename = "llmOutput")]
        of_javascript: Option<&'a RawValue>,
    }
    let outputs: Outputs<'_> = serde_json::from_str(outputs.get()).ok()?;
    let own = outputs.usage_metadata.and_then(read);
    let own = own.or_else(|| outputs.generations.and_then(of_generations));
    let own = own.or_else(|| outputs.usage.and_then(read));
    let own = own.or_else(|| outputs.of_gemini.and_then(read));
    own.or_else(|| of_response(outputs.llm_output.or(outputs.of_javascript)?))
}

/// The usage in `generations[0][0].message.kwargs`; current LangChain has no `kwargs`.
fn of_generations(generations: &RawValue) -> Option<Usage> {
    let message = member(first(first(generations)?)?, "message")?;
    let message = member(message, "kwargs").unwrap_or(message);
    let own = member(message, "usage_metadata").and_then(read);
    own.or_else(|| of_response(member(message, "response_metadata")?))
}

/// The usage under the names that LangChain uses where it passes on a provider's answer.
fn of_response(response: &RawValue) -> Option<Usage> {
    ["token_usage", "tokenUsage", "usage"].iter().find_map(|name| read(member(response, name)?))
}

fn member<'a>(object: &'a RawValue, name: &str) -> Option<&'a RawValue> {
    Fields::read(object).ok()?.take(name)
}

fn first(list: &RawValue) -> Option<&RawValue> {
    let items = serde_json::from_str::<Bounded<&RawValue, GENERATIONS_MAX>>(list.get()).ok()?;
    items.0.into_iter().next()
}

#[cfg(test)]
mod tests {
    use model::trace::{Kind, Llm, Tokens};

    use super::*;

    fn filled(usage: Usage) -> Llm<'static> {
        let mut llm = Llm { kind: Kind::Llm, ..Llm::default() };
        usage.fill(&mut llm);
        llm
    }

    fn returned(json: &str) -> Option<Tokens> {
        of_outputs(serde_json::from_str(json).unwrap()).map(|usage| filled(usage).tokens)
    }

    #[test]
    fn usage_is_found_in_every_place_and_shape() {
        let wanted = Tokens {
            prompt: Some(3),
            completion: Some(2),
            total: Some(5),
            cached: Some(1),
            reasoning: Some(1),
            ..Tokens::default()
        };
        let langchain = r#"{"input_tokens":3,"output_tokens":2,"total_tokens":5,"input_token_details":{"cache_read":1},
            "output_token_details":{"reasoning":1}}"#;
        let openai = r#"{"prompt_tokens":3.0,"completion_tokens":"2","total_tokens":5,
            "prompt_tokens_details":{"cached_tokens":1},"completion_tokens_details":{"reasoning_tokens":1}}"#;
        let gemini = r#"{"promptTokenCount":3,"candidatesTokenCount":1,"thoughtsTokenCount":1,"totalTokenCount":5,
            "cachedContentTokenCount":1}"#;
        let camel =
            r#"{"promptTokens":3,"completionTokens":2,"totalTokens":5,"cachedInputTokens":1,"reasoningTokens":1}"#;
        for json in [
            format!(r#"{{"usage_metadata":{langchain}}}"#),
            format!(r#"{{"generations":[[{{"message":{{"kwargs":{{"usage_metadata":{langchain}}}}}}}]]}}"#),
            format!(r#"{{"generations":[[{{"message":{{"usage_metadata":{langchain}}}}}]]}}"#),
            format!(r#"{{"generations":[[{{"message":{{"response_metadata":{{"token_usage":{openai}}}}}}}]]}}"#),
            format!(r#"{{"usage":{openai}}}"#),
            format!(r#"{{"usageMetadata":{gemini}}}"#),
            format!(r#"{{"usage":{camel}}}"#),
            format!(r#"{{"llm_output":{{"token_usage":{openai}}}}}"#),
            format!(r#"{{"llm_output":{{"usage":{openai}}}}}"#),
            format!(r#"{{"llmOutput":{{"tokenUsage":{camel}}}}}"#),
        ] {
            assert_eq!(returned(&json), Some(wanted), "{json}");
        }
        let large = format!(r#"{{"usage":{{"prompt_tokens":3,"x":"{}"}}}}"#, "x".repeat(16 << 10));
        for json in
            [&large, "{}", "[]", "7", r#"{"usage_metadata":null,"generations":[[{"text":"x"}]],"llm_output":{}}"#]
        {
            assert_eq!(returned(json), None, "{json}");
        }
    }

    #[test]
    fn token_counts_come_from_outputs_when_metadata_has_only_a_cost() {
        let raw = |json| serde_json::from_str::<&RawValue>(json).unwrap();
        let metadata = raw(r#"{"total_cost":"0.5"}"#);
        let outputs = raw(r#"{"usage":{"prompt_tokens":3,"completion_tokens":2}}"#);
        let llm = filled(of_run(Some(metadata), Some(outputs), &[]));
        assert_eq!((llm.tokens.total, llm.cost_usd_e8), (Some(5), Some(50_000_000)));
        let fields = [("prompt_tokens", "7"), ("completion_cost", "0.25"), ("prompt_cost", "0.5"), ("name", "\"n\"")];
        let fields = fields.map(|(name, json)| (Cow::Borrowed(name), raw(json)));
        let llm = filled(of_run(None, None, &fields));
        assert_eq!((llm.tokens.prompt, llm.cost_usd_e8), (Some(7), Some(75_000_000)));
    }
}
