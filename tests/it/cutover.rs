//! The rehearsal of `docs/operations/cutover.md`: an old release fills the legacy stream, the worker drains it while it
//! is killed and an org moves, the stream is closed without a restart, somebody writes to it all the same, and it is
//! opened again.

use std::time::{Duration, Instant};

use anyhow::Context;
use http::Method;
use legacy::{Switch, SwitchError};
use model::shard::Shard;
use queue::appender::ShardAppender;
use queue::dlq::{DESCRIPTION_FIELD, DeadLetters, Description, LEGACY_FIELD, Reason, Source, Walk};
use redis::AsyncCommands;
use redis::streams::StreamRangeReply;
use registry::flags::{Flag, Flags};
use serde_json::{Value, json};
use service::settings::parse;
use stack::Urls;
use stores::keys::{INGEST_GROUP, RedisKey};
use stores::redis::Redis;
use tests::{Org, STORED_WITHIN, World};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use transfer::moving::Mover;
use uuid::Uuid;

/// Between two entries of the old release.
const PAUSE: Duration = Duration::from_millis(4);
const POLL_EVERY: Duration = Duration::from_millis(20);
/// Small batches, so that the worker is always in the middle of something.
const WORKER: [(&str, &str); 2] = [("TRACEBILITY_BATCH_ROWS_MAX", "100"), ("TRACEBILITY_BATCH_AGE_MAX", "50ms")];
/// What every envelope says of when it was received.
const RECEIVED_AT: &str = "2026-11-01T10:00:00.123456+00:00";

/// An entry as a release from before tenancy wrote it: one run with two spans. `whose` is what that release knew of its
/// org.
fn entry(project: Uuid, whose: &Value) -> Value {
    let span = || json!({"span_id": Uuid::new_v4(), "name": "s", "kind": "tool", "start_time": "2026-11-01T10:00:00Z"});
    let run = json!({
        "run_id": Uuid::new_v4(), "name": "r", "kind": "chain", "start_time": "2026-11-01T10:00:00Z",
        "end_time": "2026-11-01T10:00:01Z", "spans": [span(), span()],
    });
    let mut entry = json!({
        "project_id": project, "received_at": RECEIVED_AT, "source": "native",
        "payload": {"schema_version": 1, "sdk": "old", "runs": [run], "spans": []},
    });
    for (field, value) in whose.as_object().into_iter().flatten() {
        entry[field] = value.clone();
    }
    entry
}

async fn add(redis: &mut Redis, data: &str) -> anyhow::Result<()> {
    let mut command = redis::cmd("XADD");
    command.arg(RedisKey::legacy_stream()).arg("*").arg(LEGACY_FIELD).arg(data);
    Ok(command.exec_async(redis).await?)
}

/// What an old release wrote.
#[derive(Default)]
struct Written {
    good: u64,
    bad: u64,
}

/// Writes for every org in turn until `stop`, with and without their ids, and now and then what nobody can store.
fn write(mut redis: Redis, orgs: Vec<Org>, stop: watch::Receiver<bool>) -> JoinHandle<anyhow::Result<Written>> {
    tokio::spawn(async move {
        let mut written = Written::default();
        for turn in 0usize.. {
            if *stop.borrow() {
                break;
            }
            let org = &orgs[turn % orgs.len()];
            let (project, known) = (org.project_id.0, json!({"org_id": org.org_id, "workspace_id": org.workspace_id}));
            let (data, is_good) = match turn % 25 {
                7 => (entry(Uuid::new_v4(), &known).to_string(), false),
                15 => (entry(project, &json!({"org_id": Uuid::new_v4()})).to_string(), false),
                20 => ("{\"project_id\":".to_owned(), false),
                n if n % 2 == 0 => (entry(project, &known).to_string(), true),
                _ => (entry(project, &json!({})).to_string(), true),
            };
            add(&mut redis, &data).await?;
            written.good += u64::from(is_good);
            written.bad += u64::from(!is_good);
            tokio::time::sleep(PAUSE).await;
        }
        Ok(written)
    })
}

fn switch(urls: &Urls, redis: &Redis) -> anyhow::Result<Switch> {
    let dsn = parse::postgres_url(&urls.pg_app_dsn).map_err(anyhow::Error::msg)?;
    Ok(Switch::new(redis.clone(), Flags::new(stores::postgres::pool(&dsn)?)))
}

/// Waits until nothing is left in the legacy stream.
async fn until_nothing_is_left(world: &World) -> anyhow::Result<()> {
    let (redis, begun) = (world.redis().await?, Instant::now());
    loop {
        let backlog = legacy::read_backlog(&redis).await?;
        if backlog.is_empty() {
            return Ok(());
        }
        anyhow::ensure!(begun.elapsed() < STORED_WITHIN, "still there: {backlog:?}\n{}", world.worker.log());
        tokio::time::sleep(POLL_EVERY).await;
    }
}

/// Waits until the worker says so many stragglers.
async fn until_straggling(world: &World, wanted: u64) -> anyhow::Result<()> {
    let line = format!("tracebility_legacy_entries{{state=\"straggling\"}} {wanted}");
    let begun = Instant::now();
    loop {
        let answer = world.http.send(Method::GET, &format!("{}/metrics", world.worker.url()), &[], "").await?;
        let metrics = String::from_utf8(answer.body.to_vec())?;
        if metrics.lines().any(|found| found == line) {
            return Ok(());
        }
        anyhow::ensure!(begun.elapsed() < STORED_WITHIN, "{line} is not in\n{metrics}");
        tokio::time::sleep(POLL_EVERY).await;
    }
}

/// Every good envelope's rows are there once, counted without FINAL, and every bad one is a dead letter.
async fn check(world: &World, written: &Written) -> anyhow::Result<()> {
    until_nothing_is_left(world).await?;
    world.until_drained().await?;
    for (query, wanted) in [
        ("SELECT count() FROM run", written.good),
        ("SELECT uniqExact(run_id) FROM run", written.good),
        ("SELECT count() FROM span", 2 * written.good),
        ("SELECT uniqExact(span_id) FROM span", 2 * written.good),
        ("SELECT count() FROM billing_meter WHERE meter = 'span_ingested'", written.good),
        ("SELECT sum(quantity) FROM billing_meter WHERE meter = 'span_ingested'", 3 * written.good),
        ("SELECT count() FROM run WHERE received_at != '2026-11-01 10:00:00.123456'", 0),
    ] {
        assert_eq!(world.clickhouse.number(query).await?, wanted, "{query}");
    }
    assert_eq!(letters(world).await?.len() as u64, written.bad, "dead letters");
    Ok(())
}

/// The legacy stream's dead letters.
async fn letters(world: &World) -> anyhow::Result<Vec<(Description, String)>> {
    let found: StreamRangeReply = world.redis().await?.xrange_all(RedisKey::legacy_dlq()).await?;
    let letter = |entry: &redis::streams::StreamId| {
        let description: String = entry.get(DESCRIPTION_FIELD).context("a description")?;
        Ok((serde_json::from_str(&description)?, entry.get(LEGACY_FIELD).context("its bytes")?))
    };
    found.ids.iter().map(letter).collect()
}

async fn rehearse(world: &mut World) -> anyhow::Result<()> {
    let mut redis = world.redis().await?;
    let orgs = [world.org("north").await?, world.org("south").await?, world.org("east").await?];
    let switch = switch(&world.urls, &redis)?;

    // An old release writes throughout; the worker is killed, and an org moves to another shard and back.
    let (stop, stopped) = watch::channel(false);
    let writing = write(redis.clone(), orgs.to_vec(), stopped);
    let registry = world.registry().await?;
    let mover = Mover::new(registry.clone(), ShardAppender::new(redis.clone()));
    let away = Shard::new((Shard::home(orgs[0].org_id).number() + 1) % 16);
    for to in [away, None] {
        tokio::time::sleep(Duration::from_millis(300)).await;
        registry.assign_shard(orgs[0].org_id, to).await?;
        world.worker.kill().await?;
        world.worker.start().await?;
        mover.finish(orgs[0].org_id, STORED_WITHIN, &mut |_| {}).await?;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    world.worker.kill().await?;

    // With nobody there to drain it, it cannot be closed.
    add(&mut redis, &entry(orgs[1].project_id.0, &json!({})).to_string()).await?;
    let refused = switch.close("a test").await;
    assert!(matches!(refused, Err(SwitchError::NotEmpty(_))), "{refused:?}");
    world.worker.start().await?;
    stop.send_replace(true);
    let mut written = writing.await??;
    written.good += 1;
    println!("{} good envelopes and {} bad ones", written.good, written.bad);
    assert!(written.good > 100 && written.bad > 10, "not a load");
    check(world, &written).await?;
    let found = letters(world).await?;
    for reason in [Reason::UnknownProject, Reason::WrongOrg, Reason::Unreadable] {
        let (letter, data) = found.iter().find(|(letter, _)| letter.reason == reason).context(reason.as_str())?;
        assert!(letter.org.is_none() && data.starts_with('{'), "{letter:?}");
    }

    // It is closed while the worker runs; who writes then is noticed, and nothing is lost.
    let pid = world.worker.pid();
    assert!(switch.close("a test").await? && !switch.close("a test").await?);
    let late = entry(orgs[2].project_id.0, &json!({})).to_string();
    add(&mut redis, &late).await?;
    until_straggling(world, 1).await?;
    assert_eq!(legacy::read_backlog(&redis).await?.entries, 1, "it stays where it is");

    // The way back.
    assert!(switch.reopen("a test").await? && !switch.reopen("a test").await?);
    written.good += 1;
    check(world, &written).await?;
    assert_eq!(world.worker.pid(), pid, "no restart was needed");

    // A dead letter that is sent again is judged again.
    let dead_letters = DeadLetters::new(redis.clone());
    let listed = Walk::new(dead_letters.clone(), [Source::Legacy]).next().await?.context("a page")?;
    let letter = dead_letters.read(listed[0].id).await?.context("a letter")?;
    dead_letters.replay(&letter, &world.registry().await?.envelope_key().await?).await?;
    check(world, &written).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cutover_loses_and_doubles_nothing() -> anyhow::Result<()> {
    let mut world = World::start_with(&[], &WORKER).await?;
    rehearse(&mut world).await?;
    let flags = Flags::new(stores::postgres::pool(&parse::postgres_url(&world.urls.pg_app_dsn).unwrap())?);
    let state = flags.state(Flag::DualReadLegacy).await?.context("it was flipped")?;
    assert_eq!((state.enabled, state.by.as_str()), (true, "a test"));
    let switches = "SELECT count() FROM audit_log WHERE event_type = 'flag.change' AND target = 'dual_read_legacy'";
    world.until_number(switches, 2).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cutover_loses_and_doubles_nothing_on_a_cluster() -> anyhow::Result<()> {
    let db = stack::shared().await?.fresh_database().await?;
    let cluster = stack::RedisCluster::start().await?;
    let urls = Urls { redis_url: cluster.url().to_owned(), ..(*db).clone() };
    rehearse(&mut World::on(&urls, &[], &WORKER).await?).await
}

/// A worker of an older release acknowledges in a consumer group. While it is there nobody else reads; what it held is
/// stored when it is gone.
#[tokio::test(flavor = "multi_thread")]
async fn the_cutover_waits_for_a_worker_of_an_older_release() -> anyhow::Result<()> {
    let mut world = World::start_with(&[], &WORKER).await?;
    let mut redis = world.redis().await?;
    let org = world.org("older").await?;
    world.worker.stop().await?;
    let stream = RedisKey::legacy_stream();
    add(&mut redis, &entry(org.project_id.0, &json!({})).to_string()).await?;
    add(&mut redis, &entry(org.project_id.0, &json!({})).to_string()).await?;
    let group = |what: &str| redis::cmd("XGROUP").arg(what).arg(&stream).arg(INGEST_GROUP).to_owned();
    group("CREATE").arg("0").exec_async(&mut redis).await?;
    let mut read = redis::cmd("XREADGROUP");
    read.arg("GROUP").arg(INGEST_GROUP).arg("old").arg("COUNT").arg(1).arg("STREAMS").arg(&stream).arg(">");
    read.exec_async(&mut redis).await?;
    let backlog = legacy::read_backlog(&redis).await?;
    assert_eq!(
        (backlog.entries, backlog.groups[0].pending, backlog.old_reader().is_some()),
        (2, 1, true),
        "{backlog:?}"
    );
    let refused = switch(&world.urls, &redis)?.close("a test").await;
    assert!(matches!(refused, Err(SwitchError::OtherReader(_))), "{refused:?}");

    world.worker.start().await?;
    let begun = Instant::now();
    while !world.worker.log().contains("a worker of an older release reads the legacy stream") {
        anyhow::ensure!(begun.elapsed() < STORED_WITHIN, "{}", world.worker.log());
        tokio::time::sleep(POLL_EVERY).await;
    }
    assert_eq!(legacy::read_backlog(&redis).await?.entries, 2, "nobody else reads meanwhile");
    // It asks for nothing more. What it held is stored, and acknowledged in its place.
    check(&world, &Written { good: 2, bad: 0 }).await
}
