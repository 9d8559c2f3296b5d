//! The audit trail: who did what, and what it changed.
//!
//! The outbox in Postgres is authoritative. A change to the registry writes its event in its own transaction; other
//! events, such as a login or an export, go through the [`AuditWriter`], which collects them and writes them there. The
//! [`Publisher`] copies the outbox to ClickHouse, where it is searched, and the [`AuditReconciler`] checks every day
//! that all events have arrived. `docs/operations/quotas.md` describes what happens when one of them is killed.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod publish;
mod reconcile;
mod writer;

pub use publish::{BATCH_MAX, Publisher};
pub use reconcile::{AuditReconciler, AuditReport, GRACE, KEPT_FOR};
pub use writer::{AuditFull, AuditWriter, DRAIN_MAX, QUEUE_MAX, ROOM_WAIT_MAX, Writing, writer};

use thiserror::Error;

use registry::RegistryError;
use stores::clickhouse::InsertError;

/// Why events could not be copied or compared. The next attempt starts with the same events.
#[derive(Debug, Error)]
pub enum AuditError {
    /// Postgres, which has the outbox, did not answer or refused.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// ClickHouse, which has the copy, did not answer or refused.
    #[error(transparent)]
    Clickhouse(#[from] InsertError),
}
