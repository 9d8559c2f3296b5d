//! A request with an API key that may ingest.

use std::sync::Arc;

use auth::TenantContext;
use outcomes::{Ledger, Outcome};

use crate::error::ApiError;

/// The reason in the ledger when a client goes away before its request was read.
const ABANDONED: &str = "abandoned";

/// A request whose API key may ingest and is not known to be over its rate limit. Until its items are known, it counts
/// as one refusal, whatever goes wrong: a failed step, or a client that goes away.
#[derive(Debug)]
pub struct Admitted {
    tenant: Arc<TenantContext>,
    ledger: Ledger,
    is_counted: bool,
}

impl Admitted {
    /// Only [`App::admit`](crate::app::App::admit) may call this.
    pub(crate) fn new(tenant: Arc<TenantContext>, ledger: Ledger) -> Self {
        Self { tenant, ledger, is_counted: false }
    }

    /// Who the request is from, and what its org may do.
    pub fn tenant(&self) -> &Arc<TenantContext> {
        &self.tenant
    }

    /// Counts the refusal if a step has failed, and returns the step's result.
    pub fn check<T>(&mut self, step: Result<T, ApiError>) -> Result<T, ApiError> {
        step.inspect_err(|error| self.count(error.outcome(), error.code()))
    }

    /// The items are known: from here on each has an outcome of its own.
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
