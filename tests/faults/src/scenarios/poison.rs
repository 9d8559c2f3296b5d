//! Envelopes that can never be stored.

use model::shard::Shard;
use stores::keys::RedisKey;

use crate::scene::{Moment, Scene};
use crate::traffic::POISON;

/// Requests of which ClickHouse refuses a span.
const POISONED: u64 = 8;

pub(super) async fn poison(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    let constraint = format!("ALTER TABLE {{}} ADD CONSTRAINT poison CHECK name != '{POISON}'");
    scene.alter(&["span"], &constraint).await?;
    scene.traffic.dials.poison(POISONED);
    let mut redis = scene.redis().await?;
    for shard in Shard::all() {
        let mut add = redis::cmd("XADD");
        add.arg(RedisKey::shard_stream(shard)).arg("*").arg("e").arg("not an envelope");
        add.query_async::<String>(&mut redis).await?;
        scene.unreadable += 1;
    }
    scene.until("all poison is sent", async || Ok(scene.traffic.dials.poison_left() == 0)).await?;
    scene.more(20).await?;
    scene.recovers(Moment::now()).await?;
    scene.notes.push(format!("{POISONED} poisoned requests and {} unreadable entries", scene.unreadable));
    Ok(())
}
