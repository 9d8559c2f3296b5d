//! LangSmith's real SDKs against the running services: what they have in memory when all is sent is what `run_of`
//! shows.

use serde_json::{Value, json};
use tests::{Org, World, sdk};

use super::environment;

/// What is asked of a run.
const QUERY: &str = "toString(run_id) AS id, toString(trace_id) AS trace_id,
    if(parent_run_id = toUUID('00000000-0000-0000-0000-000000000000'), NULL, toString(parent_run_id)) AS parent_run_id,
    dotted_order, name, kind AS run_type, formatDateTime(start_time, '%FT%T.%f') AS start_time,
    formatDateTime(end_time, '%FT%T.%f') AS end_time, error_message AS error, tags, attributes, status, session_name,
    model, provider, temperature, prompt_tokens, completion_tokens, total_tokens, cached_tokens, reasoning_tokens,
    inputs, outputs, session_id, user_id, error_kind, sdk, source";

/// Runs of the functions that the scripts trace.
const TRACED: usize = 4;
/// Runs of the chain that the Python script has langchain-core trace.
const CHAINED: usize = 4;

/// Milliseconds are as exact as JavaScript is; the SDK counts executions in the digits after them.
fn time(text: &Value) -> String {
    text.as_str().unwrap().chars().take("2026-11-21T05:44:26.040".len()).collect()
}

async fn check(world: &World, org: &Org, sent: &str, project: &str, count: usize) -> anyhow::Result<()> {
    let sent: Value = serde_json::from_str(sent)?;
    let runs = sent["runs"].as_array().unwrap();
    assert_eq!(runs.len(), count, "the SDK reports another number of runs");
    world.until_drained().await?;
    let view = format!("run_of(org = '{}')", org.org_id);
    assert_eq!(world.clickhouse.number(&format!("SELECT count() FROM {view}")).await?, runs.len() as u64, "runs");
    for run in runs {
        let id = run["id"].as_str().unwrap();
        let [found] = &world.clickhouse.rows(&format!("SELECT {QUERY} FROM {view} WHERE run_id = '{id}'")).await?[..]
        else {
            panic!("{run} is missing");
        };
        for field in ["id", "trace_id", "parent_run_id", "dotted_order", "name", "run_type", "tags"] {
            assert_eq!(found[field], run[field], "{field} of {run}");
        }
        for field in ["start_time", "end_time"] {
            assert_eq!(time(&found[field]), time(&run[field]), "{field} of {run}");
        }
        assert_eq!(found["error"], run["error"].as_str().unwrap_or_default(), "{run}");
        assert_eq!(found["status"], if run["error"].is_null() { "ok" } else { "error" }, "{run}");
        assert_eq!(found["session_name"], project, "{run}");
        assert_eq!(found["source"], "langsmith");
        for (key, value) in run["metadata"].as_object().unwrap() {
            assert_eq!(&found["attributes"][key], value, "metadata {key} of {run}");
        }
        match run["name"].as_str().unwrap() {
            "call_model" => check_model(found),
            "get_weather" => {
                assert!(
                    ["ValueError", "TypeError", "Error"].contains(&found["error_kind"].as_str().unwrap()),
                    "{found}"
                );
                assert!(found["error"].as_str().unwrap().contains("no such city"));
            }
            "answer" => {
                assert_eq!(found["prompt_tokens"], 0, "an answer returns what its model used, and used nothing itself");
                assert_eq!((&found["session_id"], &found["user_id"]), (&json!("thread-7"), &json!("user-7")));
                assert!(found["inputs"].as_str().unwrap().contains("How is the weather?"), "{found}");
            }
            _ => {}
        }
    }
    for score in sent["feedback"].as_array().unwrap() {
        let query = format!(
            "SELECT toString(score_id) AS id, toString(run_id) AS run_id, name AS key, s.value AS score, s.label AS value, comment
             FROM feedback_of(org = '{}') AS s",
            org.org_id
        );
        assert_eq!(Value::from(world.clickhouse.rows(&query).await?), json!([score]));
    }
    let query = format!(
        "SELECT toString(run_id) AS run_id, name, mime_type, lower(hex(content)) AS content FROM attachment_of(org = '{}')",
        org.org_id
    );
    assert_eq!(Value::from(world.clickhouse.rows(&query).await?), sent["attachments"]);
    let billed = "SELECT sum(quantity) FROM billing_meter FINAL WHERE meter = 'span_ingested'";
    assert!(world.clickhouse.number(billed).await? >= runs.len() as u64, "each run was written at least once");
    Ok(())
}

fn check_model(found: &Value) {
    for (field, value) in [
        ("model", json!("gpt-4o-mini")),
        ("provider", json!("openai")),
        ("temperature", json!(0.5)),
        ("prompt_tokens", json!(7)),
        ("completion_tokens", json!(5)),
        ("total_tokens", json!(12)),
        ("cached_tokens", json!(3)),
        ("reasoning_tokens", json!(2)),
    ] {
        assert_eq!(found[field], value, "{field} of {found}");
    }
    let (inputs, outputs) = (found["inputs"].as_str().unwrap(), found["outputs"].as_str().unwrap());
    assert!(inputs.contains("How is the weather?"), "{inputs}");
    let outputs: Value = serde_json::from_str(outputs).unwrap();
    assert!(outputs["content"].as_str().unwrap().starts_with("Mild. 漢 \0"), "{outputs}");
}

/// As it comes: multipart, compressed with zstd because we say that we take it.
#[tokio::test(flavor = "multi_thread")]
async fn python_by_default() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("langsmith-python").await?;
    let endpoint = world.api.url();
    let env = environment(&endpoint, &org, "weather");
    let sent = sdk::python("langsmith-native-python", "send.py", &[], &env).await?;
    check(&world, &org, &sent, "weather", TRACED + CHAINED).await
}

#[tokio::test(flavor = "multi_thread")]
async fn python_uncompressed_with_the_longer_endpoint() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("langsmith-python-plain").await?;
    let endpoint = format!("{}/api/v1", world.api.url());
    let mut env = environment(&endpoint, &org, "weather");
    env.push(("LANGSMITH_DISABLE_RUN_COMPRESSION", "true"));
    let sent = sdk::python("langsmith-native-python", "send.py", &[], &env).await?;
    check(&world, &org, &sent, "weather", TRACED + CHAINED).await
}

#[tokio::test(flavor = "multi_thread")]
async fn javascript_by_default() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("langsmith-js").await?;
    let endpoint = world.api.url();
    let env = environment(&endpoint, &org, "weather-js");
    let sent = sdk::node("langsmith-native-js", "send.mjs", &[], &env).await?;
    check(&world, &org, &sent, "weather-js", TRACED).await
}
