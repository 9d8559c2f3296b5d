//! Owners of a shard that do not know yet that they are not.

use std::time::Duration;

use crate::hold::{Hold, When};
use crate::redis_proxy::Command;
use crate::scene::{Moment, Scene, Ways};

/// How long a worker stands still. Longer than any lease.
const PAUSED: [Duration; 3] = [Duration::from_secs(4), Duration::from_secs(10), Duration::from_secs(60)];
/// How long a worker that goes on is watched for what it does late.
const AFTERMATH: Duration = Duration::from_secs(2);
/// How often something is late.
const TIMES: [usize; 3] = [1, 2, 6];

pub(super) async fn paused(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    scene.worker(0).signal("STOP")?;
    let stopped = Moment::now();
    let taken_over = scene.settled(1).await?;
    scene.recovers(stopped).await?;
    tokio::time::sleep(scene.size.of(PAUSED)).await;
    scene.worker(0).signal("CONT")?;
    let going_on = Moment::now();
    scene.settled(2).await?;
    scene.recovers(going_on).await?;
    scene.notes.push(format!("taken over within {:.2} s", taken_over.as_secs_f64()));
    Ok(())
}

pub(super) async fn late_insert(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    late(scene, |ways| ways.clickhouse.hold(When::Before, "span")).await
}

pub(super) async fn late_commit(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    late(scene, |ways| ways.redis.hold(When::Before, Command::Commit)).await
}

pub(super) async fn late_announce(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    late(scene, |ways| ways.redis.hold(When::Before, Command::Announce)).await
}

/// Stops a worker that has sent something, holds that until the other worker has stored all of it, and then lets it
/// arrive.
async fn late(scene: &mut Scene<'_>, hold: fn(&Ways) -> Hold) -> anyhow::Result<()> {
    for time in 0..scene.size.of(TIMES) {
        let late = time % 2;
        let mut held = hold(&scene.ways[late]);
        held.caught().await?;
        scene.worker(late).signal("STOP")?;
        let stopped = Moment::now();
        scene.settled(1).await?;
        scene.recovers(stopped).await?;
        held.release();
        tokio::time::sleep(AFTERMATH).await;
        scene.worker(late).signal("CONT")?;
        scene.settled(2).await?;
        tokio::time::sleep(AFTERMATH).await;
    }
    Ok(())
}

pub(super) async fn cut_off(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    for time in 0..scene.size.of(TIMES) {
        let ways = &scene.ways[time % 2];
        ways.redis.gate.shut();
        let cut = Moment::now();
        scene.settled(1).await?;
        scene.recovers(cut).await?;
        scene.ways[time % 2].redis.gate.reopen();
        scene.settled(2).await?;
    }
    Ok(())
}
