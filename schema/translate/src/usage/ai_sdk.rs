//! Completes the counts of the AI SDK's versions up to 5.
//!
//! These versions pass on the input that a provider counts, and Anthropic and Bedrock count cached tokens apart. The
//! number of cached tokens is only in the provider's metadata beside the counts. Version 6 adds them up itself and
//! sends each part.

use model::trace::Value;
use serde_json::{Map, Value as Json};

use super::read::object;
use super::{SentNumber, TokenCount, Usage};

/// The attribute with cached input tokens that does not say whether they are part of the input.
pub(super) const CACHE_READ: &str = "ai.usage.cachedInputTokens";

/// Adds the cached tokens in a call's `ai.response.providerMetadata`.
pub(super) fn with_metadata(mut usage: Usage, metadata: &Value<'_>) -> Usage {
    let (Value::Str(json) | Value::Map(json)) = metadata else { return usage };
    let Some(members) = object(json) else {
        usage.doubtful |= usage.cache() > 0;
        return usage;
    };
    let provider = |name: &str| members.get(name).and_then(Json::as_object);
    if let Some(anthropic) = provider("anthropic") {
        match anthropic.get("usage").and_then(Json::as_object).map(Usage::of_members) {
            Some(said) if said.prompt.is_some() => said.or(usage),
            _ => apart(usage, anthropic, "cacheReadInputTokens", "cacheCreationInputTokens"),
        }
    } else if let Some(bedrock) = provider("bedrock") {
        let nothing = Map::new();
        let said = bedrock.get("usage").and_then(Json::as_object).unwrap_or(&nothing);
        // Version 4 sends both; versions 5 and 6 can look alike here, but count differently.
        let is_clear = said.contains_key("cacheReadInputTokens");
        let mut usage = apart(usage, said, "cacheReadInputTokens", "cacheWriteInputTokens");
        usage.doubtful |= !is_clear && usage.cache() > 0;
        usage
    } else {
        usage
    }
}

fn apart(mut usage: Usage, members: &Map<String, Json>, read: &str, write: &str) -> Usage {
    let mut count = |name: &str| {
        let count = members.get(name).map_or(Ok(None), |value| SentNumber::json(value).count());
        usage.doubtful |= count.is_err();
        count.ok().flatten()
    };
    let (cached, cache_write) = (count(read), count(write).map(u64::from));
    usage.cached = usage.cached.or(cached);
    usage.cache_write = usage.cache_write.or(cache_write);
    let cache = usage.cache();
    usage.prompt = usage.prompt.map(|side| TokenCount { whole: side.whole + cache, ..side });
    usage
}
