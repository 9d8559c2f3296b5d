//! Sending: as fast as answers come (closed loop), or at times that were set before (open loop).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::probes::{Acked, PROBES_MAX, stride};
use super::schedule::Schedule;
use super::shapes::Sending;
use super::target::Target;

/// Most requests of an open loop that are under way at a time. One that has to wait for another is late, and that
/// counts.
const UNDER_WAY_MAX: usize = 1_024;

/// What was sent, and all of it answered with a 2xx.
#[derive(Clone, Debug, Default)]
pub(super) struct Sent {
    /// How long each answer took: of a closed loop from sending, of an open loop from when it was to be sent.
    pub(super) latencies: Vec<Duration>,
    /// How much later than intended each was sent; none in a closed loop.
    pub(super) late: Vec<Duration>,
    /// From the first request to the last answer.
    pub(super) took: Duration,
}

/// Sends each body once, so many at a time.
pub(super) async fn closed_loop(
    target: &Arc<Target>,
    bodies: Vec<Sending>,
    connections: usize,
) -> anyhow::Result<Sent> {
    let (bodies, next) = (Arc::new(bodies), Arc::new(AtomicUsize::new(0)));
    let begun = Instant::now();
    let mut senders = JoinSet::new();
    for _ in 0..connections {
        let (target, bodies, next) = (Arc::clone(target), Arc::clone(&bodies), Arc::clone(&next));
        senders.spawn(async move {
            let mut latencies = Vec::new();
            while let Some(body) = bodies.get(next.fetch_add(1, Ordering::Relaxed)) {
                let sent = Instant::now();
                target.send(body.clone()).await?;
                latencies.push(sent.elapsed());
            }
            anyhow::Ok(latencies)
        });
    }
    let mut latencies = Vec::with_capacity(bodies.len());
    while let Some(ended) = senders.join_next().await {
        // The others are dropped with the set.
        latencies.extend(ended??);
    }
    Ok(Sent { latencies, late: Vec::new(), took: begun.elapsed() })
}

/// Sends each body once, at its time. A sample of what was answered goes to `acked`.
pub(super) async fn open_loop(
    target: &Arc<Target>,
    bodies: Vec<Sending>,
    schedule: Schedule,
    acked: Option<mpsc::Sender<Acked>>,
) -> anyhow::Result<Sent> {
    let under_way = Arc::new(Semaphore::new(UNDER_WAY_MAX));
    let (begun, every) = (Instant::now(), stride(bodies.len()));
    let mut sending = JoinSet::new();
    let mut sent = Sent::default();
    for (n, body) in bodies.into_iter().enumerate() {
        let intended = begun + schedule.at(n);
        tokio::time::sleep_until(intended).await;
        let permit = Arc::clone(&under_way).acquire_owned().await?;
        let (target, acked) = (Arc::clone(target), acked.clone().filter(|_| n % every == 0));
        sending.spawn(async move {
            let _permit = permit;
            let late = intended.elapsed();
            let id = acked.as_ref().map(|_| target.probe_id(&body)).unwrap_or_default();
            target.send(body).await?;
            let answered = Instant::now();
            if let Some(acked) = acked {
                // The channel has room for all; where nobody looks any more, the other side says why.
                _ = acked.send(Acked { id, at: answered.into_std() }).await;
            }
            anyhow::Ok((answered - intended, late))
        });
        while let Some(ended) = sending.try_join_next() {
            sent.add(ended??);
        }
    }
    while let Some(ended) = sending.join_next().await {
        sent.add(ended??);
    }
    sent.took = begun.elapsed();
    Ok(sent)
}

/// The same, and how long each of a sample took from its answer until it was found in ClickHouse; none where ClickHouse
/// cannot be asked.
pub(super) async fn open_loop_and_look(
    target: &Arc<Target>,
    bodies: Vec<Sending>,
    schedule: Schedule,
) -> anyhow::Result<(Sent, Vec<Duration>)> {
    let rows = target.rows.clone().filter(|rows| rows.probe_sql.is_some());
    let Some(rows) = rows else { return Ok((open_loop(target, bodies, schedule, None).await?, Vec::new())) };
    let (acked, to_find) = mpsc::channel(PROBES_MAX);
    let (sent, found) =
        tokio::try_join!(open_loop(target, bodies, schedule, Some(acked)), super::probes::watch(rows, to_find))?;
    Ok((sent, found))
}

impl Sent {
    fn add(&mut self, (latency, late): (Duration, Duration)) {
        self.latencies.push(latency);
        self.late.push(late);
    }
}
