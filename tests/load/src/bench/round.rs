//! One round of one shape: full load, until all is stored and merged; then half of it, by the clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::figures::Round;
use super::latency::percentile;
use super::options::Options;
use super::processes::{Cpu, GENERATOR, own_cpu};
use super::schedule::Schedule;
use super::senders::{Sent, closed_loop, open_loop_and_look};
use super::shapes::Shape;
use super::target::Target;

/// The process that is read a second time, when its merges are done.
pub(super) const CLICKHOUSE: &str = "clickhouse";
/// What it is called then.
pub(super) const CLICKHOUSE_MERGED: &str = "clickhouse, merged";
/// All processes but the load generator, ClickHouse with its merges.
pub(super) const ALL: &str = "all";
/// How long the half load lasts, unless the round has too few requests for it.
const PACED_FOR: Duration = Duration::from_secs(5);
/// Fewest requests of the half load: the 99th percentile needs 100.
const PACED_REQUESTS_MIN: usize = 100;
/// What is sent before anything is counted, so that connections are open, keys are known and code is warm.
const WARM_UP_REQUESTS: usize = 200;
/// The same, in spans: nothing here is compiled or cached per span, but tables and their merges are.
const WARM_UP_SPANS: usize = 10_000;
/// Phases have different numbers, so that no id occurs twice.
const PACED_PHASE: u64 = 1 << 32;
const WARM_UP_PHASE: u64 = 1 << 33;
const KEYS_PHASE: u64 = 1 << 34;
const MIB: f64 = 1024.0 * 1024.0;

/// Sends what is not counted: a span from every org, whose key is known from then on, and then requests of the shape.
pub(super) async fn warm_up(target: &Arc<Target>, shape: &Shape, options: &Options) -> anyhow::Result<()> {
    let before = count(target).await?;
    let single = Shape { per_request: 1, ..shape.clone() };
    closed_loop(target, single.bodies_of(shape.orgs, KEYS_PHASE, |n| n)?, options.connections).await?;
    let requests = WARM_UP_REQUESTS.max(WARM_UP_SPANS / shape.per_request).min(shape.requests(options));
    closed_loop(target, shape.bodies(requests, WARM_UP_PHASE)?, options.connections).await?;
    let spans = shape.orgs + requests * shape.per_request;
    settle(target, before.map(|before| before + spans as u64)).await
}

/// Measures one round. `number` is that of the round, from 0.
pub(super) async fn measure(
    target: &Arc<Target>,
    shape: &Shape,
    options: &Options,
    number: usize,
) -> anyhow::Result<Round> {
    let (mut round, requests) = (Round::default(), shape.requests(options));
    let phase = number as u64;
    let bodies = shape.bodies(requests, phase)?;
    let spans = (requests * shape.per_request) as f64;
    round.set("wire bytes", "B/span", bodies.iter().map(|one| one.body.len()).sum::<usize>() as f64 / spans);

    target.processes.forget_peaks()?;
    let stored = count(target).await?;
    let (disk, inserts) = match &target.rows {
        Some(rows) => (rows.disk().await?, rows.event("InsertQuery").await?),
        None => (BTreeMap::new(), 0),
    };
    let (before, own_before, begun) = (target.processes.cpu()?, own_cpu()?, Instant::now());
    let sent = closed_loop(target, bodies, options.connections).await?;
    add_cpu(&mut round, GENERATOR, own_cpu()?.since(own_before), spans);
    round.set("answered", "spans/s", spans / sent.took.as_secs_f64());
    add_latencies(&mut round, "ack, full load", &sent.latencies);

    let wanted = stored.map(|stored| stored + spans as u64);
    let mut capacity = spans / sent.took.as_secs_f64();
    if let (Some(rows), Some(wanted)) = (&target.rows, wanted) {
        let lag = rows.until_stored(wanted).await?;
        capacity = spans / begun.elapsed().as_secs_f64();
        round.set("stored", "spans/s", capacity);
        round.set("stored after the last answer", "ms", lag.as_secs_f64() * 1e3);
    }
    let after = target.processes.cpu()?;
    let mut all = 0.0;
    for (name, cpu) in &after {
        let spent = cpu.since(before.get(name).copied().unwrap_or_default());
        all += if name == CLICKHOUSE && target.rows.is_some() { 0.0 } else { spent.total() };
        add_cpu(&mut round, name, spent, spans);
    }
    if let (Some(rows), Some(wanted)) = (&target.rows, wanted) {
        let merged = rows.until_merged(|| target.processes.cpu()).await?;
        if let (Some(now), Some(before)) = (merged.reading.get(CLICKHOUSE), before.get(CLICKHOUSE)) {
            all += now.since(*before).total();
            add_cpu(&mut round, CLICKHOUSE_MERGED, now.since(*before), spans);
        }
        round.set("merged after stored", "s", merged.took.as_secs_f64());
        round.notes.extend(merged.note());
        rows.check(wanted).await?;
        round.set("inserts", "per 1000 spans", (rows.event("InsertQuery").await? - inserts) as f64 * 1e3 / spans);
        add_disk(&mut round, &disk, &rows.disk().await?, spans);
    }
    round.set(format!("cpu {ALL}"), "us/span", all * 1e6 / spans);
    for (name, memory) in target.processes.memory()? {
        round.set(format!("rss {name}"), "MiB", memory.resident as f64 / 1024.0);
        round.set(format!("rss peak {name}"), "MiB", memory.peak as f64 / 1024.0);
    }
    round.set_known("redis used_memory_peak", "MiB", target.redis_peak().await?.map(|bytes| bytes / MIB));
    half_load(target, shape, requests, capacity, phase | PACED_PHASE, &mut round).await?;
    Ok(round)
}

/// Sends half of the spans per second that were just stored, by the clock.
async fn half_load(
    target: &Arc<Target>,
    shape: &Shape,
    requests: usize,
    capacity: f64,
    phase: u64,
    round: &mut Round,
) -> anyhow::Result<()> {
    let schedule = Schedule::new(capacity / 2.0 / shape.per_request as f64);
    let count_of_requests = schedule.within(PACED_FOR).min(requests).max(PACED_REQUESTS_MIN);
    let bodies = shape.bodies(count_of_requests, phase)?;
    let stored = count(target).await?;
    let (sent, found) = open_loop_and_look(target, bodies, schedule).await?;
    let spans = count_of_requests * shape.per_request;
    round.set("half load", "spans/s", spans as f64 / sent.took.as_secs_f64());
    add_paced(round, "half load", &sent, &found);
    settle(target, stored.map(|stored| stored + spans as u64)).await.context("after the half load")
}

/// Waits until all is stored and merged, so that the next phase begins in quiet.
pub(super) async fn settle(target: &Target, wanted: Option<u64>) -> anyhow::Result<()> {
    if let (Some(rows), Some(wanted)) = (&target.rows, wanted) {
        rows.until_stored(wanted).await?;
        rows.until_merged(|| Ok(())).await?;
        rows.check(wanted).await?;
    }
    Ok(())
}

/// Rows that are stored, where that can be asked.
pub(super) async fn count(target: &Target) -> anyhow::Result<Option<u64>> {
    Ok(match &target.rows {
        Some(rows) => Some(rows.count().await?),
        None => None,
    })
}

/// Latencies of an open loop, how late it sent, and how soon a sample was queryable.
pub(super) fn add_paced(round: &mut Round, load: &str, sent: &Sent, found: &[Duration]) {
    add_latencies(round, &format!("ack, {load}"), &sent.latencies);
    round.set_known(format!("sent late, {load} p99"), "ms", percentile(&sent.late, 990));
    add_latencies(round, &format!("queryable, {load}"), found);
}

fn add_latencies(round: &mut Round, name: &str, values: &[Duration]) {
    for (percent, per_mille) in [("p50", 500), ("p99", 990), ("p999", 999)] {
        round.set_known(format!("{name} {percent}"), "ms", percentile(values, per_mille));
    }
}

fn add_cpu(round: &mut Round, name: &str, cpu: Cpu, spans: f64) {
    round.set(format!("cpu {name}"), "us/span", cpu.total() * 1e6 / spans);
    round.set(format!("cpu user {name}"), "us/span", cpu.user * 1e6 / spans);
    round.set(format!("cpu system {name}"), "us/span", cpu.system * 1e6 / spans);
}

/// What this round has added to each table.
fn add_disk(round: &mut Round, before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>, spans: f64) {
    let mut all = 0.0;
    for (table, bytes) in after {
        let added = bytes - before.get(table).copied().unwrap_or_default();
        all += added;
        round.set(format!("disk {table}"), "B/span", added / spans);
    }
    round.set(format!("disk {ALL}"), "B/span", all / spans);
}
