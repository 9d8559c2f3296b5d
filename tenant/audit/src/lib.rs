//! The audit trail: what was done, by whom, to what.
//!
//! The outbox in Postgres is the truth. A change to the registry writes its event in its own transaction; what is no
//! such change, a login or an export, goes through the [`AuditWriter`], which gathers events and writes them there. The
//! [`Publisher`] copies the outbox to ClickHouse, where it is searched, and the [`AuditReconciler`] looks every day
//! whether all of it arrived. `docs/quotas.md` tells what happens when one of them is killed.

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

/// Why events could not be copied or compared. The next attempt begins where this one did.
#[derive(Debug, Error)]
pub enum AuditError {
    /// Postgres.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// ClickHouse.
    #[error(transparent)]
    Clickhouse(#[from] InsertError),
}
