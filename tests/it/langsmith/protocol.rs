//! What LangSmith's routes answer, and that one bad run costs only itself.

use http::{Method, StatusCode};
use rand::prelude::*;
use serde_json::{Value, json};
use tests::{Org, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Fixture;

const ID: &str = "01a1fca2-6eb8-7760-82cf-990515cae231";

#[tokio::test(flavor = "multi_thread")]
async fn info_is_complete_and_needs_no_key() -> anyhow::Result<()> {
    let world = World::start_with(&[("TRACEBILITY_BODY_MAX", "8MiB")], &[]).await?;
    for path in ["/info", "/api/v1/info"] {
        let answer = world.http.send(Method::GET, &format!("{}{path}", world.api.url()), &[], "").await?;
        assert_eq!(answer.status, StatusCode::OK);
        let info = answer.json()?;
        assert!(info["version"].is_string());
        assert_eq!(
            info["batch_ingest_config"],
            json!({"use_multipart_endpoint": true, "scale_up_qsize_trigger": 1000, "scale_up_nthreads_limit": 16,
                   "scale_down_nempty_trigger": 4, "size_limit": 100, "size_limit_bytes": 4 << 20}),
            "the Python SDK dies of a missing member; a body exceeds the limit by up to one run"
        );
        assert_eq!(info["instance_flags"], json!({"zstd_compression_enabled": true, "gzip_body_enabled": true}));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_use_statuses_that_the_sdks_handle() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("langsmith-refusals").await?;
    let key = ("x-api-key", org.key.as_str());
    let json_body = ("content-type", "application/json");
    let cut = "--b\r\nContent-Disposition: form-data; name=\"post.x\"\r\n\r\n{}";
    type Case<'a> = (&'a str, Method, &'a str, Vec<(&'a str, &'a str)>, &'a str, u16);
    let cases: [Case<'_>; 11] = [
        (
            "no key",
            Method::POST,
            "/runs/multipart",
            vec![("content-type", "multipart/form-data; boundary=b")],
            "--b--",
            401,
        ),
        ("not JSON", Method::POST, "/runs", vec![key, json_body], "{", 400),
        ("not JSON", Method::POST, "/runs/batch", vec![key, json_body], "{\"post\":[", 400),
        ("no lists", Method::POST, "/runs/batch", vec![key, json_body], "{\"post\":7}", 400),
        ("no id", Method::POST, "/runs", vec![key, json_body], "{\"name\":\"n\"}", 422),
        ("no id", Method::PATCH, "/runs/nonsense", vec![key, json_body], "{}", 422),
        ("no key", Method::POST, "/feedback", vec![key, json_body], "{\"score\":1}", 422),
        ("no boundary", Method::POST, "/runs/multipart", vec![key, json_body], "{}", 415),
        (
            "other boundary",
            Method::POST,
            "/runs/multipart",
            vec![key, ("content-type", "multipart/form-data; boundary=x")],
            cut,
            400,
        ),
        (
            "cut",
            Method::POST,
            "/runs/multipart",
            vec![key, ("content-type", "multipart/form-data; boundary=b")],
            cut,
            400,
        ),
        ("method", Method::GET, "/api/v1/runs/batch", vec![key], "", 405),
    ];
    for (case, method, path, headers, body, status) in cases {
        let url = format!("{}{path}", world.api.url());
        let answer = world.http.send(method, &url, &headers, body.to_owned()).await?;
        assert_eq!(answer.status.as_u16(), status, "{case} {path}: {:?}", answer.body);
        assert!(answer.json()?["error"]["message"].is_string(), "{case} {path}");
    }
    assert_eq!(world.waiting().await?.iter().sum::<u64>(), 0);
    Ok(())
}

/// A batch with one run that has no id, one whose JSON is Python's, and two that are fine.
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_run_is_rejected_alone() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("langsmith-bad").await?;
    let headers = [("x-api-key", org.key.as_str()), ("content-type", "application/json")];
    let id = |n: u32| format!("01a1fca2-6eb8-7760-82cf-9905150000{n:02}");
    let body = format!(
        r#"{{"post":[{{"id":"{}","name":"fine"}},{{"name":"no id"}},{{"id":"{}","name":"odd","outputs":{{"x":NaN,"y":"\ud83d"}}}}],
            "patch":[7,{{"id":"{}","end_time":1795241750915}}]}}"#,
        id(1),
        id(2),
        id(3)
    );
    let answer = world.http.send(Method::POST, &format!("{}/runs/batch", world.api.url()), &headers, body).await?;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{:?}", answer.body);
    let reply = answer.json()?;
    assert_eq!(reply["accepted_runs"], 3, "{reply}");
    let items: Vec<_> = reply["rejected"].as_array().unwrap().iter().map(|r| r["path"].clone()).collect();
    assert_eq!(items, ["post[1]", "patch[0]"]);
    world.until_drained().await?;
    let rows = world.clickhouse.rows("SELECT name, outputs, status FROM run ORDER BY run_id").await?;
    let wanted = json!([
        {"name": "fine", "outputs": "", "status": "running"},
        {"name": "odd", "outputs": "{\"x\":null,\"y\":\"\u{FFFD}\"}", "status": "running"},
        {"name": "", "outputs": "", "status": "ok"},
    ]);
    assert_eq!(Value::from(rows), wanted);
    Ok(())
}

/// Parts in any order, two patches of one run, parts that are nothing: all in one request.
#[tokio::test(flavor = "multi_thread")]
async fn parts_may_come_in_any_order() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("langsmith-parts").await?;
    let parts = [
        (format!("attachment.{ID}.a.b"), "bytes"),
        (format!("post.{ID}.outputs"), "not JSON"),
        (format!("post.{ID}.inputs"), r#"{"q":1}"#),
        (format!("post.{ID}"), r#"{"name":"late","run_type":"chain","inputs":{"q":0}}"#),
        (format!("patch.{ID}"), r#"{"tags":["one"],"end_time":1795241750915}"#),
        (format!("patch.{ID}"), r#"{"tags":["two"],"end_time":1795241750916}"#),
        ("what.is-this".to_owned(), "{}"),
        ("post.nonsense".to_owned(), "{}"),
        (format!("feedback.{ID}"), r#"{"score":1}"#),
    ];
    let mut body = String::new();
    for (name, content) in parts {
        body += &format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{content}\r\n");
    }
    body += "--b--\r\n";
    let headers = [("x-api-key", org.key.as_str()), ("content-type", "multipart/form-data; boundary=b")];
    let url = format!("{}/runs/multipart", world.api.url());
    let answer = world.http.send(Method::POST, &url, &headers, body).await?;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{:?}", answer.body);
    let reply = answer.json()?;
    assert_eq!((&reply["accepted_runs"], &reply["accepted_attachments"]), (&json!(3), &json!(1)), "{reply}");
    let mut items: Vec<_> = reply["rejected"].as_array().unwrap().iter().map(|r| r["path"].as_str().unwrap()).collect();
    items.sort_unstable();
    assert_eq!(items, [&format!("feedback.{ID}"), "post.nonsense", "what.is-this"], "{reply}");
    world.until_drained().await?;
    let query = format!("SELECT name, inputs, outputs, tags, status, writes FROM run_of(org = '{}')", org.org_id);
    let wanted = json!([{"name": "late", "inputs": r#"{"q":1}"#, "outputs": "not JSON", "tags": ["two"], "status": "ok", "writes": 3}]);
    assert_eq!(Value::from(world.clickhouse.rows(&query).await?), wanted);
    // What comes beside runs is billed by its bytes.
    let billed = "SELECT sum(quantity) FROM billing_meter FINAL WHERE meter = 'span_ingested'";
    assert_eq!(world.clickhouse.number(billed).await?, 3);
    Ok(())
}

/// Sends a captured request in chunks of random sizes, and returns the first line of the answer.
async fn send_in_chunks(world: &World, org: &Org, fixture: &Fixture) -> anyhow::Result<String> {
    let address = world.api.url().replace("http://", "");
    let path = fixture.description["path"].as_str().unwrap();
    let mut head =
        format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n");
    for (name, value) in fixture.headers(org) {
        head += &format!("{name}: {value}\r\n");
    }
    let mut connection = TcpStream::connect(address).await?;
    connection.set_nodelay(true)?;
    connection.write_all(format!("{head}\r\n").as_bytes()).await?;
    let mut rest = fixture.body.as_slice();
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(rand::rng().random_range(1..=rest.len().min(500)));
        connection.write_all(&[format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat()).await?;
        rest = after;
    }
    connection.write_all(b"0\r\n\r\n").await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chunking_of_a_body_changes_nothing() -> anyhow::Result<()> {
    let world = World::start().await?;
    for name in ["lspy_multipart_attachments", "lspy_multipart_zstd_nested", "lsjs_multipart_gzip"] {
        let org = world.org(&name.replace('_', "-")).await?;
        let fixture = Fixture::read(name)?;
        assert_eq!(fixture.send(&world, &org, "").await?.status, StatusCode::ACCEPTED);
        for _ in 0..4 {
            assert_eq!(send_in_chunks(&world, &org, &fixture).await?, "HTTP/1.1 202 Accepted", "{name}");
        }
        world.until_drained().await?;
        for (what, table) in [("runs", "run"), ("attachments", "run_attachment")] {
            let count = format!("SELECT count() FROM {table} FINAL WHERE org_id = '{}'", org.org_id);
            assert_eq!(world.clickhouse.number(&count).await?, fixture.expected(what).len() as u64, "{name}: {what}");
        }
    }
    Ok(())
}
