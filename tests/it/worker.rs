//! Nothing that was acknowledged is lost when the worker goes away and comes back in the middle of a load.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use http::StatusCode;
use load::corpus::Corpus;
use model::shard::Shard;
use queue::dlq::{DESCRIPTION_FIELD, Description, Reason};
use stack::{Layout, UpOptions, Urls};
use stores::keys::{INGEST_GROUP, RedisKey};
use tests::{Org, World, now};
use tokio::sync::watch;
use tokio::task::JoinSet;

const SENDERS: u64 = 4;
const SPANS_PER_REQUEST: usize = 20;
/// Between two requests of a sender: the worker, with its small batches, must be able to catch up.
const PAUSE: Duration = Duration::from_millis(10);

/// Small batches, so that the worker is always in the middle of something.
const WORKER: [(&str, &str); 2] = [("TRACEBILITY_BATCH_ROWS_MAX", "200"), ("TRACEBILITY_BATCH_AGE_MAX", "50ms")];

#[tokio::test(flavor = "multi_thread")]
async fn workers_stopped_and_started_under_load_lose_nothing() -> anyhow::Result<()> {
    let world = World::start_with(&[], &WORKER).await?;
    let (world, acked) = under_load(world, async |world| {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(400)).await;
            world.worker.stop().await?;
            tokio::time::sleep(Duration::from_millis(200)).await;
            world.worker.start().await?;
        }
        Ok(())
    })
    .await?;
    check(&world, &acked).await
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_killed_and_started_under_load_lose_nothing() -> anyhow::Result<()> {
    let world = World::start_with(&[], &WORKER).await?;
    let (world, acked) = under_load(world, async |world| {
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            world.worker.kill().await?;
            world.worker.start().await?;
        }
        Ok(())
    })
    .await?;
    check(&world, &acked).await
}

/// Workers need no consumer group: the lease says who reads. Whatever somebody does with one changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn consumer_groups_on_the_stream_change_nothing() -> anyhow::Result<()> {
    let mut world = World::start().await?;
    let org = world.org("a-group").await?;
    let mut redis = world.redis().await?;
    let stream = RedisKey::shard_stream(Shard::home(org.org_id));
    world.worker.stop().await?;
    assert!(world.post_otlp(&org.key, Corpus::new(1).request(10, now()).body).await?.status.is_success());
    let group = |what: &str| redis::cmd("XGROUP").arg(what).arg(stream.as_str()).arg(INGEST_GROUP).to_owned();
    group("CREATE").arg("0").query_async::<()>(&mut redis).await?;
    let mut read = redis::cmd("XREADGROUP");
    read.arg("GROUP").arg(INGEST_GROUP).arg("somebody").arg("STREAMS").arg(stream.as_str()).arg(">");
    read.query_async::<redis::Value>(&mut redis).await?;
    world.worker.start().await?;
    world.until_number("SELECT count() FROM span", 10).await?;
    group("DESTROY").query_async::<()>(&mut redis).await?;
    assert!(world.post_otlp(&org.key, Corpus::new(2).request(10, now()).body).await?.status.is_success());
    world.until_number("SELECT count() FROM span", 20).await?;
    world.until_drained().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_entry_becomes_a_dead_letter_and_holds_up_nothing() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("odd-entries").await?;
    let mut redis = world.redis().await?;
    let shard = Shard::home(org.org_id);
    let (stream, dlq) = (RedisKey::shard_stream(shard), RedisKey::shard_dlq(shard));
    let mut add = redis::cmd("XADD");
    let id: String = add.arg(&stream).arg("*").arg("e").arg("not an envelope").query_async(&mut redis).await?;
    assert!(world.post_otlp(&org.key, Corpus::new(1).request(5, now()).body).await?.status.is_success());
    world.until_drained().await?;
    assert_eq!(world.clickhouse.number("SELECT count() FROM span").await?, 5, "what is readable is stored");
    let parked: redis::streams::StreamRangeReply =
        redis::cmd("XRANGE").arg(&dlq).arg("-").arg("+").query_async(&mut redis).await?;
    let [entry] = parked.ids.as_slice() else { panic!("{parked:?}") };
    assert_eq!(entry.get::<String>("e").unwrap(), "not an envelope", "its bytes are kept");
    let description: Description = serde_json::from_str(&entry.get::<String>(DESCRIPTION_FIELD).unwrap())?;
    assert_eq!((description.entry, description.org, description.reason), (id, None, Reason::Unreadable));
    assert!(description.detail.contains("not an envelope"), "{}", description.detail);

    // More fields than a Lua script can pass on as arguments.
    let mut add = redis::cmd("XADD");
    add.arg(&stream).arg("*");
    (0..10_000).for_each(|field| _ = add.arg(field).arg("x"));
    add.exec_async(&mut redis).await?;
    world.until_drained().await?;
    assert_eq!(redis::cmd("XLEN").arg(&dlq).query_async::<u64>(&mut redis).await?, 2);
    Ok(())
}

/// As after a power cut or a failover that took a commit back. The first shard has more work than the others: its owner
/// also drains what was queued before tenancy.
#[tokio::test(flavor = "multi_thread")]
async fn entries_with_ids_below_those_already_read_are_delivered() -> anyhow::Result<()> {
    let world = World::start().await?;
    let mut redis = world.redis().await?;
    for shard in Shard::all().take(2) {
        let stream = RedisKey::shard_stream(shard);
        let add = |id: &str| redis::cmd("XADD").arg(&stream).arg(id).arg("e").arg("not an envelope").to_owned();
        add("*").exec_async(&mut redis).await?;
        world.until_drained().await?;
        redis::cmd("DEL").arg(&stream).exec_async(&mut redis).await?;
        add("1-1").exec_async(&mut redis).await?;
        world.until_drained().await?;
        let letters = redis::cmd("XLEN").arg(RedisKey::shard_dlq(shard)).query_async::<u64>(&mut redis).await?;
        assert_eq!(letters, 2, "shard {}", shard.number());
    }
    Ok(())
}

/// At its memory ceiling Redis refuses senders, who are told to come again; a worker that starts then must empty it.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_redis_is_emptied() -> anyhow::Result<()> {
    // Servers of its own: the ceiling would stop every other test.
    let dir = tempfile::tempdir()?;
    let layout = Layout::new(dir.path().join("stack"));
    let endpoints = stack::up(&layout, &UpOptions { servers_only: true, build: true }).await?;
    let tested = fill_and_empty(&endpoints.urls).await;
    stack::down(&layout, false).await?;
    tested
}

async fn fill_and_empty(urls: &Urls) -> anyhow::Result<()> {
    let mut world = World::on(urls, &[], &[]).await?;
    let org = world.org("full").await?;
    let mut redis = world.redis().await?;
    world.worker.stop().await?;
    let info: String = redis::cmd("INFO").arg("memory").query_async(&mut redis).await?;
    let used: u64 = info.lines().find_map(|l| l.strip_prefix("used_memory:")).unwrap().trim().parse()?;
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(used + (3 << 20)).query_async::<()>(&mut redis).await?;
    let (mut corpus, mut acked) = (Corpus::new(5), 0);
    let refusal = loop {
        let answer = world.post_otlp(&org.key, corpus.request(20, now()).body).await?;
        if !answer.status.is_success() {
            break answer;
        }
        acked += 20;
        anyhow::ensure!(acked < 100_000, "Redis was never full");
    };
    assert_eq!(refusal.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refusal.header("retry-after"), Some("1"));
    world.worker.start().await?;
    world.until_drained().await?;
    assert_eq!(world.clickhouse.number("SELECT count() FROM span").await?, acked);
    assert!(world.post_otlp(&org.key, corpus.request(20, now()).body).await?.status.is_success(), "and takes again");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn api_drains_on_sigterm() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (world, acked) = under_load(world, async |world| {
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            world.api.stop().await?;
            world.api.start().await?;
        }
        Ok(())
    })
    .await?;
    check(&world, &acked).await
}

/// Sends from several connections while `disturb` runs, and returns the ids of the spans that were answered with 2xx.
async fn under_load(
    world: World,
    disturb: impl AsyncFnOnce(&mut World) -> anyhow::Result<()>,
) -> anyhow::Result<(World, HashSet<String>)> {
    let mut world = world;
    let orgs: Vec<Org> = vec![world.org("load-a").await?, world.org("load-b").await?, world.org("load-c").await?];
    let (done, finished) = watch::channel(false);
    let mut senders = JoinSet::new();
    let (url, http) = (format!("{}/v1/traces", world.api.url()), Arc::new(world.http.clone()));
    for n in 0..SENDERS {
        let (url, http, finished) = (url.clone(), Arc::clone(&http), finished.clone());
        let key = orgs[n as usize % orgs.len()].key.clone();
        senders.spawn(async move {
            let (mut corpus, mut acked) = (Corpus::new(n), HashSet::new());
            while !*finished.borrow() {
                let request = corpus.request(SPANS_PER_REQUEST, now());
                // No answer, or a refusal: nothing was promised. (The API may be restarting.)
                match http.post(&url, &key, "application/x-protobuf", request.body).await {
                    Ok(answer) if answer.status.is_success() => acked.extend(request.span_ids.iter().map(hex)),
                    _ => {}
                }
                tokio::time::sleep(PAUSE).await;
            }
            acked
        });
    }
    disturb(&mut world).await?;
    done.send_replace(true);
    let acked: HashSet<String> = senders.join_all().await.into_iter().flatten().collect();
    anyhow::ensure!(acked.len() > 300, "only {} spans were sent: not a load", acked.len());
    Ok((world, acked))
}

fn hex(id: &[u8; 8]) -> String {
    id.iter().map(|b| format!("{b:02x}")).collect()
}

async fn check(world: &World, acked: &HashSet<String>) -> anyhow::Result<()> {
    world.until_drained().await?;
    let stored = world.clickhouse.text("SELECT right(toString(span_id), 17) FROM span").await?;
    let rows = stored.lines().count();
    // An OTLP span id is the last 16 digits of its UUID, which has a dash after the first four of them.
    let stored: HashSet<String> = stored.lines().map(|id| id.replace('-', "")).collect();
    let lost: Vec<_> = acked.difference(&stored).collect();
    assert!(
        lost.is_empty(),
        "{} of {} acknowledged spans are lost, such as {:?}",
        lost.len(),
        acked.len(),
        lost.first()
    );
    assert_eq!(rows, stored.len(), "a span is there more than once, without FINAL");
    let billed = "SELECT sum(quantity) FROM billing_meter WHERE meter = 'span_ingested'";
    assert_eq!(world.clickhouse.number(billed).await?, rows as u64, "billed, without FINAL");
    let pending = world.waiting().await.context("after the load")?;
    assert!(pending.iter().all(|n| *n == 0));
    Ok(())
}
