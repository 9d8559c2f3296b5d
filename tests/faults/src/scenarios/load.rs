//! Much to do, in batches as large as they are in production.

use std::time::{Duration, Instant};

use stack::Name;

use crate::scene::{Moment, Scene};
use crate::traffic::send_all;

/// How long the soak lasts.
const SOAK: [Duration; 3] = [Duration::from_secs(15), Duration::from_secs(60), Duration::from_secs(900)];
/// Between two kills, in milliseconds.
const BETWEEN_KILLS: std::ops::Range<u64> = 2_000..8_000;
/// Senders that do not pause, beside the usual load.
const SENDERS: usize = 8;
/// Spans of their requests.
const SPANS: usize = 50;
/// Requests of a round of them: at most so much is noted at a time.
const ROUND: usize = 400;

/// How many orgs send one span each, for each [`crate::scene::Size`].
const ORGS: [u32; 3] = [1_000, 10_000, 10_000];
/// Of each the others sends one span; the one that floods sends so many for each of these.
const FLOOD: usize = 4;
/// Spans of a request of the one that floods.
const FLOOD_SPANS: usize = 40;
/// How long all of them may be sent.
const FLOOD_WITHIN: [Duration; 3] = [Duration::from_secs(30), Duration::from_secs(90), Duration::from_secs(300)];

/// Default batches, and whatever comes to mind is killed.
pub(super) async fn soak(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    scene.usual_batches().await?;
    let (begun, lasts) = (Instant::now(), scene.size.of(SOAK));
    let org = scene.world.org("soak").await?;
    let (http, url) = (scene.world.http.clone(), scene.world.api.url());
    let flood = tokio::spawn(async move {
        let (mut sent, requests) = (Vec::new(), vec![(org, SPANS); ROUND]);
        while begun.elapsed() < lasts {
            sent.extend(send_all(&http, &url, &requests, SENDERS, lasts.saturating_sub(begun.elapsed())).await);
        }
        sent
    });
    let mut kills = 0;
    while begun.elapsed() < lasts {
        tokio::time::sleep(Duration::from_millis(rand::random_range(BETWEEN_KILLS))).await;
        match (rand::random_range(0..8), scene.servers) {
            (0, Some(servers)) => {
                servers.kill(Name::Clickhouse).await?;
                servers.start(Name::Clickhouse).await?;
            }
            (1, Some(servers)) => {
                servers.kill(Name::Redis).await?;
                servers.start(Name::Redis).await?;
            }
            (2, _) => {
                scene.world.api.kill().await?;
                scene.world.api.start().await?;
            }
            (of, _) => {
                let victim = of % scene.workers();
                scene.worker(victim).kill().await?;
                scene.start_worker(victim).await?;
            }
        }
        kills += 1;
    }
    scene.sent_besides = flood.await?;
    scene.notes.push(format!("{kills} kills in {} s", lasts.as_secs()));
    scene.recovers(Moment::now()).await?;
    Ok(())
}

/// One org of thousands sends four fifths of everything.
pub(super) async fn one_org_floods(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    scene.usual_batches().await?;
    let begun = Instant::now();
    let mut orgs = scene.world.orgs_in_bulk(scene.size.of(ORGS)).await?;
    let made = begun.elapsed();
    let Some(flooding) = orgs.pop() else { return Ok(()) };
    let mut requests = Vec::new();
    for some in orgs.chunks(FLOOD_SPANS / FLOOD) {
        requests.push((flooding.clone(), FLOOD_SPANS));
        requests.extend(some.iter().map(|org| (org.clone(), 1)));
    }
    let url = scene.world.api.url();
    let sent = send_all(&scene.world.http, &url, &requests, SENDERS, scene.size.of(FLOOD_WITHIN)).await;
    let acked = sent.iter().filter(|sent| sent.acked).count();
    scene.notes.push(format!(
        "{} orgs made in {:.1} s, {acked} of {} requests accepted",
        orgs.len() + 1,
        made.as_secs_f64(),
        requests.len()
    ));
    anyhow::ensure!(acked * 2 > requests.len(), "not a flood: {}", scene.notes.join("; "));
    scene.sent_besides = sent;
    scene.recovers(Moment::now()).await?;
    Ok(())
}
