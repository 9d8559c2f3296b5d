//! What services say about how they keep data, and that they take none when Redis would lose it.

use http::{Method, StatusCode};
use load::client::{Answer, Http};
use load::corpus::Corpus;
use serde_json::json;
use stack::{Flavour, RedisServer};
use tests::{World, now};

const SETTINGS: &str = "maxmemory 256mb\nmaxmemory-policy noeviction\nappendonly yes\nappendfsync everysec\nsave \"\"";

async fn ready(world: &World, url: &str) -> anyhow::Result<Answer> {
    world.http.send(Method::GET, &format!("{url}/readyz"), &[], "").await
}

async fn until_ready_is(world: &World, url: &str, status: StatusCode) -> anyhow::Result<serde_json::Value> {
    for _ in 0..1_000 {
        let answer = ready(world, url).await?;
        if answer.status == status {
            return answer.json();
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    anyhow::bail!("{url}/readyz never answers {status}")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_names_its_class_over_every_protocol() -> anyhow::Result<()> {
    let redis = RedisServer::start(Flavour::Valkey, SETTINGS).await?;
    let db = stack::shared().await?.fresh_database().await?;
    let urls = stack::Urls { redis_url: redis.url(), ..(*db).clone() };
    let world = World::on(&urls, &[("TRACEBILITY_ACK", "fsynced")], &[]).await?;
    let org = world.org("ack-classes").await?;
    let message = Corpus::new(5).request(3, now()).body;

    let answer = world.post_otlp(&org.key, message.clone()).await?;
    assert_eq!((answer.status, answer.header("x-tracebility-ack")), (StatusCode::OK, Some("fsynced")));
    let run = json!({"runs": [{"run_id": "11111111-2222-4333-8444-555555555555", "name": "n", "kind": "llm",
        "start_time": "2026-11-21T08:00:00Z"}]});
    let answer = world.post_runs(&org.key, &run).await?;
    assert_eq!((answer.status, answer.header("x-tracebility-ack")), (StatusCode::ACCEPTED, Some("fsynced")));
    let batch = json!({"post": [{"id": "11111111-2222-4333-8444-666666666666", "name": "n", "run_type": "llm",
        "start_time": "2026-11-21T08:00:00Z"}], "patch": []});
    let url = format!("{}/runs/batch", world.api.url());
    let answer = world.http.post(&url, &org.key, "application/json", batch.to_string()).await?;
    assert_eq!((answer.status, answer.header("x-tracebility-ack")), (StatusCode::ACCEPTED, Some("fsynced")));
    let answer = world.post_runs(&org.key, &json!({"runs": []})).await?;
    assert_eq!((answer.status, answer.header("x-tracebility-ack")), (StatusCode::ACCEPTED, None), "nothing was stored");

    let export = format!("{}/opentelemetry.proto.collector.trace.v1.TraceService/Export", world.api.otlp_grpc_url());
    let framed = [&[0][..], &u32::try_from(message.len())?.to_be_bytes(), &message].concat();
    let headers = [("x-api-key", org.key.as_str()), ("content-type", "application/grpc"), ("te", "trailers")];
    let answer = Http::http2().send(Method::POST, &export, &headers, framed).await?;
    assert_eq!((answer.status, answer.header("x-tracebility-ack")), (StatusCode::OK, Some("fsynced")));

    assert_eq!(ready(&world, &world.api.url()).await?.json()?["ack"], "fsynced");
    world.until_drained().await?;
    assert_eq!(world.clickhouse.number("SELECT count() FROM span FINAL").await?, 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_refused_while_redis_would_lose_data() -> anyhow::Result<()> {
    let redis = RedisServer::start(Flavour::Redis, SETTINGS).await?;
    let db = stack::shared().await?.fresh_database().await?;
    let urls = stack::Urls { redis_url: redis.url(), ..(*db).clone() };
    let world = World::on(&urls, &[], &[]).await?;
    let org = world.org("no-aof").await?;
    let message = Corpus::new(6).request(3, now()).body;
    let answer = world.post_otlp(&org.key, message.clone()).await?;
    assert_eq!((answer.status, answer.header("x-tracebility-ack")), (StatusCode::OK, Some("queued")));
    world.until_drained().await?;

    redis.command::<()>(&["CONFIG", "SET", "appendonly", "no"]).await?;
    for url in [world.api.url(), world.api.operator_url(), world.worker.url()] {
        let reply = until_ready_is(&world, &url, StatusCode::SERVICE_UNAVAILABLE).await?;
        assert!(reply["reason"].as_str().unwrap().contains("set appendonly yes"), "{reply}");
    }
    let url = format!("{}/runs/batch", world.api.url());
    let batch = json!({"post": [{"id": "11111111-2222-4333-8444-777777777777", "name": "n", "run_type": "llm",
        "start_time": "2026-11-21T08:00:00Z"}], "patch": []});
    let answer = world.http.post(&url, &org.key, "application/json", batch.to_string()).await?;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.json()?["error"]["code"], "storage_not_ready");
    assert!(answer.header("retry-after").is_some() && answer.header("x-tracebility-ack").is_none());
    assert_eq!(world.waiting().await?.iter().sum::<u64>(), 0);
    let metrics = world.http.send(Method::GET, &format!("{}/metrics", world.api.url()), &[], "").await?;
    assert!(String::from_utf8_lossy(&metrics.body).contains("tracebility_redis_ready 0"));

    redis.command::<()>(&["CONFIG", "SET", "appendonly", "yes"]).await?;
    until_ready_is(&world, &world.api.url(), StatusCode::OK).await?;
    let answer = world.post_otlp(&org.key, message).await?;
    assert_eq!(answer.status, StatusCode::OK);
    Ok(())
}
