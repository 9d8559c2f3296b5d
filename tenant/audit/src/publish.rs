//! Copies the outbox to ClickHouse.
//!
//! A batch is the oldest events that are not copied yet, in the order of the outbox; it is inserted, then marked as
//! copied. After a crash between the two, the next batch may be larger or end elsewhere, and an insert token recognises
//! only the same batch. An event is nevertheless stored once: the key of `audit_log` ends in the event's id, so a
//! second row collapses with the first, and readers use `FINAL`.

use std::time::Duration;

use blake2::digest::consts::U16;
use blake2::{Blake2b, Digest};
use metrics::counter;
use model::ids::OrgId;
use registry::{OutboxEvent, Registry};
use service::turn::{Job, Turn, failed};
use stores::clickhouse::{AuditRow, Records};
use tokio::sync::watch;
use uuid::Uuid;

use super::AuditError;

/// The most events in one batch.
pub const BATCH_MAX: u32 = 1_000;

/// Copies events from the outbox to ClickHouse.
#[derive(Clone, Debug)]
pub struct Publisher {
    registry: Registry,
    records: Records,
}

impl Publisher {
    /// `registry` must be opened as the services' role.
    pub const fn new(registry: Registry, records: Records) -> Self {
        Self { registry, records }
    }

    /// Whether the outbox has events that are not copied.
    pub async fn has_work(&self) -> Result<bool, AuditError> {
        Ok(!self.registry.unpublished_events(1).await?.is_empty())
    }

    /// Copies until no event is left. Returns how many events it copied.
    pub async fn run(&self) -> Result<u64, AuditError> {
        let mut copied = 0;
        loop {
            let batch = self.next().await?;
            if batch.is_empty() {
                return Ok(copied);
            }
            self.copy(&batch).await?;
            self.mark(&batch).await?;
            copied += batch.len() as u64;
            counter!("tracebility_audit_published_total").increment(batch.len() as u64);
        }
    }

    /// Copies the outbox every `every` until `stop`, which also cuts off a copy under way.
    pub async fn repeat(self, turn: Turn, every: Duration, mut stop: watch::Receiver<bool>) {
        let copying = async {
            loop {
                match self.has_work().await {
                    Ok(true) => match turn.locked(Job::Publish, self.run()).await {
                        Ok(None | Some(Ok(_))) => {}
                        Ok(Some(Err(error))) => failed(Job::Publish, &error),
                        Err(error) => failed(Job::Publish, &error),
                    },
                    Ok(false) => {}
                    Err(error) => failed(Job::Publish, &error),
                }
                tokio::time::sleep(every).await;
            }
        };
        tokio::select! {
            () = copying => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    /// The first step: reads the oldest events that are not copied.
    pub async fn next(&self) -> Result<Vec<OutboxEvent>, AuditError> {
        Ok(self.registry.unpublished_events(BATCH_MAX).await?)
    }

    /// The second step: inserts them into ClickHouse.
    pub async fn copy(&self, batch: &[OutboxEvent]) -> Result<(), AuditError> {
        Ok(self.records.insert_events(&rows(batch), &token(batch)).await?)
    }

    /// The third step: marks them as copied.
    pub async fn mark(&self, batch: &[OutboxEvent]) -> Result<(), AuditError> {
        let ids: Vec<i64> = batch.iter().map(|event| event.id).collect();
        self.registry.mark_published(&ids).await?;
        Ok(())
    }
}

/// The events as rows of `audit_log`.
pub(super) fn rows(events: &[OutboxEvent]) -> Vec<AuditRow> {
    let row = |event: &OutboxEvent| AuditRow {
        event_id: event.event_id,
        org_id: event.org_id.unwrap_or(OrgId(Uuid::nil())),
        event_time: event.created_at,
        event_type: event.event_type.clone(),
        actor: event.actor.clone(),
        target: event.target.clone().unwrap_or_default(),
        detail: event.detail.to_string(),
    };
    events.iter().map(row).collect()
}

/// The insert token: the same for the same events in the same order.
fn token(batch: &[OutboxEvent]) -> String {
    let mut hash = Blake2b::<U16>::new();
    batch.iter().for_each(|event| hash.update(event.event_id.as_bytes()));
    format!("outbox-{}", Uuid::from_bytes(hash.finalize().into()))
}
