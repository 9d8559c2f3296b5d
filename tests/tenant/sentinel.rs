//! A connection that follows a failover.

use std::time::{Duration, Instant};

use redis::AsyncCommands;
use service::settings::parse;
use stack::{Flavour, RedisServer};
use stores::keys::RedisKey;
use stores::redis::ack::AckPolicy;
use stores::redis::readiness::Readiness;
use stores::redis::{ConnectError, Subscription, connect};

const SETTINGS: &str =
    "maxmemory 64mb\nmaxmemory-policy noeviction\nappendonly yes\nsave \"\"\nrepl-diskless-sync-delay 0";
/// Nothing here takes nearly as long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks again until there is an answer.
async fn until<T, E: std::fmt::Display>(what: &str, mut ask: impl AsyncFnMut() -> Result<T, E>) -> T {
    let begun = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{what}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_connection_follows_the_primary_that_sentinel_names() {
    let primary = RedisServer::start(Flavour::Valkey, SETTINGS).await.unwrap();
    let replica = format!("{SETTINGS}\nreplicaof 127.0.0.1 {}", primary.port());
    let replica = RedisServer::start(Flavour::Valkey, &replica).await.unwrap();
    let watched =
        format!("sentinel monitor traces 127.0.0.1 {} 1\nsentinel down-after-milliseconds traces 1000", primary.port());
    let sentinel = RedisServer::start(Flavour::Sentinel, &watched).await.unwrap();
    until("Sentinel knows the replica", async || {
        let known: Vec<redis::Value> = sentinel.command(&["SENTINEL", "REPLICAS", "traces"]).await.unwrap();
        if known.len() == 1 && primary.info("slave0").await.unwrap().contains("state=online") {
            Ok(())
        } else {
            Err("no")
        }
    })
    .await;

    let url = format!("redis-sentinel://127.0.0.1:1/traces?nodes=127.0.0.1:{}", sentinel.port());
    let url = parse::redis_url(&url).unwrap();
    let mut redis = connect(&url).unwrap();
    let key = RedisKey::api_key_epoch();
    redis.set::<_, _, ()>(&key, 7).await.unwrap();
    redis::cmd("WAIT").arg(1).arg(10_000).exec_async(&mut redis).await.unwrap();
    let channel = RedisKey::api_key_invalidate();
    let mut heard = Subscription::open(&url, &channel).await.unwrap();

    primary.kill().await.unwrap();
    assert_eq!(heard.next().await, None, "whoever listens must listen again");
    let after: u64 = until("a write after the failover", async || redis.incr(&key, 1).await).await;
    assert_eq!(after, 8);
    assert_eq!(replica.info("role").await.unwrap(), "master");
    let mut heard = until("listening again", async || Subscription::open(&url, &channel).await).await;
    redis.publish::<_, _, ()>(&channel, "hello").await.unwrap();
    assert_eq!(heard.next().await.as_deref(), Some("hello"));
    assert_eq!(Readiness::new(redis, AckPolicy::QUEUED).check().await.unwrap().wait, None);
}

#[tokio::test]
async fn a_sentinel_that_does_not_know_the_name_is_reported() {
    let sentinel = RedisServer::start(Flavour::Sentinel, "").await.unwrap();
    let url = format!("redis-sentinel://127.0.0.1:{}/unknown", sentinel.port());
    let redis = connect(&parse::redis_url(&url).unwrap()).unwrap();
    let error = Readiness::new(redis, AckPolicy::QUEUED).check().await.unwrap_err();
    assert!(matches!(*error, ConnectError::Unreachable(_)), "{error}");
}
