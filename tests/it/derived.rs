//! What is stored beyond what was sent: calls that can be replayed, and costs that the client left out.

use std::path::Path;

use http::{Method, StatusCode};
use load::client::Answer;
use serde_json::{Value, json};
use tests::{Org, STORED_WITHIN, World};
use uuid::Uuid;

const NO_ID: &str = "00000000-0000-0000-0000-000000000000";
/// 1000 and 100 tokens of gpt-4o-mini, at 0.15 and 0.60 dollars per million.
const COST: &str = "0.00021";

async fn post(world: &World, org: &Org, path: &str, body: &Value) -> anyhow::Result<()> {
    let url = format!("{}{path}", world.api.url());
    let Answer { status, body, .. } = world.http.post(&url, &org.key, "application/json", body.to_string()).await?;
    assert!([StatusCode::OK, StatusCode::ACCEPTED].contains(&status), "{path}: {status} {body:?}");
    Ok(())
}

fn otlp(spans: &[Value]) -> Value {
    json!({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]})
}

/// A span of the trace 0…01, with attributes in the order given.
fn span(id: u64, parent: u64, name: &str, attributes: &[(&str, Value)]) -> Value {
    let value = |value: &Value| match value {
        Value::Number(n) if n.is_f64() => json!({"doubleValue": n}),
        Value::Number(n) => json!({"intValue": n}),
        value => json!({"stringValue": value}),
    };
    let attributes: Vec<_> = attributes.iter().map(|(key, of)| json!({"key": key, "value": value(of)})).collect();
    let parent = if parent == 0 { String::new() } else { format!("{parent:016x}") };
    json!({"traceId": format!("{:032x}", 1), "spanId": format!("{id:016x}"), "parentSpanId": parent, "name": name,
        "startTimeUnixNano": "1795241935570826453", "endTimeUnixNano": "1795241936570826453", "attributes": attributes})
}

fn call(model: &str) -> Vec<(&'static str, Value)> {
    vec![
        ("gen_ai.operation.name", json!("chat")),
        ("gen_ai.provider.name", json!("openai")),
        ("gen_ai.request.model", json!(model)),
        ("gen_ai.request.temperature", json!(0.5)),
        ("gen_ai.request.max_tokens", json!(7)),
        ("gen_ai.usage.input_tokens", json!(1_000)),
        ("gen_ai.usage.output_tokens", json!(100)),
        ("gen_ai.input.messages", json!(r#"[{"role":"user","content":"hi"}]"#)),
        ("gen_ai.output.messages", json!(r#"[{"role":"assistant","content":"ho"}]"#)),
    ]
}

fn uuid(n: u128) -> String {
    Uuid::from_u128(n).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_are_captured_and_priced() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("derived-otlp").await?;
    let known = call("gpt-4o-mini-2024-07-18");
    let mut again = known.clone();
    again.reverse();
    again[1].1 = json!(r#"[ {"content":"hi", "role":"user"} ]"#);
    let mut sent_with_cost = known.clone();
    sent_with_cost.push(("llm.cost.total", json!(0.25)));
    let tool = [("gen_ai.operation.name", json!("execute_tool")), ("gen_ai.tool.call.arguments", json!("{\"a\":1}"))];
    let chain = [("traceloop.span.kind", json!("workflow")), ("traceloop.entity.input", json!("{}"))];
    let spans = [
        span(1, 0, "root call", &known),
        span(2, 1, "the same call", &again),
        span(3, 1, "sent with its cost", &sent_with_cost),
        span(4, 1, "unknown model", &call("gpt-of-my-own")),
        span(5, 1, "add", &tool),
        span(6, 1, "no call", &chain),
    ];
    post(&world, &org, "/v1/traces", &otlp(&spans)).await?;
    world.until_number("SELECT count() FROM span FINAL", 6).await?;
    world.until_drained().await?;

    let costs = "SELECT name, toString(cost_usd) AS cost, attributes['tracebility.cost_source'] AS source FROM";
    let rows = world.clickhouse.rows(&format!("{costs} span FINAL ORDER BY span_id")).await?;
    let ours = rows[0]["source"].as_str().unwrap().to_owned();
    assert!(ours.starts_with("built-in list 20"), "{ours}");
    let found: Vec<_> = rows.iter().map(|r| (&r["name"], &r["cost"], &r["source"])).collect();
    assert_eq!(
        found,
        [
            (&json!("root call"), &json!(COST), &json!(ours)),
            (&json!("the same call"), &json!(COST), &json!(ours)),
            (&json!("sent with its cost"), &json!("0.25"), &json!("")),
            (&json!("unknown model"), &Value::Null, &json!("")),
            (&json!("add"), &Value::Null, &json!("")),
            (&json!("no call"), &Value::Null, &json!("")),
        ]
    );
    let run = world.clickhouse.rows(&format!("{costs} run_of(org = '{}')", org.org_id)).await?;
    assert_eq!(run, [json!({"name": "root call", "cost": COST, "source": ours})]);

    let calls =
        "SELECT toString(span_id) AS id, toString(parent_span_id) AS parent, name, kind, model, provider, parameters,
        hex(content_hash) AS hash, inputs, outputs, toUnixTimestamp64Nano(end_time) AS ended FROM replay_of(org = ";
    let rows = world.clickhouse.rows(&format!("{calls}'{}') ORDER BY span_id", org.org_id)).await?;
    let names: Vec<_> = rows.iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["root call", "the same call", "sent with its cost", "unknown model", "add"]);
    let hash = rows[0]["hash"].clone();
    assert_eq!(
        rows[0],
        json!({"id": uuid(1), "parent": NO_ID, "name": "root call", "kind": "llm", "model": "gpt-4o-mini-2024-07-18",
            "provider": "openai", "parameters": r#"{"gen_ai.request.max_tokens":7,"temperature":0.5}"#, "hash": hash,
            "inputs": r#"[{"role":"user","content":"hi"}]"#, "outputs": r#"[{"role":"assistant","content":"ho"}]"#,
            "ended": 1_795_241_936_570_826_453_u64})
    );
    let same: Vec<_> = rows.iter().map(|r| r["hash"] == hash).collect();
    assert_eq!(same, [true, true, true, false, false]);
    assert_eq!((&rows[4]["inputs"], &rows[4]["outputs"]), (&json!("{\"a\":1}"), &json!("")));
    let other = format!("SELECT count() FROM replay_of(org = '{}')", uuid(9));
    assert_eq!(world.clickhouse.number(&other).await?, 0, "of another org");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_are_captured_and_priced() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("derived-runs").await?;
    let start = "2026-11-21T06:00:00Z";
    let call = json!({"kind": "llm", "name": "native", "start_time": start, "end_time": start, "model": "gpt-4o-mini",
        "prompt_tokens": 1_000, "completion_tokens": 100, "inputs": {"b": 1, "a": 2}, "outputs": "out"});
    let with = |ids: Value| {
        let mut item = call.clone();
        item.as_object_mut().unwrap().extend(ids.as_object().unwrap().clone());
        item
    };
    let nested = with(json!({"span_id": uuid(11), "name": "nested"}));
    post(&world, &org, "/v1/runs", &json!({"runs": [with(json!({"run_id": uuid(1), "spans": [nested]}))]})).await?;

    let extra = json!({"metadata": {"ls_provider": "openai", "ls_model_name": "gpt-4o-mini"},
        "invocation_params": {"top_p": 1, "stop": null}});
    let opened = json!({"id": uuid(2), "name": "langsmith", "run_type": "llm", "start_time": start, "extra": extra,
        "inputs": {"messages": []}});
    post(&world, &org, "/runs", &opened).await?;
    let usage = json!({"input_tokens": 1_000, "output_tokens": 100, "total_tokens": 1_100});
    let ended = json!({"id": uuid(2), "run_type": "llm", "end_time": start, "extra": extra,
        "outputs": {"usage_metadata": usage}});
    let url = format!("{}/runs/{}", world.api.url(), uuid(2));
    let headers = [("x-api-key", org.key.as_str()), ("content-type", "application/json")];
    let answer = world.http.send(Method::PATCH, &url, &headers, ended.to_string()).await?;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{:?}", answer.body);
    // A chain repeats what its call used; it costs nothing itself.
    let chain = json!({"id": uuid(3), "name": "chain", "run_type": "chain", "start_time": start, "end_time": start,
        "extra": extra, "inputs": {"q": 1}, "outputs": {"usage_metadata": usage}});
    post(&world, &org, "/runs", &chain).await?;
    world.until_number("SELECT count() FROM run FINAL", 4).await?;
    world.until_drained().await?;

    let view = format!("(org = '{}') ORDER BY name", org.org_id);
    let rows = world.clickhouse.rows(&format!("SELECT name, toString(cost_usd) AS cost FROM run_of{view}")).await?;
    assert_eq!(
        rows,
        [
            json!({"name": "chain", "cost": null}),
            json!({"name": "langsmith", "cost": COST}),
            json!({"name": "native", "cost": COST})
        ]
    );
    let calls =
        "SELECT name, toString(run_id) AS run, toString(span_id) AS span, parameters, inputs, outputs FROM replay_of";
    let rows = world.clickhouse.rows(&format!("{calls}{view}")).await?;
    let native = |name: &str, span: &str| {
        json!({"name": name, "run": uuid(1), "span": span, "parameters": "{}", "inputs": r#"{"a":2,"b":1}"#,
            "outputs": "out"})
    };
    let langsmith = json!({"name": "langsmith", "run": uuid(2), "span": NO_ID,
        "parameters": r#"{"langsmith.extra.invocation_params":{"stop":null,"top_p":1}}"#,
        "inputs": r#"{"messages":[]}"#, "outputs": json!({"usage_metadata": usage}).to_string()});
    assert_eq!(rows, [langsmith, native("native", NO_ID), native("nested", &uuid(11))]);
    let hashes =
        format!("SELECT uniqExact(content_hash) FROM replay_of(org = '{}') WHERE name != 'langsmith'", org.org_id);
    assert_eq!(world.clickhouse.number(&hashes).await?, 1, "run and span are the same call");
    Ok(())
}

/// Rows as releases before one row per span wrote them: a call beside its span, and the run of a root span.
#[tokio::test(flavor = "multi_thread")]
async fn runs_and_calls_of_earlier_releases_are_shown_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("earlier").await?;
    let key = format!("'{0}', '{0}', '{0}'", org.org_id);
    let times = "now64(9), now64(9)";
    let insert =
        async |into: &str, rows: String| world.clickhouse.text(&format!("INSERT INTO {into} VALUES {rows}")).await;
    // Three root spans. The first two are of an earlier release, the second was sent again to this one.
    let span = |id: u128, version: u8, received: u8, hash: &str| {
        format!(
            "({key}, '{0}', '{0}', 'root {id}', 'llm', 'in', 'otlp_json', {times}, now64(9) + {received}, {version}, unhex('{hash}'))",
            uuid(id)
        )
    };
    let (none, new) = ("00".repeat(16), "ab".repeat(16));
    let spans = [span(1, 2, 0, &none), span(2, 2, 0, &none), span(2, 3, 1, &new), span(3, 3, 0, &new)];
    insert(
        "span (org_id, workspace_id, project_id, run_id, span_id, name, kind, inputs, source, start_time, end_time, \
         received_at, schema_version, content_hash)",
        spans.join(", "),
    )
    .await?;
    let run = |id: u128| {
        format!("({key}, '{0}', 2, {id}, '{0}', 'root {id}', 'llm', 'otlp_json', {times}, now64(9), 2)", uuid(id))
    };
    insert(
        "run (org_id, workspace_id, project_id, run_id, op, op_hash, trace_id, name, kind, source, start_time, end_time, \
         received_at, schema_version)",
        [run(1), run(2)].join(", "),
    )
    .await?;
    let call = |id: u128| {
        let hash = "cd".repeat(16);
        format!(
            "({key}, '{0}', '{0}', 'llm', 'root {id}', '{{}}', unhex('{hash}'), 'otlp_json', {times}, now64(9), 1)",
            uuid(id)
        )
    };
    insert(
        "replay_capture (org_id, workspace_id, project_id, run_id, span_id, kind, name, parameters, content_hash, source, \
         start_time, end_time, received_at, schema_version)",
        [call(1), call(2)].join(", "),
    )
    .await?;
    let of = format!("(org = '{}') ORDER BY name", org.org_id);
    let runs = world.clickhouse.rows(&format!("SELECT name, toUInt8(writes) AS writes FROM run_of{of}")).await?;
    // The second has the row of the earlier release and the root span of this one.
    assert_eq!(runs, [(1, 1), (2, 2), (3, 1)].map(|(id, n)| json!({"name": format!("root {id}"), "writes": n})));
    let calls = world
        .clickhouse
        .rows(&format!("SELECT name, inputs, lower(hex(content_hash)) AS hash FROM replay_of{of}"))
        .await?;
    let hashes = ["cd", "ab", "ab"].map(|byte| byte.repeat(16));
    let wanted: Vec<_> = (1..)
        .zip(hashes)
        .map(|(id, hash)| json!({"name": format!("root {id}"), "inputs": "in", "hash": hash}))
        .collect();
    assert_eq!(calls, wanted);
    Ok(())
}

fn prices(date: &str, input: &str) -> String {
    format!(
        "source: ours\ndate: {date}\ncurrency: USD\nper_tokens: 1000000\n\
         provider,model,input,cached_input,cache_write,output\nopenai,my-model,{input},,,0\n"
    )
}

/// Puts a whole file in the place of another.
fn put(path: &Path, text: &str) -> anyhow::Result<()> {
    let draft = path.with_extension("draft");
    std::fs::write(&draft, text)?;
    Ok(std::fs::rename(draft, path)?)
}

async fn until_read(world: &World, outcome: &str, times: u64) -> anyhow::Result<()> {
    let wanted = format!("tracebility_prices_read_total{{outcome=\"{outcome}\"}} {times}");
    let url = format!("{}/metrics", world.api.url());
    let found = async {
        loop {
            let answer = world.http.send(Method::GET, &url, &[], "").await?;
            if String::from_utf8_lossy(&answer.body).lines().any(|line| line == wanted) {
                return anyhow::Ok(());
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(STORED_WITHIN, found).await?
}

#[tokio::test(flavor = "multi_thread")]
async fn prices_are_read_again_when_their_file_changes() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("prices.csv");
    put(&path, &prices("2026-01-01", "1"))?;
    let world = World::start_with(&[("TRACEBILITY_PRICES", path.to_str().unwrap())], &[]).await?;
    let org = world.org("reload").await?;
    let send =
        async |id, name: &str| post(&world, &org, "/v1/traces", &otlp(&[span(id, 99, name, &call("my-model"))])).await;
    send(1, "first").await?;
    put(&path, &prices("2026-02-02", "2.5"))?;
    until_read(&world, "taken", 2).await?;
    send(2, "second").await?;
    put(&path, "what is this")?;
    until_read(&world, "refused", 1).await?;
    assert!(world.api.log().contains("neither `name: value` nor"), "the log does not say what is wrong");
    send(3, "third").await?;
    std::fs::remove_file(&path)?;
    until_read(&world, "refused", 2).await?;
    send(4, "fourth").await?;
    world.until_number("SELECT count() FROM span FINAL", 4).await?;
    let rows = world
        .clickhouse
        .rows("SELECT toString(cost_usd) AS cost, attributes['tracebility.cost_source'] AS source FROM span FINAL ORDER BY span_id")
        .await?;
    let (old, new) =
        (json!({"cost": "0.001", "source": "ours 2026-01-01"}), json!({"cost": "0.0025", "source": "ours 2026-02-02"}));
    assert_eq!(rows, [old, new.clone(), new.clone(), new]);
    Ok(())
}
