//! A request whose key may ingest.

use std::sync::Arc;

use auth::TenantContext;
use outcomes::{Ledger, Outcome};

use crate::error::ApiError;

/// Where a client goes away before its request was read.
const ABANDONED: &str = "abandoned";

/// A request whose key may ingest and is not known to be over its rate. Until its items are known it counts as one refusal,
/// whatever goes wrong with it: a failed step, or a client that goes away.
#[derive(Debug)]
pub struct Admitted {
    tenant: Arc<TenantContext>,
    ledger: Ledger,
    is_counted: bool,
}

impl Admitted {
    /// For [`App::admit`](crate::app::App::admit) alone.
    pub(crate) fn new(tenant: Arc<TenantContext>, ledger: Ledger) -> Self {
        Self { tenant, ledger, is_counted: false }
    }

    /// Whose request it is.
    pub fn tenant(&self) -> &Arc<TenantContext> {
        &self.tenant
    }

    /// Counts the refusal if a step has failed.
    pub fn check<T>(&mut self, step: Result<T, ApiError>) -> Result<T, ApiError> {
        step.inspect_err(|error| self.count(error.outcome(), error.code()))
    }

    /// The items are known: each has an outcome of its own from here on.
    pub fn into_tenant(mut self) -> Arc<TenantContext> {
        self.is_counted = true;
        Arc::clone(&self.tenant)
    }

    fn count(&mut self, outcome: Outcome, reason: &'static str) {
        if !std::mem::replace(&mut self.is_counted, true) {
            self.ledger.refused_unread(Some(self.tenant.org_id()), outcome, reason);
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.count(Outcome::Rejected, ABANDONED);
    }
}
