//! Events that are no change to the registry: collected, and written to the outbox in batches.
//!
//! Bounded: when Postgres does not keep up, the queue fills, and then actions that must be audited are refused. Ingest
//! never records anything here. A process that is killed loses the queue, at most the events that arrived during the
//! last write; on SIGTERM it writes the whole queue.

use std::collections::BTreeMap;
use std::time::Duration;

use metrics::counter;
use model::ids::OrgId;
use registry::event::NewEvent;
use registry::{Registry, RegistryError};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// The most events that wait to be written.
pub const QUEUE_MAX: usize = 1_024;
/// The most events in one batch.
const BATCH_MAX: usize = 256;
/// How long an event waits for room in a full queue before it is refused.
pub const ROOM_WAIT_MAX: Duration = Duration::from_millis(100);
/// How long the process may write the queue after SIGTERM.
pub const DRAIN_MAX: Duration = Duration::from_secs(5);
/// Pauses between attempts while Postgres is away: the first, and the longest.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// The queue has no room: the action that needs the audit event must not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the audit trail cannot be written at present, so this is refused; try again")]
pub struct AuditFull;

/// Accepts events. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AuditWriter {
    queue: mpsc::Sender<NewEvent>,
}

/// Writes the events of the queue; they stay there unless it runs.
#[derive(Debug)]
pub struct Writing {
    queue: mpsc::Receiver<NewEvent>,
    registry: Registry,
}

/// A writer to the outbox of that registry, and the task that writes.
pub fn writer(registry: Registry) -> (AuditWriter, Writing) {
    let (sender, receiver) = mpsc::channel(QUEUE_MAX);
    (AuditWriter { queue: sender }, Writing { queue: receiver, registry })
}

impl AuditWriter {
    /// Puts an event into the queue. On `Err`, do not perform the action that the event describes.
    pub async fn record(&self, event: NewEvent) -> Result<(), AuditFull> {
        let queued = self.queue.send_timeout(event, ROOM_WAIT_MAX).await;
        queued.map_err(|_| {
            counter!("tracebility_audit_refused_total").increment(1);
            AuditFull
        })
    }
}

impl Writing {
    /// Writes until `stop`, then accepts no more events and writes the queue, for at most [`DRAIN_MAX`]. Returns how
    /// many events were lost then.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) -> usize {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let mut deadline: Option<Instant> = None;
        loop {
            let step = async {
                if batch.is_empty() && self.queue.recv_many(&mut batch, BATCH_MAX).await == 0 {
                    return false;
                }
                write(&self.registry, &batch).await;
                batch.clear();
                true
            };
            // A step cut off here is repeated: `batch` keeps its events until they are written, and inserting an event
            // twice changes nothing.
            let stepped = match deadline {
                None => tokio::select! {
                    stepped = step => Some(stepped),
                    _ = stop.wait_for(|stop| *stop) => {
                        self.queue.close();
                        deadline = Some(Instant::now() + DRAIN_MAX);
                        continue;
                    }
                },
                Some(deadline) => tokio::time::timeout_at(deadline, step).await.ok(),
            };
            match stepped {
                Some(true) => {}
                Some(false) => return 0,
                None => break,
            }
        }
        let lost = batch.len() + self.queue.len();
        tracing::error!(lost, "drain timeout reached; these audit events are lost");
        counter!("tracebility_audit_lost_total").increment(lost as u64);
        lost
    }
}

/// Writes events, one org at a time, retrying for as long as it takes.
async fn write(registry: &Registry, batch: &[NewEvent]) {
    let mut orgs = BTreeMap::<Option<OrgId>, Vec<NewEvent>>::new();
    for event in batch {
        orgs.entry(event.org_id()).or_default().push(event.clone());
    }
    for (org, events) in orgs {
        if write_until_done(registry, org, &events).await.is_ok() {
            continue;
        }
        // Postgres refuses one of them, for example because its org no longer exists. It must not hold up the others.
        for event in &events {
            if let Err(error) = write_until_done(registry, org, std::slice::from_ref(event)).await {
                tracing::error!(%error, ?event, "an audit event cannot be written; it is only here");
                counter!("tracebility_audit_lost_total").increment(1);
            }
        }
    }
}

/// Repeats as long as Postgres is away; fails when Postgres refuses the events.
async fn write_until_done(registry: &Registry, org: Option<OrgId>, events: &[NewEvent]) -> Result<(), RegistryError> {
    let (mut pause, longest) = RETRY_PAUSE;
    loop {
        let Err(error) = registry.record_events(org, events).await else {
            counter!("tracebility_audit_recorded_total").increment(events.len() as u64);
            return Ok(());
        };
        if error.is_refused_data() {
            return Err(error);
        }
        tracing::warn!(%error, events = events.len(), "audit events could not be written; trying again");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}
