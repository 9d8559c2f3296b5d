//! What Redis must be like, and what an acknowledgement stands for, on servers of the tests' own.

use std::time::Duration;

use model::ids::OrgId;
use model::shard::Shard;
use model::trace::UnixNanos;
use queue::appender::{Accepted, AppendError, Appended, ShardAppender};
use service::settings::parse;
use stack::{Flavour, RedisServer};
use stores::keys::RedisKey;
use stores::redis::ack::{AckClass, AckPolicy, Wait};
use stores::redis::confirm::{APPENDING, Confirmer};
use stores::redis::readiness::{CheckResult, Readiness, Warning};
use stores::redis::{ConnectError, Redis, connect};
use stores::secret::SecretUrl;
use tokio::task::JoinSet;
use uuid::Uuid;

const FIT: &str = "maxmemory 256mb\nmaxmemory-policy noeviction\nappendonly yes\nappendfsync everysec\nsave \"\"";
const ALWAYS: &str = "maxmemory 256mb\nmaxmemory-policy noeviction\nappendonly yes\nappendfsync always\nsave \"\"";
/// Longer than anything that is waited for here and comes.
const PATIENCE: Duration = Duration::from_secs(30);

fn url(server: &RedisServer) -> SecretUrl {
    parse::redis_url(&server.url()).unwrap()
}

fn redis(server: &RedisServer) -> Redis {
    connect(&url(server)).unwrap()
}

fn policy(class: AckClass, replicas: u8, timeout: Duration) -> AckPolicy {
    AckPolicy { class, replicas, timeout }
}

/// A check that shares nothing with an earlier one.
async fn checked(server: &RedisServer, policy: AckPolicy) -> CheckResult {
    Readiness::new(redis(server), policy).check().await
}

async fn refused(server: &RedisServer, policy: AckPolicy) -> ConnectError {
    let error = checked(server, policy).await.unwrap_err();
    std::sync::Arc::into_inner(error).unwrap()
}

fn fence(server: &RedisServer, policy: AckPolicy) -> ShardAppender {
    let readiness = Readiness::new(redis(server), policy);
    ShardAppender::confirmed(redis(server), Confirmer::new(&url(server), readiness, APPENDING).unwrap())
}

async fn append(fence: &ShardAppender, shard: u8) -> Result<Appended, AppendError> {
    let org = OrgId(Uuid::from_u128(7));
    let received_at: UnixNanos = 1_795_000_000_000_000_000;
    let new = Accepted { org, received_at, items: 3, envelope: b"an envelope" };
    fence.append(Shard::new(shard).unwrap(), &new).await
}

async fn in_stream(server: &RedisServer, shard: u8) -> u64 {
    let stream = RedisKey::shard_stream(Shard::new(shard).unwrap());
    server.command(&["XLEN", stream.as_str()]).await.unwrap()
}

async fn replica_of(primary: &RedisServer) -> RedisServer {
    let settings = format!("{FIT}\nreplicaof 127.0.0.1 {}\nrepl-diskless-sync-delay 0", primary.port());
    let replica = RedisServer::start(Flavour::Valkey, &settings).await.unwrap();
    for _ in 0..600 {
        if primary.info("slave0").await.unwrap().contains("state=online") {
            return replica;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the replica never came online");
}

#[tokio::test]
async fn redis_that_would_lose_acknowledged_data_is_not_ready() {
    let server = RedisServer::start(Flavour::Redis, FIT).await.unwrap();
    let queued = AckPolicy::QUEUED;
    assert_eq!(checked(&server, queued).await.unwrap().warnings, []);
    let set = async |name: &str, value: &str| server.command::<()>(&["CONFIG", "SET", name, value]).await.unwrap();

    set("appendonly", "no").await;
    let error = refused(&server, queued).await;
    assert!(matches!(error, ConnectError::NoAof), "{error}");
    set("appendonly", "yes").await;
    set("appendfsync", "no").await;
    assert!(matches!(refused(&server, queued).await, ConnectError::NoFsync));
    set("appendfsync", "everysec").await;
    set("maxmemory-policy", "volatile-lru").await;
    assert!(matches!(refused(&server, queued).await, ConnectError::Evicts { policy } if policy == "volatile-lru"));
    set("maxmemory-policy", "noeviction").await;
    assert_eq!(checked(&server, queued).await.unwrap().warnings, []);

    set("no-appendfsync-on-rewrite", "yes").await;
    set("maxmemory", "1mb").await;
    assert_eq!(checked(&server, queued).await.unwrap().warnings, [Warning::NoFsyncOnRewrite, Warning::LittleMemory]);
    set("maxmemory", "0").await;
    assert_eq!(checked(&server, queued).await.unwrap().warnings, [Warning::NoFsyncOnRewrite, Warning::NoMaxmemory]);
}

#[tokio::test]
async fn a_replica_is_not_ready() {
    let primary = RedisServer::start(Flavour::Valkey, FIT).await.unwrap();
    let replica = replica_of(&primary).await;
    assert!(matches!(refused(&replica, AckPolicy::QUEUED).await, ConnectError::Replica));
}

#[tokio::test]
async fn redis_that_refuses_config_is_ready_with_a_warning_and_one_that_refuses_info_is_not() {
    let server = RedisServer::start(Flavour::Valkey, FIT).await.unwrap();
    let user = |rights: &'static str| {
        let server = &server;
        async move {
            let mut words = vec!["ACL", "SETUSER", "managed", "on", ">secret", "~*", "&*", "+@all"];
            words.extend(rights.split(' '));
            server.command::<()>(&words).await.unwrap();
            let url = format!("redis://managed:secret@127.0.0.1:{}/", server.port());
            let url = parse::redis_url(&url).unwrap();
            move |policy| Readiness::new(connect(&url).unwrap(), policy)
        }
    };
    let fsynced = policy(AckClass::Fsynced, 0, PATIENCE);

    let no_config = user("-config").await;
    assert_eq!(no_config(AckPolicy::QUEUED).check().await.unwrap().warnings, [Warning::ConfigHidden]);
    assert_eq!(no_config(fsynced).check().await.unwrap().wait, Some(Wait::Disks { replicas: 0 }));
    let no_wait = user("-config -waitaof").await;
    let error = no_wait(fsynced).check().await.unwrap_err();
    assert!(matches!(*error, ConnectError::AckUnavailable { class: AckClass::Fsynced, .. }), "{error}");
    let no_info = user("-info").await;
    let error = no_info(AckPolicy::QUEUED).check().await.unwrap_err();
    assert!(matches!(*error, ConnectError::Unreachable(_)) && error.to_string().contains("info"), "{error}");
}

#[tokio::test]
async fn a_class_that_the_server_cannot_give_is_refused_and_nothing_is_appended() {
    let server = RedisServer::start(Flavour::Redis, FIT).await.unwrap();
    let fsynced = policy(AckClass::Fsynced, 0, PATIENCE);
    let error = refused(&server, fsynced).await.to_string();
    assert!(error.contains("TRACEBILITY_ACK=fsynced") && error.contains("set appendfsync always"), "{error}");
    let appended = append(&fence(&server, fsynced), 3).await;
    assert!(matches!(&appended, Err(AppendError::NotReady(_))), "{appended:?}");

    let replicated = policy(AckClass::Replicated, 1, PATIENCE);
    let error = refused(&server, replicated).await.to_string();
    assert!(error.contains("0 replicas are online") && error.contains("TRACEBILITY_ACK_REPLICAS is 1"), "{error}");
    assert!(append(&fence(&server, replicated), 3).await.is_err());
    assert_eq!(in_stream(&server, 3).await, 0);

    server.command::<()>(&["CONFIG", "SET", "appendfsync", "always"]).await.unwrap();
    assert_eq!(checked(&server, fsynced).await.unwrap().wait, None, "its reply says enough");
    assert_eq!(append(&fence(&server, fsynced), 3).await.unwrap(), Appended::Kept);
    server.command::<()>(&["CONFIG", "SET", "no-appendfsync-on-rewrite", "yes"]).await.unwrap();
    assert!(matches!(refused(&server, fsynced).await, ConnectError::AckUnavailable { .. }));
    server.command::<()>(&["CONFIG", "SET", "appendonly", "no"]).await.unwrap();
    let appended = append(&fence(&server, AckPolicy::QUEUED), 3).await;
    assert!(matches!(&appended, Err(AppendError::NotReady(_))), "{appended:?}");
    assert_eq!(in_stream(&server, 3).await, 1);
}

/// Appends that come at the same time share their waits, each gets its own reply, and all are counted.
#[tokio::test]
async fn concurrent_appends_share_one_wait() {
    const APPENDS: u64 = 400;
    let server = RedisServer::start(Flavour::Valkey, ALWAYS).await.unwrap();
    server.command::<()>(&["CONFIG", "RESETSTAT"]).await.unwrap();
    // The last of its class that needs a wait even where every reply comes after an fsync.
    let replica = replica_of(&server).await;
    let fence = fence(&server, policy(AckClass::Fsynced, 1, PATIENCE));
    let mut appends = JoinSet::new();
    for n in 0..APPENDS {
        let fence = fence.clone();
        appends.spawn(async move { append(&fence, (n % 16) as u8).await });
    }
    for appended in appends.join_all().await {
        assert_eq!(appended.unwrap(), Appended::Kept);
    }
    let mut stored = 0;
    for shard in 0..16 {
        stored += in_stream(&server, shard).await;
    }
    assert_eq!(stored, APPENDS);
    let counts = RedisKey::shard_accepted(Shard::new(3).unwrap(), 1_795_000_000 / 3600);
    let items: u64 = server.command(&["HGET", counts.as_str(), &Uuid::from_u128(7).to_string()]).await.unwrap();
    assert_eq!(items, 3 * APPENDS / 16);
    let stats: String = server.command(&["INFO", "commandstats"]).await.unwrap();
    let waits =
        stats.lines().find_map(|line| line.strip_prefix("cmdstat_waitaof:calls=")?.split(',').next()?.parse().ok());
    let waits: u64 = waits.unwrap();
    assert!(waits > 0 && waits < APPENDS / 2, "{waits} waits for {APPENDS} appends");
    drop(replica);
}

/// A replica that stands still confirms nothing: the append is there, and nobody is told that it is kept. Appends of
/// others and everything else that Redis is asked go on meanwhile.
#[tokio::test]
async fn an_append_that_is_not_confirmed_in_time_is_not_acknowledged_and_stalls_nobody() {
    let primary = RedisServer::start(Flavour::Valkey, FIT).await.unwrap();
    let replica = replica_of(&primary).await;
    let replicated = policy(AckClass::Replicated, 1, Duration::from_secs(2));
    let careful = fence(&primary, replicated);
    assert_eq!(append(&careful, 1).await.unwrap(), Appended::Kept);

    replica.signal("STOP").unwrap();
    let waiting = tokio::spawn({
        let careful = careful.clone();
        async move { append(&careful, 1).await }
    });
    let quick = fence(&primary, AckPolicy::QUEUED);
    let mut others = 0;
    while !waiting.is_finished() {
        assert_eq!(append(&quick, 2).await.unwrap(), Appended::Kept);
        others += 1;
    }
    let outcome = waiting.await.unwrap();
    assert!(matches!(&outcome, Err(AppendError::Unconfirmed(why)) if why.contains("0 of 1 replicas")), "{outcome:?}");
    assert!(others > 10, "{others} appends while one waited");
    assert_eq!(in_stream(&primary, 1).await, 2);

    replica.signal("CONT").unwrap();
    assert_eq!(append(&careful, 1).await.unwrap(), Appended::Kept);
}
