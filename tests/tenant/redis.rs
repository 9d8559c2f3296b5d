//! Redis as a service meets it: one node, and a cluster of three.

use model::ids::OrgId;
use model::shard::Shard;
use redis::{AsyncCommands, Script};
use service::settings::parse;
use stack::RedisCluster;
use stores::keys::RedisKey;
use stores::redis::ack::AckPolicy;
use stores::redis::readiness::Readiness;
use stores::redis::{ConnectError, Redis, connect};
use uuid::Uuid;

use crate::support::empty;

fn ready(connection: &Redis) -> Readiness {
    Readiness::new(connection.clone(), AckPolicy::QUEUED)
}

/// Everything that services do with a connection: commands, pipelines of one slot, scripts, keys of every slot.
async fn takes_typed_keys(mut connection: Redis) {
    let fit = ready(&connection).check().await.unwrap();
    assert_eq!((fit.wait, fit.warnings), (None, vec![]));
    for shard in Shard::all() {
        let stream = RedisKey::shard_stream(shard);
        let id: String = connection.xadd(&stream, "*", &[("d", b"x".as_slice())]).await.unwrap();
        let mut pipe = redis::pipe();
        pipe.cmd("XLEN").arg(&stream).cmd("XDEL").arg(&stream).arg(id);
        let (before, deleted): (u64, u64) = pipe.query_async(&mut connection).await.unwrap();
        assert_eq!((before, deleted), (1, 1), "{stream}");
    }
    let script = Script::new("return {redis.call('INCRBY', KEYS[1], ARGV[1]), redis.call('EXISTS', KEYS[2])}");
    for _ in 0..32 {
        let org = OrgId(Uuid::new_v4());
        let (used, over) = (RedisKey::quota(org, 202_611, "span_ingested"), RedisKey::quota_over(org, 202_611));
        let answer: (u64, u64) = script.key(&used).key(&over).arg(7).invoke_async(&mut connection).await.unwrap();
        assert_eq!(answer, (7, 0), "the keys of an org share a slot");
    }
}

#[tokio::test]
async fn a_safe_redis_passes_and_takes_typed_keys() {
    let db = empty().await;
    takes_typed_keys(connect(&parse::redis_url(&db.redis_url).unwrap()).unwrap()).await;
}

#[tokio::test]
async fn a_cluster_passes_and_takes_typed_keys() {
    let cluster = RedisCluster::start().await.unwrap();
    takes_typed_keys(connect(&parse::redis_url(cluster.url()).unwrap()).unwrap()).await;
}

#[tokio::test]
async fn one_node_of_a_cluster_that_evicts_is_noticed() {
    let cluster = RedisCluster::start().await.unwrap();
    let last = cluster.url().rsplit(',').next().unwrap();
    let mut node =
        redis::Client::open(format!("redis://{last}/")).unwrap().get_multiplexed_async_connection().await.unwrap();
    redis::cmd("CONFIG").arg("SET").arg("maxmemory-policy").arg("allkeys-lru").exec_async(&mut node).await.unwrap();
    let connection = connect(&parse::redis_url(cluster.url()).unwrap()).unwrap();
    let error = ready(&connection).check().await.unwrap_err();
    assert!(matches!(&*error, ConnectError::Evicts { policy } if policy == "allkeys-lru"), "{error}");
}

#[tokio::test]
async fn an_absent_redis_is_reported_in_time_and_without_its_password() {
    for url in [
        "redis://:hunter2@127.0.0.1:1/0",
        "redis-cluster://:hunter2@127.0.0.1:1/?nodes=127.0.0.1:2",
        "redis-sentinel://:hunter2@127.0.0.1:1/name?nodes=127.0.0.1:2&sentinel_password=hunter2",
    ] {
        let connection = connect(&parse::redis_url(url).unwrap()).unwrap();
        let error = ready(&connection).check().await.unwrap_err();
        assert!(matches!(*error, ConnectError::Unreachable(_)), "{error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    }
}
