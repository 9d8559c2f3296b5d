//! A Redis that dies, or that somebody else works in.

use std::time::Duration;

use model::shard::Shard;
use stack::Name;
use stores::keys::{INGEST_GROUP, RedisKey};

use crate::scene::{Moment, Scene};

/// How often it is killed.
const KILLS: [usize; 3] = [1, 2, 5];

/// It is started from what it had appended to its file, which it does before it replies.
pub(super) async fn killed(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    for _ in 0..scene.size.of(KILLS) {
        scene.servers()?.kill(Name::Redis).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        scene.servers()?.start(Name::Redis).await?;
        scene.recovers(Moment::now()).await?;
        scene.more(20).await?;
    }
    Ok(())
}

pub(super) async fn group_destroyed(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    let redis = scene.redis().await?;
    for _ in 0..3 {
        for shard in Shard::all() {
            let stream = RedisKey::shard_stream(shard);
            let group = |what: &str| redis::cmd("XGROUP").arg(what).arg(&stream).arg(INGEST_GROUP).to_owned();
            group("CREATE").arg("0").arg("MKSTREAM").query_async::<()>(&mut redis.clone()).await?;
            let mut read = redis::cmd("XREADGROUP");
            read.arg("GROUP").arg(INGEST_GROUP).arg("somebody").arg("STREAMS").arg(&stream).arg(">");
            read.query_async::<redis::Value>(&mut redis.clone()).await?;
            group("DESTROY").query_async::<()>(&mut redis.clone()).await?;
        }
        scene.more(10).await?;
    }
    scene.recovers(Moment::now()).await?;
    Ok(())
}
