//! The power goes: what a store had confirmed and not synced is gone.

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use stack::{Extra, Name};

use crate::power_cut::PowerCut;
use crate::scene::{Expects, Moment, Scene, TABLES};

/// How often it goes.
const CUTS: [usize; 3] = [1, 2, 10];
/// Requests that are accepted, and stored as far as they are, before each.
const BEFORE: u64 = 120;
/// How long the machine is away.
const AWAY: Duration = Duration::from_secs(1);

/// Nothing happens to be written before it is synced.
fn nothing(_: &Path) -> bool {
    false
}

/// ClickHouse's memory of tokens is. It notes a token before the part of it has its name, and never syncs that.
fn tokens(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "deduplication_logs")
}

pub(super) async fn clickhouse(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    cut(scene, Name::Clickhouse, "", nothing).await
}

pub(super) async fn clickhouse_tokens_written(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    cut(scene, Name::Clickhouse, "", tokens).await
}

/// Without the settings of the tables: if nothing were lost then, the others would show nothing.
pub(super) async fn clickhouse_unsynced(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    scene.expects = Expects::Loss;
    scene.alter(&TABLES, "ALTER TABLE {} MODIFY SETTING fsync_after_insert = 0, fsync_part_directory = 0").await?;
    cut(scene, Name::Clickhouse, "", nothing).await
}

pub(super) async fn redis_always(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    cut(scene, Name::Redis, "appendfsync always\n", nothing).await
}

/// What a power cut takes of that is acknowledged is counted, and is no failure: the documentation promises no more.
pub(super) async fn redis_everysec(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    scene.expects = Expects::Anything;
    cut(scene, Name::Redis, "appendfsync everysec\n", nothing).await
}

async fn cut(scene: &mut Scene<'_>, name: Name, redis_conf: &str, written: fn(&Path) -> bool) -> anyhow::Result<()> {
    let servers = scene.servers()?;
    let mut power = PowerCut::build(&servers.directory(name))?;
    let extra = Extra { environment: power.environment(), redis_conf: redis_conf.to_owned() };
    servers.kill(name).await?;
    servers.start_with(name, extra.clone()).await?;
    let mut total = 0;
    for _ in 0..scene.size.of(CUTS) {
        scene.recovers(Moment::now()).await?;
        power.settle()?;
        scene.more(BEFORE).await?;
        servers.kill(name).await?;
        let dropped = power.cut(written)?;
        total += dropped.removed + dropped.renamed + dropped.shortened;
        scene.notes.push(format!(
            "{name}: {} files and directories gone, {} renamed back, {} shorter",
            dropped.removed, dropped.renamed, dropped.shortened
        ));
        tokio::time::sleep(AWAY).await;
        servers.start_with(name, extra.clone()).await?;
    }
    ensure!(total > 0, "no cut took anything: nothing was tried");
    scene.recovers(Moment::now()).await?;
    scene.more(20).await?;
    servers.kill(name).await?;
    servers.start(name).await
}
