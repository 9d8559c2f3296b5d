//! Processes that end at the worst moment.

use std::time::Duration;

use crate::hold::{Hold, When};
use crate::redis_proxy::Command;
use crate::scene::{Moment, Scene, Ways};

/// How often a process is killed at a point.
const KILLS: [usize; 3] = [1, 3, 10];
/// The same of the API, which is back at once.
const API_KILLS: [usize; 3] = [2, 6, 30];

pub(super) async fn before_insert(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    at(scene, |ways| ways.clickhouse.hold(When::Before, "run")).await
}

pub(super) async fn between_tables(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    at(scene, |ways| ways.clickhouse.hold(When::Before, "span")).await
}

pub(super) async fn after_insert(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    at(scene, |ways| ways.clickhouse.hold(When::After, "billing_meter")).await
}

pub(super) async fn before_commit(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    at(scene, |ways| ways.redis.hold(When::Before, Command::Commit)).await
}

pub(super) async fn after_commit(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    at(scene, |ways| ways.redis.hold(When::After, Command::Commit)).await
}

/// Kills one worker and then the other when it has come to a point. What was held is lost.
async fn at(scene: &mut Scene<'_>, hold: fn(&Ways) -> Hold) -> anyhow::Result<()> {
    let mut taken_over = Duration::ZERO;
    for victim in victims(scene) {
        let mut held = hold(&scene.ways[victim]);
        held.caught().await?;
        taken_over = taken_over.max(kill(scene, victim).await?);
        drop(held);
        scene.start_worker(victim).await?;
        scene.settled(scene.workers()).await?;
    }
    scene.notes.push(format!("taken over within {:.2} s", taken_over.as_secs_f64()));
    Ok(())
}

pub(super) async fn at_random(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    let mut taken_over = Duration::ZERO;
    for victim in victims(scene) {
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..1_000))).await;
        taken_over = taken_over.max(kill(scene, victim).await?);
        scene.start_worker(victim).await?;
        scene.settled(scene.workers()).await?;
    }
    scene.notes.push(format!("taken over within {:.2} s", taken_over.as_secs_f64()));
    Ok(())
}

/// One worker and then the other, as often as one is killed.
fn victims(scene: &Scene<'_>) -> impl Iterator<Item = usize> + use<> {
    let workers = scene.workers();
    (0..scene.size.of(KILLS)).map(move |kill| kill % workers)
}

/// Kills a worker and waits until the others have its shards, and have stored what was waiting in them. Says how long
/// the former took.
async fn kill(scene: &mut Scene<'_>, victim: usize) -> anyhow::Result<Duration> {
    scene.worker(victim).kill().await?;
    let killed = Moment::now();
    let taken_over = scene.settled(scene.workers() - 1).await?;
    scene.recovers(killed).await?;
    Ok(taken_over)
}

pub(super) async fn api(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    for _ in 0..scene.size.of(API_KILLS) {
        tokio::time::sleep(Duration::from_millis(rand::random_range(100..600))).await;
        scene.world.api.kill().await?;
        scene.world.api.start().await?;
        scene.more(5).await?;
    }
    scene.recovers(Moment::now()).await?;
    Ok(())
}
