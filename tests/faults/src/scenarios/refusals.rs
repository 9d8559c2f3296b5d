//! Tables that refuse everything, views that fail, and dead letters that are full.

use std::time::Duration;

use anyhow::ensure;
use model::shard::{Shard, Waiting};
use stores::keys::RedisKey;

use crate::scene::{Moment, Scene};
use crate::traffic::POISON;

/// How many requests wait when a table begins to refuse everything.
const BACKLOG: [u64; 3] = [200, 600, 20_000];
/// Inserts that may be tried while a table refuses everything, by both workers together. A batch cut into its entries
/// would take two for each entry.
const TRIES_MAX: u64 = 250;
/// How long the dead letters stay full.
const FULL: [Duration; 3] = [Duration::from_secs(4), Duration::from_secs(8), Duration::from_secs(60)];

/// Shards that say that they wait for that.
async fn waiting(scene: &Scene<'_>, wanted: Waiting) -> anyhow::Result<Vec<Shard>> {
    let mut redis = scene.redis().await?;
    let mut waiting = Vec::new();
    for shard in Shard::all() {
        let why = redis::cmd("HGET").arg(RedisKey::shard_lease(shard)).arg("waiting").to_owned();
        let why: Option<String> = why.query_async(&mut redis).await?;
        waiting.extend(why.filter(|why| why == wanted.as_str()).map(|_| shard));
    }
    Ok(waiting)
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
    Ok(())
}

/// A constraint that no row meets, on the second table of a batch, and batches as large as they get.
pub(super) async fn everything(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    stop_workers(scene).await?;
    scene.more(scene.size.of(BACKLOG)).await?;
    scene.alter(&["span"], "ALTER TABLE {} ADD CONSTRAINT nothing CHECK name = 'no span has this name'").await?;
    for number in 0..scene.workers() {
        for (setting, value) in [("BATCH_ROWS_MAX", "200000"), ("BATCH_AGE_MAX", "2s"), ("READ_AHEAD_MAX", "64MiB")] {
            scene.worker(number).set_env(&format!("TRACEBILITY_{setting}"), value);
        }
    }
    start_workers(scene).await?;
    scene
        .until("every shard with entries says that it waits for a table", async || {
            Ok(waiting(scene, Waiting::Table).await?.len() >= 6)
        })
        .await?;
    let mut refused = 0;
    for number in 0..scene.workers() {
        refused += scene.metric(number, "tracebility_insert_failures_total{table=\"span\"}").await? as u64;
    }
    ensure!(refused <= TRIES_MAX, "{refused} inserts were tried on a table that refuses everything");
    scene.alter(&["span"], "ALTER TABLE {} DROP CONSTRAINT nothing").await?;
    scene.recovers(Moment::now()).await?;
    scene.until("no shard waits any more", async || Ok(waiting(scene, Waiting::Table).await?.is_empty())).await?;
    scene.notes.push(format!("{refused} inserts refused, no dead letter"));
    Ok(())
}

/// A materialized view of an operator's that fails for every block, after the table's own part was written or before.
pub(super) async fn throwing_view(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    let view = "CREATE MATERIALIZED VIEW throwing (name String, bad UInt8) ENGINE = MergeTree ORDER BY name AS
                SELECT name, throwIf(1, 'a view of an operator') AS bad FROM span";
    scene.clickhouse().text(view).await?;
    scene.more(60).await?;
    scene.recovers(Moment::now()).await?;
    let mut despite = 0;
    for number in 0..scene.workers() {
        despite += scene.metric(number, "tracebility_stored_despite_error_total{table=\"span\"}").await? as u64;
    }
    scene.clickhouse().text("DROP VIEW throwing SYNC").await?;
    scene.recovers(Moment::now()).await?;
    ensure!(despite > 0, "the view let inserts through: nothing was tried");
    scene.notes.push(format!("{despite} inserts stored although ClickHouse answered with an error"));
    Ok(())
}

/// No room for the second dead letter of a shard, for longer than tokens are trusted, while ClickHouse forgets them;
/// and then a kill, so that the next owner finds a batch of which every row is stored.
pub(super) async fn dead_letters_full(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    stop_workers(scene).await?;
    for number in 0..scene.workers() {
        scene.worker(number).set_env("TRACEBILITY_DLQ_BYTES_MAX", "1MiB");
        scene.worker(number).set_env("TRACEBILITY_TOKEN_TRUST", "2s");
    }
    // What is there already leaves no room.
    let mut redis = scene.redis().await?;
    for shard in Shard::all() {
        let mut fill = redis::cmd("SET");
        fill.arg(RedisKey::shard_dlq_bytes(shard)).arg(1 << 20);
        fill.exec_async(&mut redis).await?;
    }
    scene.alter(&["span"], &format!("ALTER TABLE {{}} ADD CONSTRAINT poison CHECK name != '{POISON}'")).await?;
    scene.traffic.dials.poison(4);
    start_workers(scene).await?;
    scene
        .until("a shard says that it waits for room", async || {
            Ok(!waiting(scene, Waiting::DeadLetters).await?.is_empty())
        })
        .await?;
    // The other shards go on, and ClickHouse forgets what it stored of the waiting ones.
    let tables = ["run", "span", "billing_meter"];
    scene.alter(&tables, "ALTER TABLE {} MODIFY SETTING non_replicated_deduplication_window = 1").await?;
    tokio::time::sleep(scene.size.of(FULL)).await;
    scene.more(20).await?;
    stop_workers(scene).await?;
    for shard in Shard::all() {
        let mut empty = redis::cmd("SET");
        empty.arg(RedisKey::shard_dlq_bytes(shard)).arg(0);
        empty.exec_async(&mut redis).await?;
    }
    // Tokens are of no use to the next owners: they must look.
    start_workers(scene).await?;
    scene.recovers(Moment::now()).await?;
    scene.alter(&tables, "ALTER TABLE {} MODIFY SETTING non_replicated_deduplication_window = 10000").await?;
    scene.more(20).await
}
