//! `POST /v1/runs`, beyond what the tests of its description say.

use http::StatusCode;
use serde_json::{Value, json};
use tests::World;

const RUN: &str = "0190b7a4-0000-7000-8000-000000000001";

#[tokio::test(flavor = "multi_thread")]
async fn native_batches_are_stored_with_all_their_fields() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("native").await?;
    let span = |id: u8, name: &str| {
        json!({"span_id": format!("0190b7a4-0000-7000-8000-0000000000{id:02x}"), "name": name, "kind": "tool",
               "start_time": "2026-11-21T08:00:00Z", "end_time": "2026-11-21T08:00:01Z"})
    };
    let with = |mut item: Value, more: Value| {
        item.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        item
    };
    let call = with(
        span(2, "call"),
        json!({"kind": "llm", "model": "m", "prompt_tokens": 3, "completion_tokens": 4.0, "cost_usd": 0.000012,
               "attributes": {"k": "v"}, "outputs_obj_ref": "s3://b/o"}),
    );
    let body = json!({
        "schema_version": 1, "sdk": "test", "sdk_version": "9", "region": "eu",
        "runs": [
            {"run_id": RUN, "name": "answer", "kind": "chain",
             "start_time": "2026-11-21T08:00:00.123456789Z", "end_time": "2026-11-21T08:00:01Z",
             "inputs": {"q": "hi"}, "outputs": "plain", "tags": ["a", "b"], "metadata": {"n": 1},
             "inputs_obj_ref": "s3://b/i", "end_user_id": "u", "end_user_metadata": {"plan": "x"}, "new": [1],
             "spans": [call]},
            {"run_id": "not an id", "name": "bad", "kind": "chain", "start_time": "2026-11-21T08:00:00Z"},
        ],
        "spans": [with(span(3, "loose"), json!({"run_id": RUN}))],
    });
    let answer = world.post_runs(&org.key, &body).await?;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    let reply = answer.json()?;
    assert_eq!((&reply["accepted_runs"], &reply["accepted_spans"]), (&json!(1), &json!(2)), "{reply}");
    let rejected = &reply["rejected"][0];
    assert_eq!((&rejected["path"], &rejected["id"]), (&json!("runs[1]"), &json!("not an id")), "{reply}");
    world.until_drained().await?;
    let run =
        "SELECT toString(run_id) AS id, toUnixTimestamp64Nano(start_time) AS start, status, inputs, outputs, tags,
        attributes, attribute_types, sdk, sdk_version, source FROM run FINAL";
    assert_eq!(
        world.clickhouse.rows(run).await?,
        [json!({"id": RUN, "start": 1_795_248_000_123_456_789_u64, "status": "ok", "inputs": "{\"q\":\"hi\"}",
                "outputs": "plain", "tags": ["a", "b"], "attribute_types": "issmas",
                "attributes": {"n": "1", "inputs_obj_ref": "s3://b/i", "end_user_id": "u",
                               "end_user_metadata": "{\"plan\":\"x\"}", "new": "[1]", "region": "eu"},
                "sdk": "test", "sdk_version": "9", "source": "native"})]
    );
    let span = "SELECT name, toString(run_id) AS run, model, prompt_tokens, total_tokens, toString(cost_usd) AS cost,
        attributes, resource_attributes FROM span FINAL ORDER BY name";
    let resource = json!({"region": "eu", "sdk": "test", "sdk_version": "9"});
    assert_eq!(
        world.clickhouse.rows(span).await?,
        [
            json!({"name": "call", "run": RUN, "model": "m", "prompt_tokens": 3, "total_tokens": 7, "cost": "0.000012",
                   "attributes": {"k": "v", "outputs_obj_ref": "s3://b/o"}, "resource_attributes": resource}),
            json!({"name": "loose", "run": RUN, "model": "", "prompt_tokens": 0, "total_tokens": 0, "cost": null,
                   "attributes": {}, "resource_attributes": resource}),
        ]
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn implausible_native_times_are_kept_and_flagged() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("native-times").await?;
    let item = |id: &str, name: &str, start: &str, end: Option<&str>| {
        json!({"run_id": format!("{}{id}", &RUN[..35]), "span_id": format!("{}{id}", &RUN[..35]), "name": name,
               "kind": "span", "start_time": start, "end_time": end})
    };
    let soon = "2261-01-01T00:00:00Z";
    let items = [
        item("1", "future", soon, None),
        item("2", "past", "1999-01-01T00:00:00Z", None),
        item("3", "reversed", "2026-11-21T08:00:01Z", Some("2026-11-21T08:00:00Z")),
        item("4", "open", "2026-11-21T08:00:01Z", None),
    ];
    let answer = world.post_runs(&org.key, &json!({"runs": items, "spans": items})).await?;
    assert_eq!(answer.json()?["rejected"], json!([]));
    world.until_drained().await?;
    for table in ["run", "span"] {
        let rows = format!("SELECT name, attributes['tracebility.time_flag'] AS flag FROM {table} FINAL ORDER BY name");
        let wanted = [("future", "far_future"), ("open", ""), ("past", "far_past"), ("reversed", "end_before_start")]
            .map(|(name, flag)| json!({"name": name, "flag": flag}));
        assert_eq!(world.clickhouse.rows(&rows).await?, wanted, "{table}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_too_deeply_nested_item_is_rejected_alone() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("native-deep").await?;
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let run = |id: &str, name: &str, value: String| {
        let id = format!("{}{id}", &RUN[..35]);
        format!(r#"{{"run_id":"{id}","name":"n","kind":"tool","start_time":"2026-11-21T08:00:00Z","{name}":{value}}}"#)
    };
    // The last is a hundred thousand times what a stack could take.
    let runs = [
        run("1", "inputs", nested(100)),
        run("2", "inputs", nested(101)),
        run("3", "metadata", format!(r#"{{"a":{}}}"#, nested(100))),
        run("4", "unknown", nested(5_000_000)),
    ];
    let url = format!("{}/v1/runs", world.api.url());
    let post = |body: String| world.http.post(&url, &org.key, "application/json", body);
    let answer = post(format!(r#"{{"runs":[{}]}}"#, runs.join(","))).await?;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    let rejected = answer.json()?["rejected"].clone();
    let reply: Vec<_> = rejected.as_array().unwrap().iter().map(|r| (&r["path"], &r["error"])).collect();
    let error = |name: &str| json!(format!("`{name}` is nested deeper than 100 levels"));
    let (inputs, metadata, unknown) = (error("inputs"), error("metadata"), error("unknown"));
    let paths = ["runs[1]", "runs[2]", "runs[3]"].map(|path| json!(path));
    assert_eq!(reply, [(&paths[0], &inputs), (&paths[1], &metadata), (&paths[2], &unknown)]);
    let whole = post(format!(r#"{{"runs":[],"unknown":{}}}"#, nested(101))).await?;
    assert_eq!(whole.status, StatusCode::BAD_REQUEST);
    assert!(whole.json()?["error"]["message"].as_str().unwrap().contains("`unknown` is nested deeper"), "{whole:?}");
    world.until_drained().await?;
    assert_eq!(world.clickhouse.number("SELECT count() FROM run").await?, 1);
    Ok(())
}
