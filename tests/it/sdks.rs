//! What the real SDKs report as sent equals what ClickHouse holds, field by field.

use serde_json::{Value, json};
use tests::{Org, World, sdk};

const TRACES: usize = 7;
const SPANS: u64 = 3 * TRACES as u64;

const QUERY: &str = "SELECT replaceAll(toString(run_id), '-', '') AS trace_id,
    right(replaceAll(toString(span_id), '-', ''), 16) AS span_id,
    right(replaceAll(toString(parent_span_id), '-', ''), 16) AS parent_span_id, name, span_kind, kind, status, status_message,
    toUnixTimestamp64Nano(start_time) AS start, toUnixTimestamp64Nano(end_time) AS end,
    attributes, mapKeys(attributes) AS attribute_names, attribute_types, inputs, inputs_attribute, model, prompt_tokens, completion_tokens, total_tokens,
    temperature, error_kind, error_message,
    event_names, arrayMap(t -> toUnixTimestamp64Nano(t), event_times) AS event_times, event_attributes,
    arrayMap(i -> replaceAll(toString(i), '-', ''), link_trace_ids) AS link_trace_ids,
    arrayMap(i -> right(replaceAll(toString(i), '-', ''), 16), link_span_ids) AS link_span_ids, link_attributes,
    resource_attributes, service_name, scope_name, scope_version, source,
    toString(org_id) AS org_id, toString(workspace_id) AS workspace_id, toString(project_id) AS project_id
    FROM span FINAL ORDER BY span_id";

#[tokio::test(flavor = "multi_thread")]
async fn python_over_otlp_protobuf() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("python-http").await?;
    let env = environment(&world.api.url(), &org);
    let env: Vec<_> = env.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let sent = sdk::python("otel-python", "send.py", &["http", &TRACES.to_string()], &env).await?;
    check(&world, &org, &sent, "otlp_protobuf").await
}

#[tokio::test(flavor = "multi_thread")]
async fn python_over_otlp_grpc() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("python-grpc").await?;
    let mut env = environment(&world.api.otlp_grpc_url(), &org);
    env.push(("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip".into()));
    let env: Vec<_> = env.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let sent = sdk::python("otel-python", "send.py", &["grpc", &TRACES.to_string()], &env).await?;
    check(&world, &org, &sent, "otlp_grpc").await
}

/// What a gRPC client is told when it is refused, and when one span is.
#[tokio::test(flavor = "multi_thread")]
async fn grpc_refusals_are_statuses() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("grpc-refusals").await?;
    let told = sdk::python("otel-python", "refused.py", &[&world.api.otlp_grpc_url(), &org.key], &[]).await?;
    let told: Value = serde_json::from_str(&told)?;
    assert_eq!(told["no key"][0], "UNAUTHENTICATED");
    assert!(as_text(&told["no key"][1]).contains("x-api-key"), "{told}");
    assert_eq!(told["wrong key"], json!(["UNAUTHENTICATED", "the API key is not valid"]));
    assert_eq!(told["other method"][0], "UNIMPLEMENTED");
    assert_eq!(told["bad span"][0], "OK");
    assert_eq!(told["bad span"][1], 1);
    assert!(as_text(&told["bad span"][2]).contains("trace id has 1 bytes, not 16"), "{told}");
    world.until_number("SELECT count() FROM span", 1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn javascript_over_otlp_json() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("js-json").await?;
    let mut env = environment(&world.api.url(), &org);
    env.push(("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip".into()));
    let env: Vec<_> = env.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let sent = sdk::node("otel-js", "send.mjs", &[&TRACES.to_string()], &env).await?;
    check(&world, &org, &sent, "otlp_json").await
}

/// LangSmith's SDK, configured by its own variables alone, in the mode that sends OpenTelemetry.
#[tokio::test(flavor = "multi_thread")]
async fn langsmith_python_in_otel_mode() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("langsmith-otel").await?;
    let endpoint = world.api.url();
    let env = [
        ("LANGSMITH_TRACING", "true"),
        ("LANGSMITH_ENDPOINT", endpoint.as_str()),
        ("LANGSMITH_API_KEY", org.key.as_str()),
        ("LANGSMITH_OTEL_ENABLED", "true"),
        ("LANGSMITH_OTEL_ONLY", "true"),
    ];
    let sent = sdk::python("langsmith-python", "send.py", &["3"], &env).await?;
    let mut sent: Vec<(String, String)> = serde_json::from_str::<Vec<Value>>(&sent)?
        .iter()
        .map(|run| (as_text(&run["name"]), as_text(&run["run_type"])))
        .collect();
    sent.sort();
    assert_eq!(sent.len(), 9, "the SDK reports another number of runs");
    world.until_number("SELECT count() FROM span FINAL", 9).await?;
    let stored = world.clickhouse.rows("SELECT name, kind FROM span FINAL ORDER BY name, kind").await?;
    let stored: Vec<_> = stored.iter().map(|row| (as_text(&row["name"]), as_text(&row["kind"]))).collect();
    assert_eq!(stored, sent);
    let llm = &world
        .clickhouse
        .rows("SELECT model, provider, inputs, outputs FROM span FINAL WHERE kind = 'llm' LIMIT 1")
        .await?[0];
    assert_eq!((&llm["model"], &llm["provider"]), (&json!("gpt-4o-mini"), &json!("openai")));
    assert!(as_text(&llm["inputs"]).contains("How is the weather?"), "{llm}");
    assert!(as_text(&llm["outputs"]).contains("Mild."), "{llm}");
    // One trace per call, its root being the chain.
    world.until_number("SELECT count() FROM run FINAL WHERE name = 'answer' AND kind = 'chain'", 3).await
}

fn environment(endpoint: &str, org: &Org) -> Vec<(&'static str, String)> {
    vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.to_owned()),
        ("OTEL_EXPORTER_OTLP_HEADERS", format!("x-api-key={}", org.key)),
    ]
}

async fn check(world: &World, org: &Org, sent: &str, source: &str) -> anyhow::Result<()> {
    let mut sent: Vec<Value> = serde_json::from_str(sent)?;
    assert_eq!(sent.len() as u64, SPANS, "the SDK reports another number of spans");
    sent.sort_by_key(|span| span["span_id"].as_str().unwrap().to_owned());
    world.until_number("SELECT count() FROM span FINAL", SPANS).await?;
    let stored = world.clickhouse.rows(QUERY).await?;
    for (sent, stored) in sent.iter().zip(&stored) {
        compare(sent, stored);
        for (column, id) in [
            ("org_id", org.org_id.to_string()),
            ("workspace_id", org.workspace_id.to_string()),
            ("project_id", org.project_id.to_string()),
            ("source", source.to_owned()),
        ] {
            assert_eq!(stored[column], id, "{column}");
        }
    }
    // Each root span stands for a run.
    world
        .until_number("SELECT count() FROM run FINAL WHERE startsWith(name, 'agent') AND kind = 'agent'", TRACES as u64)
        .await?;
    let billed = "SELECT sum(quantity) FROM billing_meter FINAL WHERE meter = 'span_ingested'";
    world.until_number(billed, SPANS).await
}

fn compare(sent: &Value, stored: &Value) {
    assert_eq!(stored["trace_id"], sent["trace_id"], "trace id");
    assert_eq!(stored["span_id"], sent["span_id"], "span id");
    assert_eq!(stored["parent_span_id"], sent["parent_span_id"], "parent of {}", sent["name"]);
    for (column, field) in [
        ("name", "name"),
        ("span_kind", "kind"),
        ("status", "status"),
        ("status_message", "status_message"),
        ("start", "start"),
        ("end", "end"),
    ] {
        // JavaScript reports nanoseconds as text, because its numbers cannot hold them.
        let sent = sent[field].as_str().map_or_else(|| sent[field].to_string(), str::to_owned);
        let stored = stored[column].as_str().map_or_else(|| stored[column].to_string(), str::to_owned);
        assert_eq!(stored, sent, "{column}");
    }
    compare_attributes(sent, stored);
    compare_lists(sent, stored);
    assert_eq!(stored["scope_name"], sent["scope"][0]);
    assert_eq!(stored["scope_version"], sent["scope"][1]);
    assert_eq!(stored["service_name"], "sdk-test");
    for (key, value) in sent["resource"].as_object().unwrap() {
        assert_eq!(stored["resource_attributes"][key], as_text(value), "resource attribute {key}");
    }
    if sent["name"] == "chat" {
        assert_eq!(
            (&stored["kind"], &stored["model"], &stored["completion_tokens"], &stored["temperature"]),
            (&json!("llm"), &json!("gpt-4o-mini"), &json!(2), &json!(0.5))
        );
        assert_eq!(stored["prompt_tokens"], sent["attributes"]["gen_ai.usage.input_tokens"]);
        assert_eq!(
            stored["total_tokens"].as_u64().unwrap(),
            stored["prompt_tokens"].as_u64().unwrap() + 2,
            "total is the sum where none is given"
        );
    }
    if sent["name"] == "broken" {
        assert_eq!(stored["error_message"], "no such thing");
        assert!(["ValueError", "Error"].contains(&stored["error_kind"].as_str().unwrap()));
    }
}

fn compare_attributes(sent: &Value, stored: &Value) {
    let sent = sent["attributes"].as_object().unwrap();
    let mut kept = stored["attributes"].as_object().unwrap().clone();
    let types = stored["attribute_types"].as_str().unwrap();
    assert_eq!(types.len(), kept.len(), "one type per attribute");
    let names = stored["attribute_names"].as_array().unwrap();
    for (key, tag) in names.iter().map(|name| name.as_str().unwrap()).zip(types.chars()) {
        let value = &sent[key];
        // What a JavaScript number is, only its value tells.
        let wanted = match value {
            Value::String(_) => "s",
            Value::Bool(_) => "b",
            Value::Array(_) => "a",
            Value::Number(n) if n.is_f64() => "d",
            Value::Number(_) => "i",
            other => panic!("unexpected {other}"),
        };
        assert_eq!(tag.to_string(), wanted, "type of {key} = {value}");
    }
    // The inputs were moved into their own column.
    let moved = stored["inputs_attribute"].as_str().unwrap();
    if !moved.is_empty() {
        assert_eq!(kept.insert(moved.to_owned(), stored["inputs"].clone()), None, "{moved} is stored twice");
    }
    assert_eq!(kept.keys().collect::<std::collections::BTreeSet<_>>(), sent.keys().collect(), "attribute names");
    for (key, value) in sent {
        assert_eq!(kept[key], as_text(value), "attribute {key}");
    }
}

fn compare_lists(sent: &Value, stored: &Value) {
    let events = sent["events"].as_array().unwrap();
    assert_eq!(stored["event_names"].as_array().unwrap().len(), events.len());
    for (i, event) in events.iter().enumerate() {
        assert_eq!(stored["event_names"][i], event["name"]);
        let time = event["time"].as_str().map_or_else(|| event["time"].to_string(), str::to_owned);
        assert_eq!(stored["event_times"][i].to_string(), time);
        for (key, value) in event["attributes"].as_object().unwrap() {
            assert_eq!(stored["event_attributes"][i][key], as_text(value), "event attribute {key}");
        }
    }
    let links = sent["links"].as_array().unwrap();
    assert_eq!(stored["link_trace_ids"].as_array().unwrap().len(), links.len());
    for (i, link) in links.iter().enumerate() {
        assert_eq!(stored["link_trace_ids"][i], link["trace_id"]);
        assert_eq!(stored["link_span_ids"][i], link["span_id"]);
        assert_eq!(stored["link_attributes"][i]["why"], "test");
    }
}

/// How a value is stored in a map of text.
fn as_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
