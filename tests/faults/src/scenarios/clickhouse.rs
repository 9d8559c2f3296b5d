//! A ClickHouse that does not take inserts for a while.

use std::time::{Duration, Instant};

use anyhow::Context;
use stack::Name;

use crate::clickhouse_proxy::Weather;
use crate::scene::{Moment, Scene};

const OUTAGE: [Duration; 3] = [Duration::from_secs(2), Duration::from_secs(4), Duration::from_secs(30)];
const LONG_OUTAGE: [Duration; 3] = [Duration::from_secs(15), Duration::from_secs(30), Duration::from_secs(600)];
/// How much slower the load is in such an outage: Redis is not to be full before its end.
const SLOWER: [u64; 3] = [1, 1, 10];
/// How often ClickHouse is killed.
const KILLS: [usize; 3] = [1, 2, 5];
/// Until then the windows fill up; from then on memory is compared.
const FILLED: Duration = Duration::from_secs(5);
/// By how much a worker may be larger at the end of an outage than it was when its windows were full, in bytes.
const GROWTH_MAX: u64 = 48 << 20;
const SAMPLE_EVERY: Duration = Duration::from_millis(500);

async fn outage(scene: &Scene<'_>) {
    tokio::time::sleep(scene.size.of(OUTAGE)).await;
}

async fn recovered(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    scene.recovers(Moment::now()).await?;
    scene.more(20).await
}

pub(super) async fn killed(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    for _ in 0..scene.size.of(KILLS) {
        scene.servers()?.kill(Name::Clickhouse).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        scene.servers()?.start(Name::Clickhouse).await?;
        recovered(scene).await?;
    }
    Ok(())
}

pub(super) async fn refusing(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    scene.ways.iter().for_each(|ways| ways.clickhouse.gate.shut());
    outage(scene).await;
    scene.ways.iter().for_each(|ways| ways.clickhouse.gate.reopen());
    recovered(scene).await
}

pub(super) async fn read_only(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    // Not the first table, so that batches are caught between two.
    let tables = ["span", "billing_meter"];
    scene.alter(&tables, "ALTER TABLE {} MODIFY SETTING table_readonly = 1").await?;
    outage(scene).await;
    scene.alter(&tables, "ALTER TABLE {} MODIFY SETTING table_readonly = 0").await?;
    recovered(scene).await?;
    with_settings(scene, "readonly=1").await
}

pub(super) async fn out_of_memory(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    with_settings(scene, "max_memory_usage=1000").await
}

async fn with_settings(scene: &mut Scene<'_>, settings: &'static str) -> anyhow::Result<()> {
    scene.ways.iter().for_each(|ways| ways.clickhouse.weather(Weather { settings, ..Weather::default() }));
    outage(scene).await;
    scene.ways.iter().for_each(|ways| ways.clickhouse.weather(Weather::default()));
    recovered(scene).await
}

pub(super) async fn too_many_parts(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    let tables = ["span", "run"];
    scene.alter(&tables, "ALTER TABLE {} MODIFY SETTING parts_to_throw_insert = 1").await?;
    outage(scene).await;
    scene.alter(&tables, "ALTER TABLE {} MODIFY SETTING parts_to_throw_insert = 1000000").await?;
    recovered(scene).await
}

pub(super) async fn outage_memory(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    let lasts = scene.size.of(LONG_OUTAGE);
    scene.traffic.dials.slower(scene.size.of(SLOWER));
    let pid = scene.worker(0).pid().context("the worker does not run")?;
    scene.servers()?.kill(Name::Clickhouse).await?;
    let (begun, mut early, mut late) = (Instant::now(), 0, 0);
    let before = resident(pid)?;
    while begun.elapsed() < lasts {
        tokio::time::sleep(SAMPLE_EVERY).await;
        let of = if begun.elapsed() < lasts / 2 { &mut early } else { &mut late };
        if begun.elapsed() > FILLED {
            *of = resident(pid)?.max(*of);
        }
    }
    scene.servers()?.start(Name::Clickhouse).await?;
    let mib = |bytes: u64| bytes >> 20;
    scene.notes.push(format!(
        "resident: {} MiB before, at most {} MiB in the first and {} MiB in the second half of {} s",
        mib(before),
        mib(early),
        mib(late),
        lasts.as_secs()
    ));
    recovered(scene).await?;
    anyhow::ensure!(late < early + GROWTH_MAX, "the worker grew: {}", scene.notes.join("; "));
    Ok(())
}

/// The resident memory of a process, in bytes.
fn resident(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}
