use std::collections::HashMap;

use model::trace::{Attribute, Kind};
use serde_json::{Value as Json, json};

use super::*;
use crate::prices::Prices;

mod properties;

/// The counts as they are stored, and their cost at 3, 0.3, 3.75 and 15 dollars per million.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stored {
    prompt: u32,
    completion: u32,
    total: u32,
    cached: u32,
    written: u32,
    reasoning: u32,
    cost_e8: Option<i64>,
}

fn prices() -> Prices {
    let text = "source: test\ndate: 2026-01-31\ncurrency: USD\nper_tokens: 1000000\n\
                provider,model,input,cached_input,cache_write,output\nacme,big,3,0.3,3.75,15\n";
    Prices::parse(text).unwrap()
}

fn stored(usage: Usage) -> Stored {
    let mut llm = Llm { kind: Kind::Llm, provider: "acme".into(), model: "big".into(), ..Llm::default() };
    usage.fill(&mut llm);
    prices().fill(&mut llm, &mut Vec::new());
    let Tokens { prompt, completion, total, cached, cache_write, reasoning, .. } = llm.tokens;
    let [prompt, completion, total, cached, written, reasoning] =
        [prompt, completion, total, cached, cache_write, reasoning].map(|n| n.unwrap_or(0));
    Stored { prompt, completion, total, cached, written, reasoning, cost_e8: llm.cost_usd_e8 }
}

/// The right result for `plain` input, cache reads and writes, output and reasoning.
fn right(plain: u32, cached: u32, written: u32, completion: u32, reasoning: u32) -> Stored {
    let prompt = plain + cached + written;
    let e8 = |tokens: u32, cents: i64| i64::from(tokens) * cents;
    let cost_e8 = e8(plain, 300) + e8(cached, 30) + e8(written, 375) + e8(completion, 1_500);
    Stored { prompt, completion, total: prompt + completion, cached, written, reasoning, cost_e8: Some(cost_e8) }
}

fn attributes(values: &[(&str, Json)]) -> Vec<Attribute<'static>> {
    let value = |json: &Json| match json {
        Json::String(text) => Value::Str(text.clone().into()),
        Json::Number(n) => n.as_i64().map_or_else(|| Value::Double(n.as_f64().unwrap()), Value::Int),
        Json::Bool(b) => Value::Bool(*b),
        Json::Null => Value::Empty,
        json => Value::Map(json.to_string().into()),
    };
    values.iter().map(|(key, json)| Attribute { key: (*key).to_owned().into(), value: value(json) }).collect()
}

fn of_span(attributes: &[Attribute<'_>]) -> Usage {
    let places: HashMap<_, _> = attribute_names().collect();
    let mut seen = Seen::default();
    for (index, attribute) in attributes.iter().enumerate() {
        if let Some(place) = places.get(&*attribute.key) {
            seen.note(*place, index);
        }
    }
    seen.read(attributes)
}

fn span(values: &[(&str, Json)]) -> Stored {
    stored(of_span(&attributes(values)))
}

fn object(json: Json) -> Stored {
    stored(Usage::of_json(&json.to_string()).unwrap())
}

#[test]
fn every_usage_name_is_listed_once() {
    let places: HashMap<_, _> = attribute_names().collect();
    assert_eq!(places.len(), names::ATTRIBUTES.len() + names::OBJECTS.len());
    for (place, name) in names::MEMBERS.iter().enumerate() {
        let (outer, inner) = name.name.split_once('/').unwrap_or((name.name, ""));
        assert_eq!(names::member(outer, inner), Some(place), "{} stands there twice", name.name);
    }
    for (index, (object, _)) in names::OBJECTS.iter().enumerate() {
        assert_eq!(*object as usize, index);
    }
}

#[test]
fn spans_of_every_convention_give_the_same_usage() {
    let of = |names: [&'static str; 5]| {
        let counts = [1_700, 90, 1_000, 200, 40];
        names.into_iter().zip(counts).filter(|(name, _)| !name.is_empty()).map(|(name, n)| (name, json!(n))).collect()
    };
    let conventions: [(&str, Vec<(&str, Json)>); 9] = [
        (
            "OpenTelemetry",
            of([
                "gen_ai.usage.input_tokens",
                "gen_ai.usage.output_tokens",
                "gen_ai.usage.cache_read.input_tokens",
                "gen_ai.usage.cache_write.input_tokens",
                "gen_ai.usage.reasoning.output_tokens",
            ]),
        ),
        (
            "OpenTelemetry up to 2026, OpenLLMetry",
            of([
                "gen_ai.usage.input_tokens",
                "gen_ai.usage.output_tokens",
                "gen_ai.usage.cache_read.input_tokens",
                "gen_ai.usage.cache_creation.input_tokens",
                "gen_ai.usage.reasoning_tokens",
            ]),
        ),
        (
            "older OpenLLMetry",
            of([
                "llm.usage.prompt_tokens",
                "llm.usage.completion_tokens",
                "llm.usage.cache_read_input_tokens",
                "llm.usage.cache_creation_input_tokens",
                "llm.usage.reasoning_tokens",
            ]),
        ),
        (
            "Strands",
            of([
                "gen_ai.usage.prompt_tokens",
                "gen_ai.usage.completion_tokens",
                "gen_ai.usage.cache_read_input_tokens",
                "gen_ai.usage.cache_write_input_tokens",
                "gen_ai.usage.reasoning_tokens",
            ]),
        ),
        (
            "OpenInference",
            of([
                "llm.token_count.prompt",
                "llm.token_count.completion",
                "llm.token_count.prompt_details.cache_read",
                "llm.token_count.prompt_details.cache_write",
                "llm.token_count.completion_details.reasoning",
            ]),
        ),
        (
            "AI SDK 6",
            of([
                "ai.usage.inputTokens",
                "ai.usage.outputTokens",
                "ai.usage.inputTokenDetails.cacheReadTokens",
                "ai.usage.inputTokenDetails.cacheWriteTokens",
                "ai.usage.outputTokenDetails.reasoningTokens",
            ]),
        ),
        (
            "Pydantic AI",
            of([
                "gen_ai.usage.input_tokens",
                "gen_ai.usage.output_tokens",
                "gen_ai.usage.details.cache_read_tokens",
                "gen_ai.usage.details.cache_write_tokens",
                "gen_ai.usage.details.reasoning_tokens",
            ]),
        ),
        (
            "Sentry",
            of([
                "gen_ai.usage.input_tokens",
                "gen_ai.usage.output_tokens",
                "gen_ai.usage.input_tokens.cached",
                "gen_ai.usage.input_tokens.cache_write",
                "gen_ai.usage.output_tokens.reasoning",
            ]),
        ),
        (
            "LangSmith over OpenTelemetry",
            vec![
                ("gen_ai.usage.input_tokens", json!(1_700)),
                ("gen_ai.usage.output_tokens", json!("90")),
                (
                    "gen_ai.usage.input_token_details",
                    json!({"cache_read": 1_000, "cache_creation": 200}).to_string().into(),
                ),
                ("gen_ai.usage.output_token_details", json!({"reasoning": 40})),
            ],
        ),
    ];
    for (convention, values) in conventions {
        assert_eq!(span(&values), right(500, 1_000, 200, 90, 40), "{convention}");
    }
    let claude_code = [
        ("input_tokens", json!(7)),
        ("cache_read_tokens", json!(900)),
        ("cache_creation_tokens", json!("50")),
        ("output_tokens", json!(30.0)),
    ];
    assert_eq!(span(&claude_code), right(7, 900, 50, 30, 0));
}

/// Anthropic counts cached tokens apart, and the AI SDK passed that on.
#[test]
fn ai_sdk_counts_without_cached_tokens_are_corrected_from_provider_metadata() {
    let anthropic = json!({"input_tokens": 7, "cache_read_input_tokens": 900, "cache_creation_input_tokens": 50,
        "output_tokens": 30});
    let wanted = right(7, 900, 50, 30, 0);
    let four = [
        ("gen_ai.usage.input_tokens", json!(7)),
        ("gen_ai.usage.output_tokens", json!(30)),
        ("ai.usage.promptTokens", json!(7)),
        ("ai.usage.completionTokens", json!(30)),
    ];
    let said = |metadata: Json| ("ai.response.providerMetadata", Json::String(metadata.to_string()));
    let flat = said(json!({"anthropic": {"cacheCreationInputTokens": 50, "cacheReadInputTokens": 900}}));
    assert_eq!(span(&[&four[..], &[flat]].concat()), wanted);
    let bedrock = said(json!({"bedrock": {"usage": {"cacheWriteInputTokens": 50, "cacheReadInputTokens": 900}}}));
    assert_eq!(span(&[&four[..], &[bedrock]].concat()), wanted);
    let five = [
        ("ai.usage.inputTokens", json!(7)),
        ("ai.usage.outputTokens", json!(30)),
        ("ai.usage.totalTokens", json!(37)),
        ("ai.usage.cachedInputTokens", json!(900)),
    ];
    let whole = said(json!({"anthropic": {"usage": anthropic, "cacheCreationInputTokens": 50}}));
    assert_eq!(span(&[&five[..], std::slice::from_ref(&whole)].concat()), wanted);
    // Versions 5 and 6 may send the same about Bedrock, and mean different things.
    let bedrock = said(json!({"bedrock": {"usage": {"cacheWriteInputTokens": 50}}}));
    assert_eq!(span(&[&five[..], &[bedrock]].concat()).cost_e8, None);
    let long = said(json!({"anthropic": {"usage": anthropic}, "x": "x".repeat(OBJECT_BYTES_MAX)}));
    assert_eq!(span(&[&five[..], &[long]].concat()).cost_e8, None);
    let six = [
        ("ai.usage.inputTokens", json!(957)),
        ("ai.usage.outputTokens", json!(30)),
        ("ai.usage.totalTokens", json!(987)),
        ("ai.usage.cachedInputTokens", json!(900)),
    ];
    assert_eq!(span(&[&six[..], &[whole]].concat()), wanted);
}

#[test]
fn usage_objects_of_every_provider_give_the_same_usage() {
    let wanted = right(500, 1_000, 200, 90, 40);
    let openai = |input: &str, output: &str| {
        json!({input: 1_700, output: 90, "total_tokens": 1_790,
            format!("{input}_details"): {"cached_tokens": 1_000, "cache_write_tokens": 200},
            format!("{output}_details"): {"reasoning_tokens": 40}})
    };
    for usage in [
        // LangChain and LangSmith, with cache writes by how long they are kept, and with a service tier.
        json!({"input_tokens": 1_700, "output_tokens": 90, "total_tokens": 1_790,
            "input_token_details": {"cache_read": 1_000, "cache_creation": 200},
            "output_token_details": {"reasoning": 40}}),
        json!({"input_tokens": 1_700, "output_tokens": 90, "output_token_details": {"reasoning": 40},
            "input_token_details": {"cache_read": 1_000, "cache_creation": 0, "ephemeral_5m_input_tokens": 150,
            "ephemeral_1h_input_tokens": 50}}),
        json!({"input_tokens": 1_700, "output_tokens": 90,
            "input_token_details": {"priority_cache_read": 1_000, "cache_creation": 200, "priority": 700},
            "output_token_details": {"priority_reasoning": 40, "priority": 50}}),
        openai("prompt_tokens", "completion_tokens"),
        openai("input_tokens", "output_tokens"),
        // LiteLLM sends some of it twice; DeepSeek has names of its own.
        json!({"prompt_tokens": 1_700, "completion_tokens": 90, "cache_read_input_tokens": 1_000,
            "cache_creation_input_tokens": 200, "prompt_tokens_details": {"cached_tokens": 1_000},
            "completion_tokens_details": {"reasoning_tokens": 40}}),
        json!({"prompt_tokens": 1_700, "completion_tokens": 90, "prompt_cache_hit_tokens": 1_000,
            "prompt_cache_miss_tokens": 700, "cache_write_tokens": 200, "reasoning_tokens": 40}),
        // Anthropic, and Bedrock under two names.
        json!({"input_tokens": 500, "output_tokens": 90, "cache_read_input_tokens": 1_000,
            "cache_creation_input_tokens": 200,
            "cache_creation": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 0},
            "output_tokens_details": {"thinking_tokens": 40}, "service_tier": "standard"}),
        json!({"inputTokens": 500, "outputTokens": 90, "totalTokens": 1_790, "cacheReadInputTokens": 1_000,
            "cacheWriteInputTokens": 200, "reasoningTokens": 40}),
        json!({"inputTokenCount": 500, "outputTokenCount": 90, "cacheReadInputTokenCount": 1_000,
            "cacheWriteInputTokenCount": 200, "reasoningTokens": 40}),
        // The AI SDK: version 4 has no cache; inside, and outside since version 6.
        json!({"inputTokens": {"total": 1_700, "noCache": 500, "cacheRead": 1_000, "cacheWrite": 200},
            "outputTokens": {"total": 90, "text": 50, "reasoning": 40}}),
        json!({"inputTokens": 1_700, "outputTokens": 90, "totalTokens": 1_790, "cachedInputTokens": 1_000,
            "inputTokenDetails": {"noCacheTokens": 500, "cacheReadTokens": 1_000, "cacheWriteTokens": 200},
            "outputTokenDetails": {"textTokens": 50, "reasoningTokens": 40}}),
        // Langfuse, from LangChain and from Anthropic.
        json!({"input": 500, "input_cache_read": 1_000, "input_cache_creation": 200, "input_priority": 9, "output": 50,
            "output_reasoning": 40, "total": 1_790}),
        json!({"input": 500, "cache_read_input_tokens": 1_000, "cache_creation_input_tokens": 200, "output": 50,
            "output_reasoning_tokens": 40, "web_searches": 3}),
        json!({"input": 500, "input_cached_tokens": 1_000, "output": 50, "output_reasoning": 40,
            "input_ephemeral_5m_input_tokens": 150, "input_ephemeral_1h_input_tokens": 50}),
    ] {
        assert_eq!(object(usage.clone()), wanted, "{usage}");
    }
    // Gemini has no cache writes, and counts thoughts apart and the input of tools in addition.
    for usage in [
        json!({"promptTokenCount": 1_400, "toolUsePromptTokenCount": 100, "cachedContentTokenCount": 1_000,
            "candidatesTokenCount": 50, "thoughtsTokenCount": 40, "totalTokenCount": 1_590}),
        json!({"prompt_token_count": 1_500, "cached_content_token_count": 1_000, "response_token_count": 50,
            "thoughts_token_count": 40, "total_token_count": 1_590, "candidates_tokens_details": null}),
    ] {
        assert_eq!(object(usage.clone()), right(500, 1_000, 0, 90, 40), "{usage}");
    }
    for usage in [
        json!({"promptTokens": 500, "completionTokens": 90}),
        json!({"input_token_count": 500, "generated_token_count": 90}),
        json!({"prompt_eval_count": 500, "eval_count": "90"}),
        json!({"billed_units": {"input_tokens": 500.0, "output_tokens": 90}, "cached_tokens": null,
            "prompt_tokens": ""}),
    ] {
        assert_eq!(object(usage.clone()), right(500, 0, 0, 90, 0), "{usage}");
    }
}

#[test]
fn a_total_resolves_what_the_counts_include_or_marks_them_doubtful() {
    let known = |total: u32, cached: u32, reasoning: u32| {
        json!({"prompt_tokens": 500, "completion_tokens": 90, "total_tokens": total, "cached_tokens": cached,
            "reasoning_tokens": reasoning})
    };
    // xAI leaves reasoning out of the output; SDKs that pass on Bedrock's names leave the cache out of the input.
    assert_eq!(object(known(590, 100, 40)), right(400, 100, 0, 90, 40));
    assert_eq!(object(known(630, 100, 40)), right(400, 100, 0, 130, 40));
    assert_eq!(object(known(690, 100, 40)), right(500, 100, 0, 90, 40));
    assert_eq!(object(known(730, 100, 40)), right(500, 100, 0, 130, 40));
    // A total that the client does not know.
    assert_eq!(object(known(0, 100, 40)), right(400, 100, 0, 90, 40));
    for contradicting in [known(591, 100, 40), known(100, 100, 40), known(540, 50, 50), known(640, 50, 50)] {
        let found = object(contradicting.clone());
        assert_eq!((found.prompt, found.completion, found.cost_e8), (500, 90, None), "{contradicting}");
        assert_eq!(found.total, contradicting["total_tokens"].as_u64().unwrap() as u32);
    }
    // A part is larger than the whole.
    assert_eq!(object(json!({"prompt_tokens": 5, "completion_tokens": 9, "cached_tokens": 6})).cost_e8, None);
    assert_eq!(object(json!({"prompt_tokens": 5, "completion_tokens": 9, "reasoning_tokens": 10})).cost_e8, None);
    // A total that leaves out what its input leaves out.
    let anthropic = json!({"input_tokens": 7, "cache_read_input_tokens": 900, "output_tokens": 30, "total_tokens": 37});
    assert_eq!(object(anthropic), right(7, 900, 0, 30, 0));
}

#[test]
fn an_invalid_count_is_unknown_and_prevents_pricing() {
    let usage = |prompt: Json| json!({"prompt_tokens": prompt, "completion_tokens": 9});
    for (count, wanted) in [
        (json!(12), Some(12)),
        (json!("12"), Some(12)),
        (json!(" 12 "), Some(12)),
        (json!(12.0), Some(12)),
        (json!("12.0"), Some(12)),
        (json!(1.2e1), Some(12)),
        (json!(4_294_967_295_u32), Some(u32::MAX)),
        (json!(4_294_967_296_u64), None),
        (json!(5e30), None),
        (json!(-1), None),
        (json!(0.5), None),
        (json!("NaN"), None),
        (json!("inf"), None),
        (json!("many"), None),
        (json!("1,200"), None),
        (json!(true), None),
        (json!([12]), None),
        (json!({"n": 12}), None),
    ] {
        let mut llm = Llm::default();
        Usage::of_json(&usage(count.clone()).to_string()).unwrap().fill(&mut llm);
        assert_eq!((llm.tokens.prompt, llm.tokens.doubtful), (wanted, wanted.is_none()), "{count}");
        assert_eq!(object(usage(count.clone())).cost_e8.is_some(), wanted.is_some(), "{count}");
    }
    for nothing in [json!(null), json!(""), json!("  ")] {
        let mut llm = Llm::default();
        Usage::of_json(&usage(nothing).to_string()).unwrap().fill(&mut llm);
        assert_eq!((llm.tokens.prompt, llm.tokens.completion, llm.tokens.doubtful), (None, Some(9), false));
    }
    // The next name is asked, but what the first one meant is not known.
    let found = span(&[
        ("gen_ai.usage.input_tokens", json!(5_000_000_000_u64)),
        ("llm.token_count.prompt", json!(12)),
        ("gen_ai.usage.output_tokens", json!(9)),
    ]);
    assert_eq!((found.prompt, found.total, found.cost_e8), (12, 21, None));
    // An object that cannot be read may have contained anything.
    let counts = [("gen_ai.usage.input_tokens", json!(12)), ("gen_ai.usage.output_tokens", json!(9))];
    for object in [json!("{\"input\":1"), json!("[1]"), json!(7), json!("x".repeat(OBJECT_BYTES_MAX + 1))] {
        for name in ["langfuse.observation.usage_details", "langfuse.observation.cost_details"] {
            assert_eq!(span(&[&counts[..], &[(name, object.clone())]].concat()).cost_e8, None, "{name} {object}");
        }
    }
    let nothing = ("langfuse.observation.usage_details", json!(""));
    assert_eq!(span(&[&counts[..], &[nothing]].concat()), right(12, 0, 0, 9, 0));
    // Their sum is larger than the column can hold.
    let sum = json!({"input_tokens": u32::MAX, "cache_read_input_tokens": 1, "output_tokens": 1});
    let found = object(sum);
    assert_eq!((found.prompt, found.cached, found.total, found.cost_e8), (0, 1, 0, None));
}

#[test]
fn a_total_cost_that_was_sent_is_kept_and_parts_are_summed() {
    let counts = [("gen_ai.usage.input_tokens", json!(12)), ("gen_ai.usage.output_tokens", json!(9))];
    let cost = |costs: &[(&str, Json)]| span(&[&counts[..], costs].concat()).cost_e8;
    let computed = right(12, 0, 0, 9, 0).cost_e8;
    assert_eq!(cost(&[]), computed);
    for total in [
        "llm.cost.total",
        "gen_ai.usage.cost",
        "gen_ai.usage.total_cost",
        "gen_ai.cost.total_cost",
        "gen_ai.cost.total_tokens",
        "litellm.cost.total",
        "operation.cost",
        "cost_usd",
    ] {
        assert_eq!(cost(&[(total, json!("0.5")), ("llm.cost.prompt", json!(3))]), Some(50_000_000), "{total}");
        assert_eq!(cost(&[(total, json!(0))]), Some(0), "{total}");
        for unreadable in [json!("free"), json!(-1), json!(1e10), json!("NaN"), json!(true)] {
            assert_eq!(cost(&[(total, unreadable.clone())]), None, "{total} {unreadable}");
        }
    }
    let prompt = ("llm.cost.prompt", json!(0.25));
    let details =
        [("llm.cost.prompt_details.input", json!(0.125)), ("llm.cost.prompt_details.cache_read", json!(0.0625))];
    assert_eq!(cost(std::slice::from_ref(&prompt)), Some(25_000_000));
    assert_eq!(cost(&details), Some(18_750_000));
    assert_eq!(
        cost(&[&details[..], std::slice::from_ref(&prompt)].concat()),
        Some(25_000_000),
        "inside of the prompt's"
    );
    assert_eq!(cost(&[prompt, ("llm.cost.completion", json!("dear"))]), None, "not understood, not summed");
    let litellm = ["input_cost", "output_cost", "cache_read_cost", "cache_creation_cost", "tool_usage_cost"];
    let litellm = litellm.map(|name| format!("gen_ai.cost.{name}"));
    let litellm: Vec<_> = litellm.iter().map(|name| (name.as_str(), json!(0.125))).collect();
    assert_eq!(cost(&litellm), Some(62_500_000), "beside each other");

    let details = |json: Json| cost(&[("langfuse.observation.cost_details", json)]);
    assert_eq!(
        details(json!({"input": 0.25, "cache_read_input_tokens": 0.5, "output_reasoning": 0.125})),
        Some(87_500_000)
    );
    assert_eq!(details(json!({"input": 0.25, "cache": "0.5", "total": "0.125"})), Some(12_500_000));
    assert_eq!(details(json!({"input": 0.25, "output": "dear"})), None);
    assert_eq!(details(json!({})), computed);
    // A total of another convention is larger than the sum of this one.
    let both = [("llm.cost.prompt", json!(0.25)), ("langfuse.observation.cost_details", json!({"total": 0.125}))];
    assert_eq!(cost(&both), Some(12_500_000));

    for (usage, wanted) in [
        (json!({"total_cost": 0.00001234}), Some(1_234)),
        (json!({"total_cost": "0.5", "input_cost": 9}), Some(50_000_000)),
        (json!({"input_cost": 0.5, "output_cost": 0.25}), Some(75_000_000)),
        (json!({"prompt_cost": "0.5", "completion_cost": "0.25"}), Some(75_000_000)),
        (json!({"cost": 0.5, "cost_details": {"upstream_inference_cost": 0.25}}), Some(50_000_000)),
        (
            json!({"cost": {"input_tokens_cost": 0.5, "output_tokens_cost": 0.25, "request_cost": 0.125}}),
            Some(87_500_000),
        ),
        (json!({"cost": {"total_cost": 0.5, "request_cost": 0.125}}), Some(50_000_000)),
        (json!({"total_cost_usd": 0.5}), Some(50_000_000)),
        (json!({"total_cost": null}), None),
        (json!({"total_cost": 1e300}), None),
    ] {
        assert_eq!(object(usage.clone()).cost_e8, wanted, "{usage}");
    }
}
