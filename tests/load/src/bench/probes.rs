//! From answer to queryable: a sample of requests, looked for in ClickHouse until they are found.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::sync::mpsc;

use super::clickhouse::Rows;

/// Most requests of one phase that are looked for.
pub(super) const PROBES_MAX: usize = 500;
/// How often to look, for all of them in one query: the resolution of the figures.
const POLL_EVERY: Duration = Duration::from_millis(20);
/// How long a request may take to be found.
const QUERYABLE_WITHIN: Duration = Duration::from_secs(60);

/// A request that was answered with a 2xx.
#[derive(Clone, Debug)]
pub(super) struct Acked {
    /// The id of its last span.
    pub(super) id: String,
    /// When the answer had come.
    pub(super) at: Instant,
}

/// Every how many of so many requests is looked for: so often that none is left out for being slow.
pub(super) fn stride(requests: usize) -> usize {
    requests.div_ceil(PROBES_MAX).max(1)
}

/// Looks for requests until the other side hangs up and all were found. Returns the time that each took.
pub(super) async fn watch(rows: Rows, mut acked: mpsc::Receiver<Acked>) -> anyhow::Result<Vec<Duration>> {
    let template = rows.probe_sql.as_ref().context("there is no query to look for a span")?;
    let (mut waiting, mut found, mut is_open) = (HashMap::<String, Instant>::new(), Vec::new(), true);
    while is_open || !waiting.is_empty() {
        loop {
            match acked.try_recv() {
                Ok(one) => _ = waiting.insert(one.id, one.at),
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) => {
                    is_open = false;
                    break;
                }
            }
        }
        if !waiting.is_empty() {
            let ids: Vec<_> = waiting.keys().map(|id| format!("'{id}'")).collect();
            let answer = rows.clickhouse.text(&template.replace("{ids}", &ids.join(","))).await?;
            let now = Instant::now();
            found.extend(answer.lines().filter_map(|id| Some(now - waiting.remove(id.trim())?)));
        }
        if let Some(oldest) = waiting.values().min().filter(|at| at.elapsed() > QUERYABLE_WITHIN) {
            bail!(
                "{} requests are not in ClickHouse {} s after their answers; look into the logs, and at --probe-sql",
                waiting.len(),
                oldest.elapsed().as_secs()
            );
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_never_exceeds_the_limit() {
        for requests in [0, 1, 499, 500, 501, 12_345] {
            let probes = (0..requests).step_by(stride(requests)).count();
            assert!(probes <= PROBES_MAX && (requests < PROBES_MAX || probes > PROBES_MAX / 2), "{requests}: {probes}");
        }
    }
}
