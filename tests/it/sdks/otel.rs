//! The exporters of OpenTelemetry's own SDKs, by protocol and compression.

use serde_json::{Value, json};
use tests::{Org, World, sdk};

use super::{as_text, borrowed, check, environment};

const TRACES: usize = 7;

/// What both scripts send: agents, each with a model call and something that breaks.
async fn agents(world: &World, org: &Org, sent: &str, source: &str) -> anyhow::Result<()> {
    for stored in check(world, org, sent, source, 3 * TRACES).await? {
        if stored["name"] == "chat" {
            assert_eq!(
                (&stored["kind"], &stored["model"], &stored["completion_tokens"], &stored["temperature"]),
                (&json!("llm"), &json!("gpt-4o-mini"), &json!(2), &json!(0.5))
            );
            assert_eq!(as_text(&stored["prompt_tokens"]), stored["attributes"]["gen_ai.usage.input_tokens"]);
            assert_eq!(
                stored["total_tokens"].as_u64().unwrap(),
                stored["prompt_tokens"].as_u64().unwrap() + 2,
                "total is the sum where none is given"
            );
        }
        if stored["name"] == "broken" {
            assert_eq!(stored["error_message"], "no such thing");
            assert!(["ValueError", "Error"].contains(&stored["error_kind"].as_str().unwrap()));
        }
    }
    // Each root span stands for a run.
    let runs = format!(
        "SELECT count() FROM run_of(org = '{}') WHERE startsWith(name, 'agent') AND kind = 'agent'",
        org.org_id
    );
    world.until_number(&runs, TRACES as u64).await
}

#[tokio::test(flavor = "multi_thread")]
async fn python_over_otlp_protobuf() -> anyhow::Result<()> {
    python("http", "none", "otlp_protobuf").await
}

#[tokio::test(flavor = "multi_thread")]
async fn python_over_otlp_protobuf_deflated() -> anyhow::Result<()> {
    python("http", "deflate", "otlp_protobuf").await
}

#[tokio::test(flavor = "multi_thread")]
async fn python_over_otlp_grpc() -> anyhow::Result<()> {
    python("grpc", "gzip", "otlp_grpc").await
}

async fn python(protocol: &str, compression: &str, source: &str) -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("otel-python").await?;
    let env = exporting(&world, &org, protocol, compression);
    let sent = sdk::python("otel-python", "send.py", &[protocol, &TRACES.to_string()], &borrowed(&env)).await?;
    agents(&world, &org, &sent, source).await
}

#[tokio::test(flavor = "multi_thread")]
async fn javascript_over_otlp_json() -> anyhow::Result<()> {
    javascript("http", "gzip", "otlp_json").await
}

#[tokio::test(flavor = "multi_thread")]
async fn javascript_over_otlp_protobuf() -> anyhow::Result<()> {
    javascript("proto", "gzip", "otlp_protobuf").await
}

#[tokio::test(flavor = "multi_thread")]
async fn javascript_over_otlp_grpc() -> anyhow::Result<()> {
    javascript("grpc", "none", "otlp_grpc").await
}

async fn javascript(protocol: &str, compression: &str, source: &str) -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("otel-js").await?;
    let env = exporting(&world, &org, protocol, compression);
    let sent = sdk::node("otel-js", "send.mjs", &[protocol, &TRACES.to_string()], &borrowed(&env)).await?;
    agents(&world, &org, &sent, source).await
}

fn exporting(world: &World, org: &Org, protocol: &str, compression: &str) -> Vec<(&'static str, String)> {
    let endpoint = if protocol == "grpc" { world.api.otlp_grpc_url() } else { world.api.url() };
    let mut env = environment(&endpoint, org);
    env.push(("OTEL_EXPORTER_OTLP_COMPRESSION", compression.to_owned()));
    env
}

/// What a gRPC client is told when it is refused, and when one span is.
#[tokio::test(flavor = "multi_thread")]
async fn grpc_refusals_are_statuses() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("grpc-refusals").await?;
    let reply = sdk::python("otel-python", "refused.py", &[&world.api.otlp_grpc_url(), &org.key], &[]).await?;
    let reply: Value = serde_json::from_str(&reply)?;
    assert_eq!(reply["no key"][0], "UNAUTHENTICATED");
    assert!(as_text(&reply["no key"][1]).contains("x-api-key"), "{reply}");
    assert_eq!(reply["wrong key"], json!(["UNAUTHENTICATED", "the API key is not valid"]));
    assert_eq!(reply["other method"][0], "UNIMPLEMENTED");
    assert_eq!(reply["bad span"][0], "OK");
    assert_eq!(reply["bad span"][1], 1);
    assert!(as_text(&reply["bad span"][2]).contains("trace id has 1 bytes, not 16"), "{reply}");
    world.until_number("SELECT count() FROM span", 1).await
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
    let sent: Value = serde_json::from_str(&sent)?;
    let stored = check(&world, &org, &sent["spans"].to_string(), "otlp_protobuf", 9).await?;
    let runs = sent["runs"].as_array().unwrap().iter();
    let mut sent: Vec<_> = runs.map(|run| (as_text(&run["name"]), as_text(&run["run_type"]))).collect();
    sent.sort();
    let mut kinds: Vec<_> = stored.iter().map(|row| (as_text(&row["name"]), as_text(&row["kind"]))).collect();
    kinds.sort();
    assert_eq!(kinds, sent);
    let llm = stored.iter().find(|span| span["kind"] == "llm").unwrap();
    assert_eq!((&llm["model"], &llm["provider"]), (&json!("gpt-4o-mini"), &json!("openai")));
    assert!(as_text(&llm["inputs"]).contains("How is the weather?"), "{llm}");
    assert!(as_text(&llm["outputs"]).contains("Mild."), "{llm}");
    // One trace per call, its root being the chain.
    let runs = format!("SELECT count() FROM run_of(org = '{}') WHERE name = 'answer' AND kind = 'chain'", org.org_id);
    world.until_number(&runs, 3).await
}
