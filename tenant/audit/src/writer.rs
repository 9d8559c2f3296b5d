//! Events that are no change to the registry: gathered, and written to the outbox in batches.
//!
//! Bounded: when Postgres does not keep up, the queue fills, and then whoever wants to do something that must be
//! audited is refused. Ingest never records anything here. A process that is killed loses what is in the queue, at most
//! what came in during the last write; on SIGTERM the queue is written to its end.

use std::collections::BTreeMap;
use std::time::Duration;

use metrics::counter;
use model::ids::OrgId;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use registry::event::NewEvent;
use registry::{Registry, RegistryError};

/// Events that wait to be written.
pub const QUEUE_MAX: usize = 1_024;
/// Events of one batch.
const BATCH_MAX: usize = 256;
/// How long an event waits for room in a full queue before it is refused.
pub const ROOM_WAIT_MAX: Duration = Duration::from_millis(100);
/// How long the queue may take to be written after the process was told to stop.
pub const DRAIN_MAX: Duration = Duration::from_secs(5);
/// Pauses between attempts while Postgres is away: the first, and the longest.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// The queue has no room: what was to be audited must not be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the audit trail cannot be written at present, so this is refused; try again")]
pub struct AuditFull;

/// Takes events. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AuditWriter {
    queue: mpsc::Sender<NewEvent>,
}

/// The other end, which writes them. Nothing is written unless it runs.
#[derive(Debug)]
pub struct Writing {
    queue: mpsc::Receiver<NewEvent>,
    registry: Registry,
}

/// A writer to the outbox of that registry.
pub fn writer(registry: Registry) -> (AuditWriter, Writing) {
    let (sender, receiver) = mpsc::channel(QUEUE_MAX);
    (AuditWriter { queue: sender }, Writing { queue: receiver, registry })
}

impl AuditWriter {
    /// Puts an event into the queue. On `Err`, do not do what it tells of.
    pub async fn record(&self, event: NewEvent) -> Result<(), AuditFull> {
        let queued = self.queue.send_timeout(event, ROOM_WAIT_MAX).await;
        queued.map_err(|_| {
            counter!("tracebility_audit_refused_total").increment(1);
            AuditFull
        })
    }
}

impl Writing {
    /// Writes until told to stop, then takes no more and writes what is there, for at most [`DRAIN_MAX`]. Says how many
    /// events were lost then.
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
            // What is cut off here is done again: nothing is taken out of `batch` before it is written, and an event
            // that is there already stays as it is.
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
        tracing::error!(lost, "the time to drain is over; these audit events are lost");
        counter!("tracebility_audit_lost_total").increment(lost as u64);
        lost
    }
}

/// Writes events, org by org, however long it takes.
async fn write(registry: &Registry, batch: &[NewEvent]) {
    let mut orgs = BTreeMap::<Option<OrgId>, Vec<NewEvent>>::new();
    for event in batch {
        orgs.entry(event.org_id).or_default().push(event.clone());
    }
    for (org, events) in orgs {
        if write_until_done(registry, org, &events).await.is_ok() {
            continue;
        }
        // One of them is not possible, such as one of an org that is no more. It must not hold up the others.
        for event in &events {
            if let Err(error) = write_until_done(registry, org, std::slice::from_ref(event)).await {
                tracing::error!(%error, ?event, "an audit event cannot be written; it is only here");
                counter!("tracebility_audit_lost_total").increment(1);
            }
        }
    }
}

/// Repeats as long as Postgres is away; fails when it says that these events are not possible.
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
