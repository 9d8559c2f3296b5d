//! A way to the stores that is worse than none.

use std::time::Duration;

use crate::clickhouse_proxy::Weather;
use crate::redis_proxy;
use crate::scene::{Moment, Scene, TABLES};

const LASTS: [Duration; 3] = [Duration::from_secs(4), Duration::from_secs(6), Duration::from_secs(60)];
/// Of a narrow way, a second and connection.
const NARROW_BYTES: usize = 200 << 10;
/// How long a backlog grows before.
const BACKLOG: Duration = Duration::from_secs(3);
/// How much slower the load is then: its entries need the way, too.
const SLOWER: u64 = 8;

pub(super) async fn lost_replies(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    through(scene, Weather { lost_replies: 0.33, ..Weather::default() }, redis_proxy::Weather::default()).await
}

pub(super) async fn forgetful(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    let forget = "ALTER TABLE {} MODIFY SETTING non_replicated_deduplication_window = 0";
    scene.alter(&TABLES, forget).await?;
    lost_replies(scene).await
}

/// Somebody copies rows by hand: what is there twice must be seen.
pub(super) async fn copied_rows(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    scene.recovers(Moment::now()).await?;
    scene.alter(&["span", "billing_meter"], "INSERT INTO {} SELECT * FROM {} LIMIT 5").await
}

pub(super) async fn cut_bodies(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    through(scene, Weather { cut: 0.33, ..Weather::default() }, redis_proxy::Weather::default()).await
}

pub(super) async fn slow(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    let clickhouse =
        Weather { delay_max: Duration::from_millis(150), cut: 0.1, lost_replies: 0.1, ..Weather::default() };
    let redis =
        redis_proxy::Weather { delay_max: Duration::from_millis(30), cut: 0.003, ..redis_proxy::Weather::default() };
    through(scene, clickhouse, redis).await
}

/// A backlog behind a way that is so narrow that no reply of the usual size comes through it in time.
pub(super) async fn narrow(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    scene.ways.iter().for_each(|ways| ways.clickhouse.gate.shut());
    tokio::time::sleep(BACKLOG).await;
    let weather = redis_proxy::Weather { bytes_per_second: NARROW_BYTES, ..redis_proxy::Weather::default() };
    scene.ways.iter().for_each(|ways| ways.redis.weather(weather));
    scene.traffic.dials.slower(SLOWER);
    // Whatever was read before is read anew, through the narrow way.
    for number in 0..scene.workers() {
        scene.worker(number).kill().await?;
        scene.ways[number].clickhouse.gate.reopen();
        scene.start_worker(number).await?;
    }
    scene.recovers(Moment::now()).await?;
    scene.ways.iter().for_each(|ways| ways.redis.weather(redis_proxy::Weather::default()));
    Ok(())
}

async fn through(scene: &mut Scene<'_>, clickhouse: Weather, redis: redis_proxy::Weather) -> anyhow::Result<()> {
    for ways in &scene.ways {
        ways.clickhouse.weather(clickhouse);
        ways.redis.weather(redis);
    }
    tokio::time::sleep(scene.size.of(LASTS)).await;
    for ways in &scene.ways {
        ways.clickhouse.weather(Weather::default());
        ways.redis.weather(redis_proxy::Weather::default());
    }
    scene.recovers(Moment::now()).await?;
    scene.more(20).await
}
