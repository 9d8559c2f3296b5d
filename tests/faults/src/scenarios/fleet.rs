//! Workers that come and go.

use std::time::{Duration, Instant};

use stack::Service;

use crate::scene::{Moment, Scene};

const RESTARTS: [usize; 3] = [6, 20, 100];
/// Requests that are accepted between two restarts.
const BETWEEN: u64 = 40;

/// Every second time a worker is asked to stop, and else killed.
pub(super) async fn rolling(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    let restarts = scene.size.of(RESTARTS);
    let (mut stopping, begun) = (Duration::ZERO, Instant::now());
    for restart in 0..restarts {
        let workers = scene.workers();
        let worker = scene.worker(restart % workers);
        if restart % 2 == 0 {
            let asked = Instant::now();
            worker.stop().await?;
            stopping = stopping.max(asked.elapsed());
        } else {
            worker.kill().await?;
        }
        worker.start().await?;
        scene.more(BETWEEN).await?;
    }
    let took = begun.elapsed().as_secs();
    scene
        .notes
        .push(format!("{restarts} restarts in {took} s, graceful stops took {:.2} s at most", stopping.as_secs_f64()));
    scene.recovers(Moment::now()).await?;
    Ok(())
}

pub(super) async fn started_twice(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    let name = "the-same";
    scene.worker(0).set_env("TRACEBILITY_WORKER_ID", name);
    scene.worker(0).restart().await?;
    let clickhouse = scene.ways[0].clickhouse.url().to_owned();
    let env = [("TRACEBILITY_WORKER_ID", name), ("TRACEBILITY_CLICKHOUSE_URL", clickhouse.as_str())];
    for _ in 0..2 {
        let mut second = Service::ingest_worker(&scene.world.urls, &env).await?;
        scene.settled(2).await?;
        scene.more(BETWEEN).await?;
        second.kill().await?;
        let killed = Moment::now();
        scene.settled(1).await?;
        scene.recovers(killed).await?;
    }
    Ok(())
}
