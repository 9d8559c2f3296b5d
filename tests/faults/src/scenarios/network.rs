//! A way to the stores that is worse than none.

use std::time::Duration;

use crate::clickhouse_proxy::Weather;
use crate::redis_proxy;
use crate::scene::{Moment, Scene};

const LASTS: Duration = Duration::from_secs(6);
const LASTS_FULL: Duration = Duration::from_secs(60);

pub(super) async fn lost_replies(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    through(scene, Weather { lost_replies: 0.33, ..Weather::default() }, redis_proxy::Weather::default()).await
}

pub(super) async fn cut_bodies(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    through(scene, Weather { cut: 0.33, ..Weather::default() }, redis_proxy::Weather::default()).await
}

pub(super) async fn slow(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    let clickhouse =
        Weather { delay_max: Duration::from_millis(150), cut: 0.1, lost_replies: 0.1, ..Weather::default() };
    let redis = redis_proxy::Weather { delay_max: Duration::from_millis(30), cut: 0.003 };
    through(scene, clickhouse, redis).await
}

async fn through(scene: &mut Scene<'_>, clickhouse: Weather, redis: redis_proxy::Weather) -> anyhow::Result<()> {
    for ways in &scene.ways {
        ways.clickhouse.weather(clickhouse);
        ways.redis.weather(redis);
    }
    tokio::time::sleep(if scene.is_full { LASTS_FULL } else { LASTS }).await;
    for ways in &scene.ways {
        ways.clickhouse.weather(Weather::default());
        ways.redis.weather(redis_proxy::Weather::default());
    }
    scene.recovers(Moment::now()).await?;
    scene.more(20).await
}
