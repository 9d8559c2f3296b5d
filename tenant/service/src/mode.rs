//! How a deployment is run: for customers, or by its only user.

use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::watch;

use model::words;

words! {
    /// Who is served. What differs:
    ///
    /// | | `saas` | `self_hosted` |
    /// | --- | --- | --- |
    /// | monthly limit reached | 402, until the month is over or the limit raised | counted, and noted in the audit log |
    /// | 80 % of a monthly limit | noted in the audit log | the same |
    /// | rate limits | 429 | the same |
    /// | orgs | made by operators | one is made at the start, others may be |
    DeploymentMode, "deployment mode" {
        /// Customers, each with a plan that binds.
        Saas = "saas",
        /// The user's own machines: their own limits do not lock them out.
        SelfHosted = "self_hosted",
    }
}

impl DeploymentMode {
    /// Whether a monthly limit that is reached refuses.
    pub const fn enforces_quotas(self) -> bool {
        matches!(self, Self::Saas)
    }
}

/// How long to wait before Postgres is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// Makes the org of a self-hosted deployment where it is missing. Asks Postgres until it has answered, or until `stop`.
pub async fn ensure_default_org(postgres: PgPool, mut stop: watch::Receiver<bool>) {
    while let Err(error) = sqlx::query("SELECT ensure_default_org()").execute(&postgres).await {
        tracing::warn!(%error, "the default organization could not be looked for yet");
        tokio::select! {
            () = tokio::time::sleep(ASK_AGAIN) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}
