//! Checks that every event of the outbox is in ClickHouse.
//!
//! For a missing event, the gap is stored first, then the event is copied again, then the gap is marked as repaired: a
//! crash in between leaves the gap, and the next run finds it again.

use std::time::Duration;

use metrics::{counter, gauge};
use registry::{OutboxEvent, Registry};
use stores::clickhouse::{AuditGap, Records};
use time::OffsetDateTime;
use uuid::Uuid;

use super::AuditError;
use super::publish::{BATCH_MAX, rows};

/// The age from which an event counts as missing: the publisher has had plenty of time to copy it.
pub const GRACE: Duration = Duration::from_secs(15 * 60);
/// How long ClickHouse keeps an event (the TTL of `audit_log`), minus one day, so that an expiring event is not
/// reported.
pub const KEPT_FOR: Duration = Duration::from_secs(729 * 24 * 3600);

/// Compares the outbox with ClickHouse.
#[derive(Clone, Debug)]
pub struct AuditReconciler {
    registry: Registry,
    records: Records,
    grace: Duration,
}

/// The result of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct AuditReport {
    /// The id of the run in `audit_reconciliation_gap`.
    pub detection_id: Uuid,
    /// How many events were compared.
    pub checked: u64,
    /// How many events were missing and were copied again.
    pub missing: u64,
}

impl AuditReconciler {
    /// `registry` must be opened as the services' role.
    pub const fn new(registry: Registry, records: Records) -> Self {
        Self { registry, records, grace: GRACE }
    }

    /// Sets the age from which an event counts as missing, instead of [`GRACE`].
    #[must_use]
    pub fn with_grace(self, grace: Duration) -> Self {
        Self { grace, ..self }
    }

    /// Compares every event between [`GRACE`] and [`KEPT_FOR`] old, and copies missing ones again.
    pub async fn run(&self) -> Result<AuditReport, AuditError> {
        let now = OffsetDateTime::now_utc();
        let before = now - self.grace;
        let mut report = AuditReport { detection_id: Uuid::new_v4(), checked: 0, missing: 0 };
        let mut after = 0;
        loop {
            let page = self.registry.events_before(after, before, BATCH_MAX).await?;
            let Some(last) = page.last() else { break };
            after = last.id;
            let kept: Vec<_> = page.into_iter().filter(|event| event.created_at > now - KEPT_FOR).collect();
            report.checked += kept.len() as u64;
            report.missing += self.check(&kept, &report).await?;
        }
        gauge!("tracebility_audit_reconciled_at_seconds").set(now.unix_timestamp() as f64);
        if report.missing > 0 {
            let AuditReport { detection_id, checked, missing } = report;
            tracing::warn!(%detection_id, checked, missing, "audit events were missing in ClickHouse; they were sent again");
        }
        Ok(report)
    }

    /// Compares one page of events. Returns how many were missing.
    async fn check(&self, page: &[OutboxEvent], report: &AuditReport) -> Result<u64, AuditError> {
        let times = page.iter().map(|event| event.created_at);
        let (Some(from), Some(to)) = (times.clone().min(), times.max()) else { return Ok(0) };
        let ids: Vec<Uuid> = page.iter().map(|event| event.event_id).collect();
        let found = self.records.find_events(&ids, from, to).await?;
        let missing: Vec<_> = page.iter().filter(|event| !found.contains(&event.event_id)).cloned().collect();
        let Some(first) = missing.first() else { return Ok(0) };
        let gap = |(row, is_repaired): (stores::clickhouse::AuditRow, bool)| AuditGap {
            detection_id: report.detection_id,
            detected_at: OffsetDateTime::now_utc(),
            event_id: row.event_id,
            org_id: row.org_id,
            event_time: row.event_time,
            event_type: row.event_type,
            is_repaired,
        };
        let gaps = |is_repaired| rows(&missing).into_iter().map(|row| gap((row, is_repaired))).collect::<Vec<_>>();
        self.records.insert_gaps(&gaps(false)).await?;
        counter!("tracebility_audit_gaps_total").increment(missing.len() as u64);
        // Not the batch's own token: ClickHouse may remember that one and drop the rows as a repetition.
        let token = format!("gap-{}-{}", report.detection_id, first.id);
        self.records.insert_events(&rows(&missing), &token).await?;
        self.registry.mark_published(&missing.iter().map(|event| event.id).collect::<Vec<_>>()).await?;
        self.records.insert_gaps(&gaps(true)).await?;
        Ok(missing.len() as u64)
    }
}
