//! How long after its 2xx a request can be queried, when nothing else is going on.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use load::corpus::Corpus;
use model::trace::span_uuid;
use tests::{World, now};
use uuid::Uuid;

use crate::scene::PATIENCE;
use crate::servers::Servers;

const REQUESTS: usize = 200;
const ORGS: usize = 8;
/// Between two requests. The orgs take turns, so that each shard is idle for more than a second before each of its own.
const PAUSE: Duration = Duration::from_millis(150);
const POLL_EVERY: Duration = Duration::from_millis(10);

/// Sends single requests with a worker at its default settings, and describes how long they took.
pub async fn measure(servers: &Servers) -> anyhow::Result<String> {
    let world = World::on(&servers.fresh().await?, &[], &[]).await?;
    let mut orgs = Vec::new();
    for n in 0..ORGS {
        orgs.push(world.org(&format!("latency-{n}")).await?);
    }
    let clickhouse = world.clickhouse.clone();
    let watching = tokio::spawn(async move {
        let (mut seen, begun) = (HashMap::new(), Instant::now());
        while seen.len() < REQUESTS && begun.elapsed() < PATIENCE {
            let rows = clickhouse.text("SELECT span_id FROM span").await?;
            let now = Instant::now();
            for row in rows.lines() {
                seen.entry(row.parse::<Uuid>()?).or_insert(now);
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
        anyhow::Ok(seen)
    });
    let (mut corpus, mut acked) = (Corpus::new(1), Vec::new());
    for n in 0..REQUESTS {
        let request = corpus.request(1, now());
        let answer = world.post_otlp(&orgs[n % ORGS].key, request.body).await?;
        anyhow::ensure!(answer.status.is_success(), "the API answered {}", answer.status);
        acked.push((span_uuid(request.span_ids[0]), Instant::now()));
        tokio::time::sleep(PAUSE).await;
    }
    let seen = watching.await??;
    let mut took: Vec<Duration> = acked.iter().filter_map(|(id, at)| Some(seen.get(id)?.duration_since(*at))).collect();
    took.sort();
    let of = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_millis();
    Ok(format!(
        "{} of {REQUESTS} single requests are queryable: p50 {} ms, p90 {} ms, p99 {} ms, at most {} ms after their 2xx",
        took.len(),
        of(0.5),
        of(0.9),
        of(0.99),
        of(1.0)
    ))
}
