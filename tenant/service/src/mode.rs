//! How a deployment is run: for customers, or self-hosted for a single user.

use std::time::Duration;

use model::words;
use sqlx::PgPool;
use tokio::sync::watch;

words! {
    /// The mode of a deployment. The differences:
    ///
    /// | | `saas` | `self_hosted` |
    /// | --- | --- | --- |
    /// | monthly limit reached | 402, until the month is over or the limit raised | counted, and noted in the audit log |
    /// | 80 % of a monthly limit | noted in the audit log | the same |
    /// | rate limits | 429 | the same |
    /// | orgs | operators create them | one is created at the start, operators may create more |
    DeploymentMode, "deployment mode" {
        /// For customers: each has a plan, and its limits are enforced.
        Saas = "saas",
        /// Self-hosted: monthly limits are counted, and never refuse requests.
        SelfHosted = "self_hosted",
    }
}

impl DeploymentMode {
    /// Whether a reached monthly limit makes admission refuse requests.
    pub const fn enforces_quotas(self) -> bool {
        matches!(self, Self::Saas)
    }
}

/// The pause before Postgres is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// Creates the org of a self-hosted deployment if it is missing. Retries until Postgres has answered, or until `stop`.
pub async fn ensure_default_org(postgres: PgPool, mut stop: watch::Receiver<bool>) {
    while let Err(error) = sqlx::query("SELECT ensure_default_org()").execute(&postgres).await {
        tracing::warn!(%error, "the default organization could not be looked for yet");
        tokio::select! {
            () = tokio::time::sleep(ASK_AGAIN) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}
