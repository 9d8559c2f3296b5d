//! An org under load is moved from shard to shard, through two API processes: nothing that was answered for is lost,
//! its order stays, nobody is told anything but to come again, and nobody else notices.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use auth::invalidate::Invalidator;
use http::StatusCode;
use load::client::Http;
use load::corpus::Corpus;
use model::shard::Shard;
use queue::appender::ShardAppender;
use redis::AsyncCommands;
use redis::streams::StreamRangeReply;
use stack::{Service, Urls};
use stores::keys::RedisKey;
use stores::redis::Redis;
use tests::{STORED_WITHIN, World, now};
use tokio::sync::watch;
use tokio::task::JoinSet;
use transfer::moving::Mover;
use uuid::Uuid;
use wire::envelope::{ENVELOPE_FIELD, claims};

const SENDERS: u64 = 4;
const SPANS_PER_REQUEST: usize = 2;
/// Between two requests of a sender, and before it comes again.
const PAUSE: Duration = Duration::from_millis(10);
/// How long the org is left alone between two moves.
const BETWEEN_MOVES: Duration = Duration::from_millis(400);

/// What one client sent, and how it was answered. It repeats a request until it is accepted, and only then sends the
/// next one.
#[derive(Default)]
struct Sent {
    /// The ids of the envelopes that were answered with 2xx, in order.
    accepted: Vec<Uuid>,
    spans: HashSet<String>,
    refused: usize,
    /// The longest time between two accepted requests.
    longest: Duration,
}

/// Sends over both processes in turn until `stop`.
async fn send(http: Http, urls: [String; 2], key: String, seed: u64, stop: watch::Receiver<bool>) -> Sent {
    let (mut corpus, mut sent, mut last) = (Corpus::new(seed), Sent::default(), Instant::now());
    for turn in 0.. {
        let request = corpus.request(SPANS_PER_REQUEST, now());
        loop {
            let url = &urls[(turn + sent.refused) % urls.len()];
            let answer = http.post(url, &key, "application/x-protobuf", request.body.clone()).await.unwrap();
            if answer.status == StatusCode::OK {
                sent.accepted.push(answer.header("x-request-id").unwrap().parse().unwrap());
                sent.longest = sent.longest.max(last.elapsed());
                last = Instant::now();
                break;
            }
            assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{:?}", answer.body);
            assert_eq!(answer.header("retry-after"), Some("1"));
            assert!(String::from_utf8_lossy(&answer.body).contains("is being moved"), "{:?}", answer.body);
            sent.refused += 1;
            tokio::time::sleep(PAUSE).await;
        }
        sent.spans.extend(request.span_ids.iter().map(|id| id.map(|byte| format!("{byte:02x}")).concat()));
        if *stop.borrow() {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    sent
}

/// Moves an org to other shards and back under load, and returns what its clients sent.
async fn moved_under_load(world: &World) -> anyhow::Result<Vec<Sent>> {
    let second = Service::ingest_api(&world.urls, &[]).await?;
    let urls = [&world.api, &second].map(|api| format!("{}/v1/traces", api.url()));
    let (org, other) = (world.org("moves").await?, world.org("stays").await?);
    let (stop, stopped) = watch::channel(false);
    let mut senders = JoinSet::new();
    for n in 0..SENDERS {
        senders.spawn(send(world.http.clone(), urls.clone(), org.key.clone(), n, stopped.clone()));
    }
    let neighbour = tokio::spawn(send(world.http.clone(), urls.clone(), other.key.clone(), SENDERS, stopped));

    let redis = world.redis().await?;
    let registry = world.registry().await?.announcing(Invalidator::new(redis.clone()));
    let mover = Mover::new(registry.clone(), ShardAppender::new(redis));
    let home = Shard::home(org.org_id);
    let away = |n: u8| Shard::new((home.number() + n) % 16);
    for to in [away(1), away(5), None, away(1), None] {
        tokio::time::sleep(BETWEEN_MOVES).await;
        registry.assign_shard(org.org_id, to).await?;
        mover.finish(org.org_id, STORED_WITHIN, &mut |_| {}).await?;
    }
    tokio::time::sleep(BETWEEN_MOVES).await;
    stop.send_replace(true);
    let sent = senders.join_all().await;
    let neighbour = neighbour.await?;
    let sum = |count: fn(&Sent) -> usize| sent.iter().map(count).sum::<usize>();
    let longest = sent.iter().map(|sent| sent.longest).max().unwrap_or_default();
    println!(
        "5 moves: {} requests accepted, {} refused; the longest a client was refused: {longest:?}, its neighbour {:?}",
        sum(|sent| sent.accepted.len()),
        sum(|sent| sent.refused),
        neighbour.longest
    );
    assert_eq!(neighbour.refused, 0, "an org that stays notices nothing");
    assert!(sent.iter().all(|sent| sent.refused > 0 && sent.accepted.len() > 20), "not a load");
    Ok(sent.into_iter().chain([neighbour]).collect())
}

/// Stores envelopes as a worker does, shard by shard and each shard in order, and notes their ids.
async fn record(mut redis: Redis, stop: watch::Receiver<bool>) -> Vec<Uuid> {
    let mut seen = Vec::new();
    loop {
        let is_last = *stop.borrow();
        for shard in Shard::all() {
            let stream = RedisKey::shard_stream(shard);
            let found: StreamRangeReply = redis.xrange_count(&stream, "-", "+", 50).await.unwrap();
            for entry in found.ids {
                let envelope: Vec<u8> = entry.get(ENVELOPE_FIELD).unwrap();
                seen.push(claims(&envelope).unwrap().header.envelope_id.0);
                redis.xdel::<_, _, ()>(&stream, &[entry.id]).await.unwrap();
            }
        }
        if is_last {
            return seen;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn in_order(urls: &Urls) -> anyhow::Result<()> {
    let mut world = World::on(urls, &[], &[]).await?;
    world.worker.stop().await?;
    let (stop, stopped) = watch::channel(false);
    let recorded = tokio::spawn(record(world.redis().await?, stopped));
    let sent = moved_under_load(&world).await?;
    stop.send_replace(true);
    let recorded = recorded.await?;
    let place: HashMap<Uuid, usize> = recorded.iter().enumerate().map(|(place, id)| (*id, place)).collect();
    let answered: usize = sent.iter().map(|sent| sent.accepted.len()).sum();
    println!("{} envelopes were stored that no client got an answer for", recorded.len() - answered);
    for sent in sent {
        let places: Vec<_> = sent.accepted.iter().map(|id| place.get(id)).collect();
        assert!(places.iter().all(Option::is_some), "lost");
        assert!(places.is_sorted(), "not in the order of the answers");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_org_stays_in_order() -> anyhow::Result<()> {
    in_order(&*stack::shared().await?.fresh_database().await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_org_stays_in_order_on_a_cluster() -> anyhow::Result<()> {
    let db = stack::shared().await?.fresh_database().await?;
    let cluster = stack::RedisCluster::start().await?;
    in_order(&Urls { redis_url: cluster.url().to_owned(), ..(*db).clone() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_a_moved_org_is_stored() -> anyhow::Result<()> {
    let world = World::start().await?;
    let sent = moved_under_load(&world).await?;
    world.until_drained().await?;
    let stored = world.clickhouse.text("SELECT right(toString(span_id), 17) FROM span FINAL").await?;
    let stored: HashSet<String> = stored.lines().map(|id| id.replace('-', "")).collect();
    let lost = sent.iter().flat_map(|sent| &sent.spans).filter(|id| !stored.contains(*id)).count();
    assert_eq!(lost, 0, "spans that were answered for");
    Ok(())
}
