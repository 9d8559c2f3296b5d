//! A Redis that loses what it has answered: a failover to a replica that is behind, and a kill behind a slow disk.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::redis_fleet;
use crate::redis_fleet::Fleet;
use crate::scene::{Moment, Scene};

/// How long the replica falls behind.
const LAG: [Duration; 3] = [Duration::from_millis(1_500), Duration::from_secs(2), Duration::from_secs(5)];
/// How much longer than usual an fsync takes. Redis postpones a write for two seconds at most, and then it blocks.
const SLOW: Duration = Duration::from_secs(3);
/// How long a load meets the slow disk.
const SLOW_FOR: [Duration; 3] = [Duration::from_secs(8), Duration::from_secs(10), Duration::from_secs(30)];
/// The primary of the cluster that is killed.
const VICTIM: usize = 1;
/// Requests that are accepted afterwards.
const AFTER: u64 = 60;

/// The replica lags, the primary dies, Sentinel or the cluster promotes the replica.
pub(super) async fn lagging(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    match scene.fleet()? {
        Fleet::Sentinel(pair) => pair.lag(),
        Fleet::Cluster(nodes) => redis_fleet::lag(nodes, VICTIM).await?,
        Fleet::SlowDisk(_) => bail!("this scenario's Redis has no replica"),
    }
    tokio::time::sleep(scene.size.of(LAG)).await;
    let killed = Instant::now();
    match scene.fleet()? {
        Fleet::Sentinel(pair) => pair.fail_over().await?,
        Fleet::Cluster(nodes) => redis_fleet::fail_over(nodes, VICTIM).await?,
        Fleet::SlowDisk(_) => bail!("this scenario's Redis has no replica"),
    }
    scene.notes.push(format!("failed over within {:.1} s", killed.elapsed().as_secs_f64()));
    match scene.fleet_mut()? {
        Fleet::Sentinel(pair) => pair.mend().await?,
        Fleet::Cluster(nodes) => redis_fleet::mend(nodes, VICTIM).await?,
        Fleet::SlowDisk(_) => bail!("this scenario's Redis has no replica"),
    }
    goes_on(scene).await
}

/// An fsync takes seconds; then Redis is killed, and started again on what it had written.
pub(super) async fn slow_fsync(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    let Fleet::SlowDisk(slow) = scene.fleet()? else { bail!("this scenario's Redis has no slow disk") };
    let postponed = async || slow.server.info("aof_delayed_fsync").await;
    let before = postponed().await?;
    slow.delay(SLOW)?;
    tokio::time::sleep(scene.size.of(SLOW_FOR)).await;
    scene.until("Redis postpones writes", async || Ok(postponed().await? != before)).await?;
    let ready = format!("{}/readyz", scene.world.api.url());
    scene
        .until("/readyz warns of postponed writes", async || {
            let answer = scene.world.http.send(http::Method::GET, &ready, &[], "").await?;
            Ok(answer.status.is_success() && String::from_utf8_lossy(&answer.body).contains("aof_delayed_fsync"))
        })
        .await?;
    slow.server.kill().await?;
    slow.delay(Duration::ZERO)?;
    match scene.fleet_mut()? {
        Fleet::SlowDisk(slow) => slow.server.start_again().await?,
        _ => bail!("this scenario's Redis has no slow disk"),
    }
    goes_on(scene).await
}

/// From here on everything is kept again, whatever was lost before.
async fn goes_on(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    scene.more(1).await.context("accepting again")?;
    scene.mended = Some(Instant::now());
    scene.more(AFTER).await?;
    scene.recovers(Moment::now()).await?;
    Ok(())
}
