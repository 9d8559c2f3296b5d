//! Token counts and costs, in the places and shapes that SDKs and providers have for them.

use schema::translate::fields::{Bounded, Fields};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// An object of counts, in bytes. A larger one is no such object.
const USAGE_BYTES_MAX: usize = 16 << 10;
/// Generations that a model returned for one call.
const GENERATIONS_MAX: usize = 1_024;

/// What a model call used: LangSmith's `usage_metadata`, or a provider's own object.
pub(super) struct Usage(Value);

impl Usage {
    /// An object with at least one member.
    pub(super) fn read(raw: &RawValue) -> Option<Self> {
        if raw.get().len() > USAGE_BYTES_MAX {
            return None;
        }
        let value: Value = serde_json::from_str(raw.get()).ok()?;
        value.as_object().is_some_and(|members| !members.is_empty()).then_some(Self(value))
    }

    /// The first there is in what a run returned: LangSmith's own, LangChain's message, OpenAI's, LangChain's older one.
    pub(super) fn of_outputs(outputs: &RawValue) -> Option<Self> {
        #[derive(Deserialize)]
        struct Outputs<'a> {
            #[serde(borrow)]
            usage_metadata: Option<&'a RawValue>,
            #[serde(borrow)]
            generations: Option<&'a RawValue>,
            #[serde(borrow)]
            usage: Option<&'a RawValue>,
            #[serde(borrow)]
            llm_output: Option<&'a RawValue>,
        }
        let outputs: Outputs<'_> = serde_json::from_str(outputs.get()).ok()?;
        let own = outputs.usage_metadata.and_then(Self::read);
        let own = own.or_else(|| outputs.generations.and_then(Self::of_generations));
        let own = own.or_else(|| outputs.usage.and_then(Self::read));
        own.or_else(|| Self::read(member(outputs.llm_output?, "token_usage")?))
    }

    /// `generations[0][0].message.kwargs.usage_metadata`; current LangChain has no `kwargs`.
    fn of_generations(generations: &RawValue) -> Option<Self> {
        let message = member(first(first(generations)?)?, "message")?;
        Self::read(member(member(message, "kwargs").unwrap_or(message), "usage_metadata")?)
    }

    fn count(&self, names: &[&str]) -> Option<u32> {
        names.iter().find_map(|name| count(self.0.get(name)?))
    }

    fn detail(&self, objects: &[&str], names: &[&str]) -> u32 {
        let found = objects.iter().find_map(|object| {
            let object = self.0.get(object)?;
            names.iter().find_map(|name| count(object.get(name)?))
        });
        found.unwrap_or(0)
    }

    /// Input tokens, cached ones included.
    pub(super) fn input(&self) -> u32 {
        self.count(&["input_tokens", "prompt_tokens"]).unwrap_or(0)
    }

    /// Output tokens, reasoning included.
    pub(super) fn output(&self) -> u32 {
        self.count(&["output_tokens", "completion_tokens"]).unwrap_or(0)
    }

    /// The total, if it is given.
    pub(super) fn total(&self) -> Option<u32> {
        self.count(&["total_tokens"])
    }

    /// Input tokens read from a cache.
    pub(super) fn cached(&self) -> u32 {
        let objects = ["input_token_details", "input_tokens_details", "prompt_tokens_details"];
        self.detail(&objects, &["cache_read", "cached_tokens"])
    }

    /// Input tokens written to a cache.
    pub(super) fn cache_write(&self) -> u32 {
        self.detail(&["input_token_details"], &["cache_creation"])
    }

    /// Output tokens spent on reasoning.
    pub(super) fn reasoning(&self) -> u32 {
        let objects = ["output_token_details", "output_tokens_details", "completion_tokens_details"];
        self.detail(&objects, &["reasoning", "reasoning_tokens"])
    }

    /// The cost, if any part of it is given.
    pub(super) fn cost_usd_e8(&self) -> Option<i64> {
        /// What `Decimal(18, 8)` holds, in US dollars.
        const USD_MAX: f64 = 9_999_999_999.0;
        let cost = |name: &str| self.0.get(name).and_then(Value::as_f64);
        let parts = || match (cost("input_cost"), cost("output_cost")) {
            (None, None) => None,
            (input, output) => Some(input.unwrap_or(0.0) + output.unwrap_or(0.0)),
        };
        let usd = cost("total_cost").or_else(parts).filter(|usd| usd.abs() <= USD_MAX)?;
        Some((usd * 1e8).round() as i64)
    }
}

fn member<'a>(object: &'a RawValue, name: &str) -> Option<&'a RawValue> {
    Fields::read(object).ok()?.take(name)
}

fn first(list: &RawValue) -> Option<&RawValue> {
    let items = serde_json::from_str::<Bounded<&RawValue, GENERATIONS_MAX>>(list.get()).ok()?;
    items.0.into_iter().next()
}

/// A count may be written as a float, and is at most what the column holds.
fn count(value: &Value) -> Option<u32> {
    let n = value.as_f64().filter(|n| *n >= 0.0)?;
    Some(n.min(f64::from(u32::MAX)) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_outputs(json: &str) -> Option<(u32, u32, Option<u32>, u32, u32)> {
        let usage = Usage::of_outputs(serde_json::from_str(json).unwrap())?;
        Some((usage.input(), usage.output(), usage.total(), usage.cached(), usage.reasoning()))
    }

    #[test]
    fn every_place_and_shape() {
        for json in [
            r#"{"usage_metadata":{"input_tokens":3,"output_tokens":2,"total_tokens":5,"input_token_details":{"cache_read":1},
                "output_token_details":{"reasoning":1}}}"#,
            r#"{"generations":[[{"message":{"kwargs":{"usage_metadata":{"input_tokens":3.0,"output_tokens":2,"total_tokens":5,
                "input_token_details":{"cache_read":1},"output_token_details":{"reasoning":1}}}}}]]}"#,
            r#"{"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5,"prompt_tokens_details":{"cached_tokens":1},
                "completion_tokens_details":{"reasoning_tokens":1}}}"#,
            r#"{"llm_output":{"token_usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5,
                "prompt_tokens_details":{"cached_tokens":1},"completion_tokens_details":{"reasoning_tokens":1}}}}"#,
        ] {
            assert_eq!(of_outputs(json), Some((3, 2, Some(5), 1, 1)), "{json}");
        }
        let large = format!(r#"{{"usage":{{"prompt_tokens":3,"x":"{}"}}}}"#, "x".repeat(USAGE_BYTES_MAX));
        for json in
            [&large, "{}", "[]", "7", r#"{"usage_metadata":null,"generations":[[{"text":"x"}]],"llm_output":{}}"#]
        {
            assert_eq!(of_outputs(json), None, "{json}");
        }
    }

    #[test]
    fn a_cost_is_known_or_not_but_never_made_up() {
        let cost = |json: &str| Usage::read(serde_json::from_str(json).unwrap()).unwrap().cost_usd_e8();
        assert_eq!(cost(r#"{"total_cost":0.00001234}"#), Some(1_234));
        assert_eq!(cost(r#"{"input_cost":0.5,"output_cost":0.25}"#), Some(75_000_000));
        assert_eq!(cost(r#"{"input_tokens":1}"#), None);
        assert_eq!(cost(r#"{"total_cost":1e300}"#), None);
    }
}
