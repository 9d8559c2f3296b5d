//! What crashes workers: one envelope that does is found, and everything else is stored.

use std::time::{Duration, Instant};

use http::Method;
use load::corpus::Corpus;
use model::ids::OrgId;
use model::shard::Shard;
use queue::dlq::{DeadLetters, Listed, Reason, Source, Walk};
use stack::Service;
use tests::{Org, STORED_WITHIN, World, now};
use uuid::Uuid;

/// A lease runs out within three seconds, and a worker may have to be started; so often a crash may happen.
const PATIENCE: Duration = Duration::from_secs(120);

async fn org_in(world: &World, shard: u8, slug: &str) -> anyhow::Result<Org> {
    let ids = std::iter::repeat_with(|| OrgId(Uuid::new_v4()));
    let id = ids.into_iter().find(|id| Shard::home(*id).number() == shard).unwrap();
    world.org_with_id(id, slug).await
}

async fn send(world: &World, org: &Org, spans: usize) -> anyhow::Result<()> {
    let answer = world.post_otlp(&org.key, Corpus::new(now()).request(spans, now()).body).await?;
    anyhow::ensure!(answer.status.is_success(), "{answer:?}");
    Ok(())
}

async fn stored(world: &World, org: &Org) -> anyhow::Result<u64> {
    world.clickhouse.number(&format!("SELECT count() FROM span WHERE org_id = '{}'", org.org_id)).await
}

async fn letters(world: &World, shard: u8) -> anyhow::Result<Vec<Listed>> {
    let shard = Shard::new(shard).unwrap();
    Ok(Walk::new(DeadLetters::new(world.redis().await?), [Source::Shard(shard)]).next().await?.unwrap_or_default())
}

async fn metrics(worker: &Service) -> anyhow::Result<String> {
    let http = load::client::Http::new();
    let answer = http.send(Method::GET, &format!("{}/metrics", worker.url()), &[], "").await?;
    Ok(String::from_utf8_lossy(&answer.body).into_owned())
}

/// Sends to three orgs, of which the worker crashes on one, and waits until that one's envelope is a dead letter.
/// Whoever crashes as a whole is started again, as a supervisor does.
async fn crash(how: &str) -> anyhow::Result<(World, usize)> {
    let mut world = World::start().await?;
    let (bad, same) = (org_in(&world, 3, "crashes").await?, org_in(&world, 3, "same-shard").await?);
    let elsewhere = org_in(&world, 12, "other-shard").await?;
    world.worker.stop().await?;
    world.worker.set_env("TEST_CRASH_ON_ORG", &format!("{}:{how}", bad.org_id));
    for org in [&same, &bad, &same, &elsewhere] {
        send(&world, org, 5).await?;
    }
    let (begun, mut starts) = (Instant::now(), 0);
    while letters(&world, 3).await?.is_empty() {
        anyhow::ensure!(begun.elapsed() < PATIENCE, "no dead letter after {starts} starts:\n{}", world.worker.log());
        if world.worker.pid().is_none() {
            starts += 1;
            // It may crash before it says that it is ready.
            world.worker.start_without_waiting().await?;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.worker.ready().await?;
    world.until_drained().await?;
    for (org, spans) in [(&same, 10), (&bad, 0), (&elsewhere, 5)] {
        assert_eq!(stored(&world, org).await?, spans, "{}", org.org_id);
    }
    let letters = letters(&world, 3).await?;
    let [letter] = &letters[..] else { panic!("{letters:?}") };
    assert_eq!((letter.description.reason, letter.description.org), (Reason::CrashedWorker, Some(bad.org_id)));

    // Nobody is careful any more, and what comes now is stored as ever.
    let calm = Instant::now();
    while !metrics(&world.worker).await?.contains("tracebility_shard_crashes{shard=\"3\"} 0") {
        anyhow::ensure!(calm.elapsed() < STORED_WITHIN, "{}", metrics(&world.worker).await?);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    send(&world, &same, 2).await?;
    world.until_drained().await?;
    assert_eq!(stored(&world, &same).await?, 12);
    Ok((world, starts))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_that_makes_a_worker_panic_becomes_a_dead_letter_and_no_other_shard_waits() -> anyhow::Result<()> {
    let (world, starts) = crash("panic").await?;
    assert_eq!(starts, 1, "a panic ends no worker");
    let metrics = metrics(&world.worker).await?;
    assert!(metrics.contains("tracebility_shard_panics_total{shard=\"3\"} 4"), "{metrics}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_that_makes_workers_abort_becomes_a_dead_letter_after_four_of_them() -> anyhow::Result<()> {
    let (_world, starts) = crash("abort").await?;
    assert_eq!(starts, 5, "four that crash, and one that sets it aside");
    Ok(())
}
