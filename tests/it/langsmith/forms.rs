//! Values in forms that SDKs and hand-written clients use: read where they can mean one thing only, kept where they
//! cannot be read.

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tests::{Org, World};
use uuid::Uuid;

async fn post(world: &World, org: &Org, path: &str, body: impl Into<Vec<u8>>) -> anyhow::Result<Value> {
    let headers = [("x-api-key", org.key.as_str()), ("content-type", "application/json")];
    let answer = world.http.send(Method::POST, &format!("{}{path}", world.api.url()), &headers, body.into()).await?;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{:?}", answer.body);
    answer.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn times_are_read_in_every_documented_form_or_kept() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("time-forms").await?;
    let second = "2026-11-27 13:00:05.000000000";
    let forms = [
        (json!("2026-11-27T13:00:05Z"), second),
        (json!("2026-11-27t13:00:05z"), second),
        (json!("2026-11-27 13:00:05"), second),
        (json!("2026-11-27T18:30:05+0530"), second),
        (json!("2026-11-27T09:30:05-03:30"), second),
        (json!("2026-11-27T15:00:05+02"), second),
        (json!("20261127T130005Z"), second),
        (json!("2026-11-27T13:00:05,25"), "2026-11-27 13:00:05.250000000"),
        (json!("2026-11-27T13:01"), "2026-11-27 13:01:00.000000000"),
        (json!("20261127"), "2026-11-27 00:00:00.000000000"),
        (json!(1_795_784_405), second),
        (json!(1_795_784_405_000_i64), second),
        (json!(1_795_784_405_000_000_i64), second),
        (json!("1795784405.5"), "2026-11-27 13:00:05.500000000"),
    ];
    let unread =
        [json!("2026-W48-5"), json!("2026-331"), json!("yesterday"), json!(true), json!({"s": 1}), json!(7), json!(0)];
    let run = |time: &Value| json!({"id": Uuid::now_v7(), "name": time.to_string(), "trace_id": Uuid::now_v7(), "start_time": time, "end_time": time});
    let posts: Vec<_> = forms.iter().map(|(time, _)| time).chain(&unread).map(run).collect();
    let reply = post(&world, &org, "/runs/batch", json!({"post": posts}).to_string()).await?;
    assert_eq!((&reply["accepted_runs"], &reply["rejected"]), (&json!(posts.len()), &json!([])), "{reply}");
    world.until_drained().await?;
    for (time, wanted) in &forms {
        let query = format!(
            "SELECT toString(start_time) AS start, toString(end_time) AS end, status, attributes['langsmith.start_time'] AS kept
             FROM run_of(org = '{}') WHERE name = '{time}'",
            org.org_id
        );
        let found = world.clickhouse.rows(&query).await?;
        assert_eq!(found, [json!({"start": wanted, "end": wanted, "status": "ok", "kept": ""})], "{time}");
    }
    for time in &unread {
        let query = format!(
            "SELECT toUnixTimestamp64Nano(start_time) AS start, status, attributes['langsmith.start_time'] AS kept,
                attributes['langsmith.end_time'] AS kept_end FROM run_of(org = '{}') WHERE name = '{time}'",
            org.org_id
        );
        let kept = time.as_str().map_or_else(|| time.to_string(), str::to_owned);
        let found = world.clickhouse.rows(&query).await?;
        assert_eq!(found, [json!({"start": 0, "status": "running", "kept": kept, "kept_end": kept})], "{time}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn child_runs_are_stored_as_runs_of_their_own() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("child-runs").await?;
    let [root, child, grandchild, other] = std::array::from_fn(|_| Uuid::now_v7());
    let body = json!({
        "id": root, "name": "root", "run_type": "chain", "start_time": "2026-11-27T13:00:00Z", "end_time": "2026-11-27T13:00:09Z",
        "session_name": "old", "child_runs": [
            {"id": child, "name": "child", "run_type": "tool", "start_time": "2026-11-27T13:00:01Z", "child_runs": [
                {"id": grandchild, "name": "grandchild", "run_type": "llm", "start_time": "2026-11-27T13:00:02Z",
                 "end_time": "2026-11-27T13:00:03Z", "error": "ValueError('x')", "child_runs": []},
            ]},
            {"name": "nameless"},
            7,
            {"id": other, "name": "other", "parent_run_id": child, "trace_id": child, "session_name": "own"},
        ],
    });
    let reply = post(&world, &org, "/runs", body.to_string()).await?;
    assert_eq!(
        (&reply["accepted_runs"], &reply["rejected"][0]["path"]),
        (&json!(4), &json!(format!("post.{root}.child_runs[1]")))
    );
    assert_eq!(reply["rejected"].as_array().unwrap().len(), 2, "{reply}");
    world.until_drained().await?;
    let view = format!(
        "SELECT name, kind, status, toString(parent_run_id) AS parent, toString(trace_id) AS trace, session_name AS project,
            dotted_order AS path, attributes FROM run_of(org = '{}') ORDER BY name",
        org.org_id
    );
    let path = [
        format!("20261127T130000000000Z{root}"),
        format!("20261127T130000000000Z{root}.20261127T130001000000Z{child}"),
        format!("20261127T130000000000Z{root}.20261127T130001000000Z{child}.20261127T130002000000Z{grandchild}"),
    ];
    let nil = Uuid::nil();
    assert_eq!(
        world.clickhouse.rows(&view).await?,
        [
            json!({"name": "child", "kind": "tool", "status": "running", "parent": root, "trace": root, "project": "old",
                   "path": path[1], "attributes": {}}),
            json!({"name": "grandchild", "kind": "llm", "status": "error", "parent": child, "trace": root, "project": "old",
                   "path": path[2], "attributes": {}}),
            json!({"name": "other", "kind": "span", "status": "running", "parent": child, "trace": child, "project": "own",
                   "path": "", "attributes": {}}),
            json!({"name": "root", "kind": "chain", "status": "ok", "parent": nil, "trace": root, "project": "old",
                   "path": path[0], "attributes": {}}),
        ]
    );
    let aside = format!("SELECT content FROM set_aside_of(org = '{}') ORDER BY item", org.org_id);
    assert_eq!(
        world.clickhouse.rows(&aside).await?,
        [json!({"content": r#"{"name":"nameless"}"#}), json!({"content": "7"})]
    );
    let billed = "SELECT sum(quantity) FROM billing_meter FINAL WHERE meter = 'span_ingested'";
    assert_eq!(world.clickhouse.number(billed).await?, 4);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_the_wrong_type_and_invalid_utf_8_are_kept() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("wrong-types").await?;
    let id = Uuid::now_v7();
    let mut run = format!(
        r#"{{"id":"{id}","name":12,"run_type":"CHAIN","tags":["a",2,null,false],"extra":{{"metadata":["m"],"runtime":"r"}},
            "events":{{"name":"e"}},"inputs":"caf@","outputs":{{"a":NaN}},"error":false,"project_name":"p","session_id":7,
            "dotted_order":["x"],"parent_run_id":"not an id","name":"last"}}"#
    )
    .into_bytes();
    let at = run.iter().position(|byte| *byte == b'@').unwrap();
    run[at] = 0xe9;
    let reply = post(&world, &org, "/runs", run).await?;
    assert_eq!(reply["accepted_runs"], 1, "{reply}");
    let feedback = json!({"key": 7, "run_id": id, "score": "0.5", "trace_id": "none", "created_at": "2026-11-27T13:00:00,5",
                          "modified_at": "soon", "feedback_source": "app"});
    post(&world, &org, "/feedback", feedback.to_string()).await?;
    world.until_drained().await?;
    let view = format!(
        "SELECT name, kind, status, tags, events, inputs, outputs, session_name, dotted_order, error_message, attributes
         FROM run_of(org = '{}')",
        org.org_id
    );
    assert_eq!(
        world.clickhouse.rows(&view).await?,
        [json!({
            "name": "last", "kind": "chain", "status": "running", "tags": ["a", "2", "false"], "events": "", "inputs": "caf\u{fffd}",
            "outputs": r#"{"a":null}"#, "session_name": "p", "dotted_order": "", "error_message": "",
            "attributes": {"langsmith.extra.metadata": r#"["m"]"#, "langsmith.extra.runtime": "r", "langsmith.error": "false",
                           "langsmith.events": r#"{"name":"e"}"#, "langsmith.session_id": "7", "langsmith.dotted_order": r#"["x"]"#,
                           "langsmith.parent_run_id": "not an id"},
        })]
    );
    let scores = format!(
        "SELECT name, s.value AS value, toString(created_at) AS created, toUnixTimestamp64Nano(modified_at) AS modified, extra
         FROM feedback_of(org = '{}') AS s",
        org.org_id
    );
    assert_eq!(
        world.clickhouse.rows(&scores).await?,
        [json!({"name": "7", "value": 0.5, "created": "2026-11-27 13:00:00.500000000", "modified": 0,
                "extra": r#"{"feedback_source":"app","trace_id":"none","modified_at":"soon"}"#})]
    );
    Ok(())
}
