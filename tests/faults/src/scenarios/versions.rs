//! A column is added: workers and the API of two releases side by side, and back.

use anyhow::ensure;

use crate::hold::When;
use crate::scene::{Moment, Scene};

/// In the environment of a process: the newest version of a table that it knows (schema/wire/src/tables/versions.rs).
const VERSION_MAX: &str = "TEST_TABLE_VERSION_MAX";
/// The version of the older release. That of `run` and `span` after it is the newest.
const OLDER: &str = "2";
/// Requests that wait while no worker runs: half of them from either release of the API.
const BACKLOG: [u64; 3] = [30, 60, 400];

/// Rolls a release out that knows a new column, and back, as the documentation says: workers first, and back the API
/// first.
pub(super) async fn side_by_side(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    // Everything of the older release first. The load has begun with the newer one, so what that has queued goes before
    // its workers.
    scene.world.api.set_env(VERSION_MAX, OLDER);
    scene.world.api.restart().await?;
    scene.recovers(Moment::now()).await?;
    for number in 0..scene.workers() {
        scene.worker(number).set_env(VERSION_MAX, OLDER);
        scene.worker(number).restart().await?;
    }
    scene.settled(scene.workers()).await?;
    scene.more(20).await?;

    // One worker of each release. A batch that one of them has announced is finished by the other.
    scene.worker(0).unset_env(VERSION_MAX);
    killed(scene, 0, When::Before).await?;
    killed(scene, 1, When::Before).await?;

    // Batches with rows of both versions.
    scene.worker(1).unset_env(VERSION_MAX);
    stop_workers(scene).await?;
    backlog(scene, None).await?;
    start_workers(scene).await?;
    killed(scene, 0, When::After).await?;
    let [old, new] = [rows(scene, "=").await?, rows(scene, ">").await?];
    ensure!(old > 0 && new > 0, "{old} spans of the older version and {new} of the newer: not two releases");

    // And back.
    stop_workers(scene).await?;
    backlog(scene, Some(OLDER)).await?;
    start_workers(scene).await?;
    killed(scene, 1, When::After).await?;
    // What the newer release has queued is stored before its last worker goes.
    scene.recovers(Moment::now()).await?;
    scene.worker(1).set_env(VERSION_MAX, OLDER);
    killed(scene, 1, When::Before).await?;
    killed(scene, 0, When::Before).await?;
    scene.worker(0).set_env(VERSION_MAX, OLDER);
    killed(scene, 0, When::Before).await?;
    scene.more(20).await?;
    scene.notes.push(format!("{old} rows of the older version, {new} of the newer before it went back"));
    Ok(())
}

/// Kills a worker before or after its first insert into `span`, which follows those into `run`. After means between two
/// versions, where a batch has both. The other worker, of whichever release, finishes the batch.
async fn killed(scene: &mut Scene<'_>, victim: usize, when: When) -> anyhow::Result<()> {
    let mut held = scene.ways[victim].clickhouse.hold(when, "span");
    held.caught().await?;
    scene.worker(victim).kill().await?;
    let killed = Moment::now();
    scene.settled(scene.workers() - 1).await?;
    scene.recovers(killed).await?;
    drop(held);
    scene.start_worker(victim).await?;
    scene.settled(scene.workers()).await?;
    Ok(())
}

/// Spans whose version compares to [`OLDER`] like that.
async fn rows(scene: &Scene<'_>, comparison: &str) -> anyhow::Result<u64> {
    let sql = format!("SELECT count() FROM span WHERE schema_version {comparison} {OLDER}");
    Ok(scene.clickhouse().text(&sql).await?.trim().parse()?)
}

/// Requests that wait: first of the API as it is, and then of the other release.
async fn backlog(scene: &mut Scene<'_>, then: Option<&str>) -> anyhow::Result<()> {
    let half = scene.size.of(BACKLOG) / 2;
    scene.more(half).await?;
    match then {
        Some(version) => scene.world.api.set_env(VERSION_MAX, version),
        None => scene.world.api.unset_env(VERSION_MAX),
    }
    scene.world.api.restart().await?;
    scene.more(half).await
}

async fn stop_workers(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    for number in 0..scene.workers() {
        scene.worker(number).kill().await?;
    }
    Ok(())
}

async fn start_workers(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    for number in 0..scene.workers() {
        scene.start_worker(number).await?;
    }
    scene.settled(scene.workers()).await?;
    Ok(())
}
