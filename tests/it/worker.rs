//! Nothing that was acknowledged is lost when the worker goes away and comes back in the middle of a load.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use load::corpus::Corpus;
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
async fn stopped_and_started_in_mid_load() -> anyhow::Result<()> {
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
    check(&world, &acked).await?;
    // A graceful stop finishes what it began, so nothing was inserted twice either.
    assert_eq!(world.clickhouse.number("SELECT count() FROM span").await?, acked.len() as u64, "rows, without FINAL");
    let billed = "SELECT sum(quantity) FROM billing_meter WHERE meter = 'span_ingested'";
    assert_eq!(world.clickhouse.number(billed).await?, acked.len() as u64, "billed, without FINAL");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_and_started_in_mid_load() -> anyhow::Result<()> {
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
    // A batch that was inserted but not acknowledged is inserted again; until batches are re-formed exactly, FINAL is what
    // makes the rows one.
    check(&world, &acked).await
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
                    Ok(answer) if answer.status.is_success() => acked.extend(request.span_ids.iter().map(|id| hex(id))),
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
    anyhow::ensure!(acked.len() > 1_000, "only {} spans were sent: not a load", acked.len());
    Ok((world, acked))
}

fn hex(id: &[u8; 8]) -> String {
    id.iter().map(|b| format!("{b:02x}")).collect()
}

async fn check(world: &World, acked: &HashSet<String>) -> anyhow::Result<()> {
    world.until_drained().await?;
    let stored = world.clickhouse.text("SELECT right(toString(span_id), 17) FROM span FINAL").await?;
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
    assert_eq!(rows, stored.len(), "a span is there more than once, even with FINAL");
    let pending = world.waiting().await.context("after the load")?;
    assert!(pending.iter().all(|n| *n == 0));
    Ok(())
}
