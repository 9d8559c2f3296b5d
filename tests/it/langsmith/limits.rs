//! What LangSmith's routes answer when they take nothing in. An SDK drops data for good on most of these, and waits as
//! long as it is told to on 429 and 503.

use std::io::Write;
use std::time::{Duration, Instant};

use auth::invalidate::Invalidator;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{Method, StatusCode};
use load::client::Answer;
use model::meter::Meter;
use model::shard::Shard;
use queue::appender::ShardAppender;
use registry::{Limit, LimitChange, LimitEdit};
use serde_json::{Value, json};
use tests::{Org, STORED_WITHIN, World, sdk};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use transfer::moving::Mover;
use uuid::Uuid;

/// What `TRACEBILITY_BODY_MAX` is set to, in bytes.
const BODY_MAX: usize = 64 << 10;
/// What these SDKs are told to wait: three times this long is what the Python one has.
const RETRY_AFTER_SECONDS: std::ops::RangeInclusive<u64> = 5..=10;

/// Every route that takes data, with a body of one item.
fn routes() -> Vec<(Method, String, &'static str, String)> {
    let id = Uuid::new_v4();
    let run = format!(r#"{{"id":"{id}","name":"n"}}"#);
    let part = format!("--b\r\nContent-Disposition: form-data; name=\"post.{id}\"\r\n\r\n{run}\r\n--b--\r\n");
    vec![
        (Method::POST, "/runs/multipart".to_owned(), "multipart/form-data; boundary=b", part),
        (Method::POST, "/runs/batch".to_owned(), "application/json", format!(r#"{{"post":[{run}]}}"#)),
        (Method::POST, "/runs".to_owned(), "application/json", run.clone()),
        (Method::PATCH, format!("/api/v1/runs/{id}"), "application/json", run),
        (Method::POST, "/feedback".to_owned(), "application/json", r#"{"key":"k","score":1}"#.to_owned()),
    ]
}

async fn send(world: &World, key: &str, route: &(Method, String, &str, String)) -> anyhow::Result<Answer> {
    let (method, path, content_type, body) = route;
    let headers = [("x-api-key", key), ("content-type", *content_type)];
    world.http.send(method.clone(), &format!("{}{path}", world.api.url()), &headers, body.clone()).await
}

/// Sends until the answer has this status, because what an operator changes is known after some milliseconds.
async fn until(
    world: &World,
    org: &Org,
    route: &(Method, String, &str, String),
    status: StatusCode,
) -> anyhow::Result<Answer> {
    let begun = Instant::now();
    loop {
        let answer = send(world, &org.key, route).await?;
        if answer.status == status {
            return Ok(answer);
        }
        anyhow::ensure!(begun.elapsed() < STORED_WITHIN, "{route:?} is not answered with {status}: {answer:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[track_caller]
fn check(answer: &Answer, code: &str, waits: bool) -> anyhow::Result<()> {
    let error = &answer.json()?["error"];
    assert_eq!(error["code"], code, "{answer:?}");
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{answer:?}");
    assert_eq!(error["request_id"].as_str(), answer.header("x-request-id"));
    let wait = answer.header("retry-after").map(str::parse::<u64>).transpose()?;
    match (waits, wait) {
        (true, Some(seconds)) => assert!(RETRY_AFTER_SECONDS.contains(&seconds), "{answer:?}"),
        (false, None) => {}
        _ => panic!("retry-after: {answer:?}"),
    }
    Ok(())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_says_why_and_whether_to_retry() -> anyhow::Result<()> {
    let world = World::start_with(&[("TRACEBILITY_BODY_MAX", "64KiB")], &[]).await?;
    let registry = world.registry().await?.announcing(Invalidator::new(world.redis().await?));
    let at_most = |n| LimitEdit::Set(Limit::AtMost(n));

    let fast = world.org("ls-fast").await?;
    let change = LimitChange { rps: at_most(1), burst: at_most(1), ..LimitChange::default() };
    registry.set_limits(fast.org_id, &change).await?;
    for route in routes() {
        let answer = until(&world, &fast, &route, StatusCode::TOO_MANY_REQUESTS).await?;
        check(&answer, "rate_limited", true)?;
        assert_eq!(answer.header("ratelimit-remaining"), Some("0"));
        assert!(answer.header("x-ratelimit-reset").is_some(), "{answer:?}");
    }

    let frugal = world.org("ls-frugal").await?;
    let change = LimitChange { meters: vec![(Meter::SpanBytes, at_most(1))], ..LimitChange::default() };
    registry.set_limits(frugal.org_id, &change).await?;
    for route in routes() {
        let answer = send(&world, &frugal.key, &route).await?;
        assert_eq!(answer.status, StatusCode::PAYMENT_REQUIRED, "{answer:?}");
        check(&answer, "over_quota", false)?;
        assert_eq!(answer.header("x-quota-meter"), Some("span_bytes"));
    }

    let frozen = world.org("ls-frozen").await?;
    registry.freeze(frozen.org_id, "unpaid").await?;
    for route in routes() {
        let answer = send(&world, &frozen.key, &route).await?;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{answer:?}");
        check(&answer, "org_frozen", false)?;
    }

    let large = world.org("ls-large").await?;
    for mut route in routes() {
        route.3.push_str(&" ".repeat(BODY_MAX));
        let answer = send(&world, &large.key, &route).await?;
        assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE, "{answer:?}");
        check(&answer, "too_large", false)?;
        assert!(String::from_utf8_lossy(&answer.body).contains(&BODY_MAX.to_string()), "names the cap: {answer:?}");
        let (method, path, content_type, body) = route;
        let headers = [("x-api-key", large.key.as_str()), ("content-type", content_type), ("content-encoding", "gzip")];
        let url = format!("{}{path}", world.api.url());
        let answer = world.http.send(method, &url, &headers, gzip(body.as_bytes())).await?;
        assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE, "{answer:?}");
        assert!(answer.json()?["error"]["message"].as_str().unwrap().contains("decompressed body"), "{answer:?}");
    }

    let moving = world.org("ls-moving").await?;
    let to = Shard::new((Shard::home(moving.org_id).number() + 1) % 16);
    registry.assign_shard(moving.org_id, to).await?;
    for route in routes() {
        check(&until(&world, &moving, &route, StatusCode::SERVICE_UNAVAILABLE).await?, "org_moving", true)?;
    }
    Mover::new(registry, ShardAppender::new(world.redis().await?))
        .finish(moving.org_id, STORED_WITHIN, &mut |_| {})
        .await?;
    for route in routes() {
        until(&world, &moving, &route, StatusCode::ACCEPTED).await?;
    }

    // Nothing that was refused is stored: only the moved org's runs are, and what the fast one had left.
    world.until_drained().await?;
    let others = format!("SELECT count() FROM run WHERE org_id NOT IN ('{}', '{}')", moving.org_id, fast.org_id);
    assert_eq!(world.clickhouse.number(&others).await?, 0);
    Ok(())
}

/// A client sends all before it listens. One whose connection is reset meanwhile does not hear the answer, and sends
/// again.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_refused_before_it_sent_its_body_gets_the_answer() -> anyhow::Result<()> {
    let world = World::start_with(&[("TRACEBILITY_BODY_MAX", "64KiB")], &[]).await?;
    let org = world.org("ls-early").await?;
    let address = world.api.url().replace("http://", "");
    let body = vec![b' '; 16 << 20];
    for (key, path, status) in [
        (org.key.as_str(), "/runs/batch", "413 Payload Too Large"),
        ("tb_unknown", "/runs/batch", "401 Unauthorized"),
        (org.key.as_str(), "/runs/multipart", "415 Unsupported Media Type"),
        (org.key.as_str(), "/runs/nonsense/multipart", "404 Not Found"),
    ] {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nx-api-key: {key}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let mut connection = TcpStream::connect(&address).await?;
        connection.write_all(head.as_bytes()).await?;
        connection.write_all(&body).await?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await?;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{answer}");
    }
    Ok(())
}

/// A post that is told 503 after its patch was accepted, and comes again: the order in which a captured SDK did it.
#[tokio::test(flavor = "multi_thread")]
async fn a_post_retried_after_its_patch_is_merged() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("ls-late-post").await?;
    let id = Uuid::new_v4();
    let (method, json_body) = (Method::POST, "application/json");
    let post = format!(
        r#"{{"post":[{{"id":"{id}","name":"n","run_type":"tool","inputs":{{"q":1}},"start_time":"2026-11-21T05:44:26Z"}}]}}"#
    );
    let patch = format!(r#"{{"patch":[{{"id":"{id}","outputs":{{"a":2}},"end_time":1795241750915}}]}}"#);
    let post = (method.clone(), "/runs/batch".to_owned(), json_body, post);
    let patch = (method, "/runs/batch".to_owned(), json_body, patch);

    assert_eq!(send(&world, &org.key, &patch).await?.status, StatusCode::ACCEPTED);
    let registry = world.registry().await?.announcing(Invalidator::new(world.redis().await?));
    let to = Shard::new((Shard::home(org.org_id).number() + 1) % 16);
    registry.assign_shard(org.org_id, to).await?;
    // Until the move is known posts are accepted, which is a retry more.
    until(&world, &org, &post, StatusCode::SERVICE_UNAVAILABLE).await?;
    Mover::new(registry, ShardAppender::new(world.redis().await?))
        .finish(org.org_id, STORED_WITHIN, &mut |_| {})
        .await?;
    until(&world, &org, &post, StatusCode::ACCEPTED).await?;
    world.until_drained().await?;
    let query = format!("SELECT name, kind, status, inputs, outputs, writes FROM run_of(org = '{}')", org.org_id);
    let wanted = json!([{"name": "n", "kind": "tool", "status": "ok", "inputs": r#"{"q":1}"#, "outputs": r#"{"a":2}"#, "writes": 2}]);
    assert_eq!(Value::from(world.clickhouse.rows(&query).await?), wanted);
    Ok(())
}

/// The Python SDK waits as long as it is told, and what it sends again is stored once.
#[tokio::test(flavor = "multi_thread")]
async fn an_sdk_over_its_rate_limit_waits_and_succeeds() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("ls-patient").await?;
    let one = || LimitEdit::Set(Limit::AtMost(1));
    let change = LimitChange { rps: one(), burst: one(), ..LimitChange::default() };
    world.registry().await?.set_limits(org.org_id, &change).await?;
    let endpoint = world.api.url();
    let env = super::environment(&endpoint, &org, "patient");
    let sent: Value =
        serde_json::from_str(&sdk::python("langsmith-native-python", "over_the_rate.py", &[], &env).await?)?;
    assert!(sent["refused"].as_u64() >= Some(1), "{sent}");
    world.until_drained().await?;
    let query = format!(
        "SELECT toString(run_id) AS id, status, inputs, outputs FROM run_of(org = '{}') ORDER BY start_time",
        org.org_id
    );
    let merged = |id: &Value| json!({"id": id, "status": "ok", "inputs": r#"{"q":1}"#, "outputs": r#"{"a":2}"#});
    let wanted: Vec<_> = sent["ids"].as_array().unwrap().iter().map(merged).collect();
    assert_eq!(world.clickhouse.rows(&query).await?, wanted);
    let twice = "SELECT count() FROM (SELECT 1 FROM run GROUP BY run_id, op, op_hash HAVING count() > 1)";
    assert_eq!(world.clickhouse.number(twice).await?, 0, "rows, without FINAL");
    Ok(())
}
