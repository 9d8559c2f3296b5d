//! A trickle: 16 requests of one span a second, from 16 orgs in different shards. What it costs to be there.
//!
//! A round has two halves of the same length. In the first, CPU and inserts are counted; in the second, every request
//! is looked for in ClickHouse, which would cost CPU in the first.

use std::sync::Arc;
use std::time::Duration;

use super::figures::Round;
use super::options::Options;
use super::round::{ALL, add_paced, count, settle};
use super::schedule::Schedule;
use super::senders::{open_loop, open_loop_and_look};
use super::shapes::Shape;
use super::target::Target;

/// Orgs, each in a shard of its own.
pub(super) const ORGS: usize = 16;
/// All orgs together.
const REQUESTS_PER_SECOND: f64 = 16.0;
/// The halves have different numbers, so that no id occurs twice.
const LOOKED_FOR_PHASE: u64 = 1 << 32;

/// Measures one round. `number` is that of the round, from 0.
pub(super) async fn measure(
    target: &Arc<Target>,
    shape: &Shape,
    options: &Options,
    number: usize,
) -> anyhow::Result<Round> {
    let (mut round, schedule) = (Round::default(), Schedule::new(REQUESTS_PER_SECOND));
    let requests = schedule.within(Duration::from_secs(options.trickle_seconds as u64));
    let bodies = |phase| shape.bodies_of(requests, phase, |n| n % shape.orgs);
    let spans = (requests * shape.per_request) as u64;

    let (looked_at, looked_for) = (bodies(number as u64)?, bodies(number as u64 | LOOKED_FOR_PHASE)?);
    let stored = count(target).await?;
    let inserts = events(target).await?;
    let before = target.processes.cpu()?;
    let sent = open_loop(target, looked_at, schedule, None).await?;
    let after = target.processes.cpu()?;
    let seconds = sent.took.as_secs_f64();
    let mut all = 0.0;
    for (name, cpu) in &after {
        let spent = cpu.since(before.get(name).copied().unwrap_or_default()).total();
        all += spent;
        round.set(format!("cores {name}"), "cores", spent / seconds);
    }
    round.set(format!("cores {ALL}"), "cores", all / seconds);
    if let Some(inserts) = inserts {
        let now = events(target).await?.unwrap_or_default();
        round.set("inserts", "per second", now.saturating_sub(inserts) as f64 / seconds);
    }
    settle(target, stored.map(|stored| stored + spans)).await?;

    let stored = count(target).await?;
    let (sent, found) = open_loop_and_look(target, looked_for, schedule).await?;
    add_paced(&mut round, "trickle", &sent, &found);
    settle(target, stored.map(|stored| stored + spans)).await?;
    for (name, memory) in target.processes.memory()? {
        round.set(format!("rss {name}"), "MiB", memory.resident as f64 / 1024.0);
    }
    Ok(round)
}

async fn events(target: &Target) -> anyhow::Result<Option<u64>> {
    Ok(match &target.rows {
        Some(rows) => Some(rows.event("InsertQuery").await?),
        None => None,
    })
}
