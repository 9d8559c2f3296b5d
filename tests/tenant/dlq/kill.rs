//! `tracectl dlq` killed at every single request to Redis: what it was at is done by the next run, once.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use queue::dlq::{DeadLetters, Source};
use redis::AsyncCommands;
use stores::keys::RedisKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use url::Url;

use super::{HOUR, command, entries, envelope, is_empty, letter, redis, shard};
use crate::support::World;

/// How long Redis may take to answer the request at which the client is killed.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// A wire to Redis that stops at the n-th thing a client asks.
struct Wire {
    url: String,
    reached: Arc<Notify>,
    _connections: JoinSet<()>,
}

impl Wire {
    /// `is_heard`: whether Redis still hears the n-th request, whose answer the client never gets.
    async fn to(url: &str, nth: usize, is_heard: bool) -> Self {
        let mut url = Url::parse(url).unwrap();
        let server = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap_or(6379));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
        let (seen, reached, mut connections) = (Arc::<AtomicUsize>::default(), Arc::new(Notify::new()), JoinSet::new());
        let notify = Arc::clone(&reached);
        connections.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&server).await.unwrap();
                open.spawn(pass(client, server, Arc::clone(&seen), nth, is_heard, Arc::clone(&notify)));
            }
        });
        Self { url: url.into(), reached, _connections: connections }
    }
}

/// Passes on what the client writes at once, and what Redis answers, until the n-th.
async fn pass(
    client: TcpStream,
    server: TcpStream,
    seen: Arc<AtomicUsize>,
    nth: usize,
    is_heard: bool,
    reached: Arc<Notify>,
) {
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let answered = Arc::new(Notify::new());
    let answers = Arc::clone(&answered);
    let mut answering = JoinSet::new();
    answering.spawn(async move {
        let mut answer = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from_server.read(&mut answer).await {
            answers.notify_one();
            if to_client.write_all(&answer[..read]).await.is_err() {
                break;
            }
        }
    });
    let mut request = vec![0; 256 << 10];
    while let Ok(read @ 1..) = from_client.read(&mut request).await {
        if seen.fetch_add(1, Ordering::SeqCst) + 1 == nth {
            if is_heard {
                // Of an answer that comes now the client perhaps learns, but nobody hears what it asks next.
                _ = tokio::time::timeout(Duration::ZERO, answered.notified()).await;
                to_server.write_all(&request[..read]).await.unwrap();
                tokio::time::timeout(ANSWER_MAX, answered.notified()).await.expect("Redis answers");
            }
            reached.notify_one();
            return std::future::pending().await;
        }
        if to_server.write_all(&request[..read]).await.is_err() {
            return;
        }
    }
}

/// Runs the command through a wire and kills it at its n-th request. False if it ended before.
async fn killed(world: &World, args: &[&str], nth: usize, is_heard: bool) -> bool {
    let wire = Wire::to(&world.db.redis_url, nth, is_heard).await;
    let mut command = command(world);
    command.env("TRACEBILITY_REDIS_URL", &wire.url).args(args).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = tokio::process::Command::from(command).kill_on_drop(true).spawn().unwrap();
    tokio::select! {
        biased;
        () = wire.reached.notified() => {
            child.kill().await.unwrap();
            true
        }
        status = child.wait() => {
            assert!(status.unwrap().success(), "{args:?}, {nth}");
            false
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_replay_neither_loses_nor_doubles_dead_letters() {
    let world = World::new().await;
    let (mut redis, org) = (redis(&world), world.org.org_id);
    let dead_letters = DeadLetters::new(redis.clone());
    let streams = [RedisKey::shard_stream(shard(2)), RedisKey::shard_stream(shard(9)), RedisKey::legacy_stream()];
    let key = &world.registry.envelope_key().await.unwrap();
    let mut kills = 0;
    for is_heard in [false, true] {
        for nth in 1.. {
            let _: () = redis::cmd("FLUSHDB").query_async(&mut redis).await.unwrap();
            let bytes = [envelope(key, org, 1), envelope(key, org, 2), b"{\"project_id\":1}".to_vec()];
            letter(&mut redis, Source::Shard(shard(2)), Some(org), 1, &[], &bytes[0]).await;
            letter(&mut redis, Source::Shard(shard(9)), Some(org), 2, &[], &bytes[1]).await;
            letter(&mut redis, Source::Legacy, None, 0, &[], &bytes[2]).await;
            let is_killed = killed(&world, &["replay", "--all"], nth, is_heard).await;
            let finished = killed(&world, &["replay", "--all"], usize::MAX, false).await;
            assert!(!finished);
            for (stream, bytes) in streams.iter().zip(&bytes) {
                let field = if *stream == RedisKey::legacy_stream() { "data" } else { "e" };
                assert_eq!(entries(&mut redis, stream, field).await, [&bytes[..]], "{stream}, {nth}, {is_heard}");
            }
            for source in Source::all() {
                assert!(is_empty(&dead_letters, source).await, "{source}, {nth}, {is_heard}");
            }
            if !is_killed {
                break;
            }
            kills += 1;
        }
    }
    println!("killed at {kills} requests");
    assert!(kills > 20, "{kills}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_drop_is_counted_once() {
    let world = World::new().await;
    let (mut redis, org) = (redis(&world), world.org.org_id);
    let source = Source::Shard(shard(2));
    let key = &world.registry.envelope_key().await.unwrap();
    let (sum, outcomes) = (RedisKey::shard_dlq_dropped(shard(2), HOUR), RedisKey::outcomes(Some(org), HOUR));
    for is_heard in [false, true] {
        for nth in 1.. {
            let _: () = redis::cmd("FLUSHDB").query_async(&mut redis).await.unwrap();
            for items in [3, 4] {
                letter(&mut redis, source, Some(org), items, &[], &envelope(key, org, items)).await;
            }
            let is_killed = killed(&world, &["drop", "--all", "--yes"], nth, is_heard).await;
            letter(&mut redis, source, Some(org), 5, &[], &envelope(key, org, 5)).await;
            assert!(!killed(&world, &["drop", "--all", "--yes"], usize::MAX, false).await);
            let sums: (u64, u64) = (
                redis.hget(&sum, org.to_string()).await.unwrap(),
                redis.hget(&outcomes, "dlq-2:dead_lettered:dropped").await.unwrap(),
            );
            assert_eq!(sums, (12, 12), "{nth}, {is_heard}");
            assert!(is_empty(&DeadLetters::new(redis.clone()), source).await);
            if !is_killed {
                break;
            }
        }
    }
}
