//! Token counts and costs through the real servers, by protocol: what is stored, and what is not priced.

use http::StatusCode;
use load::client::Answer;
use serde_json::{Value, json};
use tests::{Org, World};
use uuid::Uuid;

const TIME: &str = "2026-11-21T06:00:00Z";

/// What is stored of a call: input, output, cache reads and writes, cost, and whether that is ours.
type Stored = (u64, u64, u64, u64, Option<&'static str>, bool);

/// A call, and what is stored of it.
struct Call {
    name: &'static str,
    said: Value,
    stored: Stored,
}

const fn call(name: &'static str, said: Value, stored: Stored) -> Call {
    Call { name, said, stored }
}

async fn post(world: &World, org: &Org, path: &str, body: &Value) -> anyhow::Result<()> {
    let url = format!("{}{path}", world.api.url());
    let Answer { status, body, .. } = world.http.post(&url, &org.key, "application/json", body.to_string()).await?;
    assert!([StatusCode::OK, StatusCode::ACCEPTED].contains(&status), "{path}: {status} {body:?}");
    Ok(())
}

async fn check(world: &World, table: &str, calls: &[Call]) -> anyhow::Result<()> {
    world.until_number(&format!("SELECT count() FROM {table} FINAL"), calls.len() as u64).await?;
    let query = format!(
        "SELECT prompt_tokens, completion_tokens, cached_tokens, cache_write_tokens, toString(cost_usd) AS cost,
        attributes['tracebility.cost_source'] != '' AS ours FROM {table} FINAL WHERE name = "
    );
    for Call { name, stored: (prompt, completion, cached, written, cost, ours), .. } in calls {
        let rows = world.clickhouse.rows(&format!("{query}'{name}'")).await?;
        let wanted = json!({"prompt_tokens": prompt, "completion_tokens": completion, "cached_tokens": cached,
            "cache_write_tokens": written, "cost": cost, "ours": u8::from(*ours)});
        assert_eq!(rows, [wanted], "{name}");
    }
    Ok(())
}

fn attribute((key, value): (&String, &Value)) -> Value {
    let value = match value {
        Value::Number(n) if n.is_f64() => json!({"doubleValue": n}),
        Value::Number(n) => json!({"intValue": n.to_string()}),
        Value::Object(members) => json!({"kvlistValue": {"values": members.iter().map(attribute).collect::<Vec<_>>()}}),
        value => json!({"stringValue": value}),
    };
    json!({"key": key, "value": value})
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_are_priced_from_usage_in_every_convention() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("usage-otlp").await?;
    // 500 at 3, 1 000 at 0.3, 200 at 3.75 and 90 at 15 dollars per million.
    let whole = (1_700, 90, 1_000, 200, Some("0.0039"), true);
    let calls = [
        call(
            "write by its newest name",
            json!({"gen_ai.usage.input_tokens": 1_700, "gen_ai.usage.output_tokens": "90",
                "gen_ai.usage.cache_read.input_tokens": 1_000, "gen_ai.usage.cache_write.input_tokens": 200.0}),
            whole,
        ),
        call(
            "counted apart",
            json!({"input_tokens": 500, "output_tokens": 90, "cache_read_input_tokens": 1_000,
                "cache_creation_input_tokens": 200}),
            whole,
        ),
        call(
            "langfuse in a map",
            json!({"langfuse.observation.usage_details": {"input": 500, "input_cached_tokens": 1_000,
                "input_cache_creation": 200, "output": 50, "output_reasoning": 40, "total": 1_790}}),
            whole,
        ),
        call(
            "langfuse of the AI SDK",
            json!({"langfuse.observation.usage_details": json!({"inputTokens": 1_700, "outputTokens": 90,
                "inputTokenDetails": {"cacheReadTokens": 1_000, "cacheWriteTokens": 200}}).to_string()}),
            whole,
        ),
        call(
            "total of bedrock",
            json!({"gen_ai.usage.input_tokens": 500, "gen_ai.usage.output_tokens": 90,
                "gen_ai.usage.total_tokens": 1_790, "gen_ai.usage.cache_read_input_tokens": 1_000,
                "gen_ai.usage.cache_write_input_tokens": 200}),
            whole,
        ),
        call(
            "cost as sent",
            json!({"gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 5, "gen_ai.usage.cost": 0.0123}),
            (10, 5, 0, 0, Some("0.0123"), false),
        ),
        call(
            "cost of litellm",
            json!({"gen_ai.usage.input_tokens": 1, "gen_ai.cost.total_cost": "0.5"}),
            (1, 0, 0, 0, Some("0.5"), false),
        ),
        call(
            "cost in parts",
            json!({"langfuse.observation.cost_details": {"input": 0.25, "output": 0.5, "output_audio": 0.125}}),
            (0, 0, 0, 0, Some("0.875"), false),
        ),
        call(
            "too large",
            json!({"gen_ai.usage.input_tokens": 1, "gen_ai.usage.output_tokens": 4_294_967_296_u64}),
            (1, 0, 0, 0, None, false),
        ),
        call(
            "negative",
            json!({"llm.token_count.prompt": -5, "llm.token_count.completion": 9}),
            (0, 9, 0, 0, None, false),
        ),
        call(
            "cache that cannot be read",
            json!({"gen_ai.usage.input_tokens": 9, "gen_ai.usage.output_tokens": 9,
                "gen_ai.usage.cache_read.input_tokens": "some"}),
            (9, 9, 0, 0, None, false),
        ),
        call(
            "total that contradicts",
            json!({"gen_ai.usage.input_tokens": 9, "gen_ai.usage.output_tokens": 9, "gen_ai.usage.total_tokens": 20}),
            (9, 9, 0, 0, None, false),
        ),
        call(
            "cost that cannot be read",
            json!({"gen_ai.usage.input_tokens": 9, "gen_ai.usage.output_tokens": 9, "gen_ai.usage.cost": "free"}),
            (9, 9, 0, 0, None, false),
        ),
    ];
    let spans = calls.iter().zip(1..).map(|(Call { name, said, .. }, id)| {
        let mut attributes = said.as_object().unwrap().clone();
        attributes.extend([
            ("langfuse.observation.type".to_owned(), json!("GENERATION")),
            ("gen_ai.system".to_owned(), json!("anthropic.messages")),
            ("gen_ai.request.model".to_owned(), json!("claude-sonnet-4-5")),
        ]);
        let attributes: Vec<_> = attributes.iter().map(attribute).collect();
        json!({"traceId": format!("{:032x}", 1), "spanId": format!("{id:016x}"), "parentSpanId": "00000000000000ff",
            "name": name, "startTimeUnixNano": "1795241935570826453", "endTimeUnixNano": "1795241936570826453",
            "attributes": attributes})
    });
    let spans: Vec<_> = spans.collect();
    post(&world, &org, "/v1/traces", &json!({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]})).await?;
    check(&world, "span", &calls).await?;
    let kept =
        "SELECT attributes['gen_ai.usage.output_tokens'] = '4294967296' FROM span FINAL WHERE name = 'too large'";
    assert_eq!(world.clickhouse.number(kept).await?, 1, "what was sent is kept");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn langsmith_runs_are_priced_from_usage_in_every_provider_format() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("usage-langsmith").await?;
    let whole = (1_700, 90, 1_000, 200, Some("0.0039"), true);
    let calls = [
        call(
            "texts",
            json!({"usage_metadata": {"input_tokens": "1700", "output_tokens": "90", "total_tokens": "1790",
            "input_token_details": {"cache_read": "1000", "cache_creation": "200"}}}),
            whole,
        ),
        call(
            "anthropic",
            json!({"usage": {"input_tokens": 500, "output_tokens": 90, "cache_read_input_tokens": 1_000,
            "cache_creation_input_tokens": 200}}),
            whole,
        ),
        call(
            "bedrock",
            json!({"usage": {"inputTokens": 500, "outputTokens": 90, "totalTokens": 1_790,
            "cacheReadInputTokens": 1_000, "cacheWriteInputTokens": 200}}),
            whole,
        ),
        call(
            "gemini",
            json!({"usageMetadata": {"promptTokenCount": 1_500, "candidatesTokenCount": 50,
            "thoughtsTokenCount": 40, "cachedContentTokenCount": 1_000, "totalTokenCount": 1_590}}),
            (1_500, 90, 1_000, 0, Some("0.00315"), true),
        ),
        call(
            "javascript",
            json!({"llmOutput": {"tokenUsage": {"promptTokens": 500, "completionTokens": 90, "totalTokens": 590}}}),
            (500, 90, 0, 0, Some("0.00285"), true),
        ),
        call(
            "cost in parts",
            json!({"usage_metadata": {"input_tokens": 1, "output_tokens": 2, "input_cost": "0.25", "output_cost": 0.5}}),
            (1, 2, 0, 0, Some("0.75"), false),
        ),
        call(
            "not understood",
            json!({"usage_metadata": {"input_tokens": 1, "output_tokens": 2.5}}),
            (1, 0, 0, 0, None, false),
        ),
        call(
            "contradicting",
            json!({"usage": {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 6}}}),
            (5, 2, 6, 0, None, false),
        ),
    ];
    let extra = json!({"metadata": {"ls_provider": "anthropic", "ls_model_name": "claude-sonnet-4-5"}});
    let runs = calls.iter().zip(1..).map(|(Call { name, said, .. }, id)| {
        json!({"id": Uuid::from_u128(id), "name": name, "run_type": "llm", "start_time": TIME, "end_time": TIME,
            "outputs": said, "extra": extra})
    });
    post(&world, &org, "/runs/batch", &json!({"post": runs.collect::<Vec<_>>()})).await?;
    check(&world, "run", &calls).await
}

#[tokio::test(flavor = "multi_thread")]
async fn native_counts_may_be_texts_and_contradicting_ones_are_not_priced() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("usage-native").await?;
    let calls = [
        call(
            "texts",
            json!({"prompt_tokens": "1000", "completion_tokens": "100"}),
            (1_000, 100, 0, 0, Some("0.00021"), true),
        ),
        call(
            "nothing out",
            json!({"prompt_tokens": 1_000, "completion_tokens": 0}),
            (1_000, 0, 0, 0, Some("0.00015"), true),
        ),
        call("output unknown", json!({"prompt_tokens": 1_000}), (1_000, 0, 0, 0, None, false)),
        call(
            "contradicting",
            json!({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 4}),
            (1, 2, 0, 0, None, false),
        ),
        call("cost", json!({"cost_usd": "0.5"}), (0, 0, 0, 0, Some("0.5"), false)),
    ];
    let spans = calls.iter().zip(1..).map(|(Call { name, said, .. }, id)| {
        let mut span = json!({"run_id": Uuid::from_u128(1), "span_id": Uuid::from_u128(id), "name": name, "kind": "llm",
            "model": "gpt-4o-mini", "start_time": TIME, "end_time": TIME});
        span.as_object_mut().unwrap().extend(said.as_object().unwrap().clone());
        span
    });
    let spans: Vec<_> = spans.collect();
    post(&world, &org, "/v1/runs", &json!({"spans": spans})).await?;
    check(&world, "span", &calls).await?;
    let bad = json!({"spans": [{"run_id": Uuid::from_u128(1), "span_id": Uuid::from_u128(9), "name": "bad",
        "kind": "llm", "start_time": TIME, "prompt_tokens": "4294967296"}]});
    let answer = world.post_runs(&org.key, &bad).await?.json()?;
    let wanted = "`prompt_tokens`: \"4294967296\" is not a whole number from 0 to 4294967295";
    assert_eq!(answer["rejected"][0]["error"], wanted);
    Ok(())
}
