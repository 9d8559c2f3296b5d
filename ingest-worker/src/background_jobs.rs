//! Background jobs, which a worker does beside its shards: reconciling quotas, publishing and reconciling the audit
//! trail, and checking the ledger.
//!
//! Each job runs as a task of its own, on connections of its own, and repeats what fails. So a failing job never stops
//! the shards. Among all workers, one at a time does each job.

use std::time::Duration;

use audit::{AuditReconciler, Publisher};
use ledger::LedgerReader;
use ledger_watch::Watch;
use quota::reconcile::QuotaReconciler;
use registry::Registry;
use service::mode::DeploymentMode;
use service::turn::{Job, Turn};
use stores::clickhouse::{ClickHouseUrl, Records};
use stores::secret::SecretUrl;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::persist::persist;

/// The roles that this worker has: its shards, and each of the background jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct WorkerRoles {
    pub shards: bool,
    pub quota: bool,
    pub audit: bool,
    pub ledger: bool,
}

impl WorkerRoles {
    /// Reads a list such as `shards,quota`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut roles = Self { shards: false, quota: false, audit: false, ledger: false };
        for role in text.split(',').map(str::trim) {
            match role {
                "shards" => roles.shards = true,
                "quota" => roles.quota = true,
                "audit" => roles.audit = true,
                "ledger" => roles.ledger = true,
                _ => return Err("is not a list of shards, quota, audit and ledger, such as shards,quota".to_owned()),
            }
        }
        Ok(roles)
    }
}

/// The intervals of the background jobs, and the servers that they use.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct BackgroundJobs {
    pub pg_dsn: SecretUrl,
    pub redis_url: SecretUrl,
    pub clickhouse_url: ClickHouseUrl,
    pub mode: DeploymentMode,
    pub quota_every: Duration,
    pub quota_settle: Duration,
    pub audit_publish_every: Duration,
    pub audit_reconcile_every: Duration,
    pub ledger_every: Duration,
    pub ledger_settle: Duration,
}

impl BackgroundJobs {
    /// Starts the jobs of these roles. Does no I/O: a job waits until the servers it needs are reachable.
    pub fn start(&self, roles: WorkerRoles, stop: &watch::Receiver<bool>) -> anyhow::Result<JoinSet<()>> {
        let mut tasks = JoinSet::new();
        if !roles.quota && !roles.audit && !roles.ledger {
            return Ok(tasks);
        }
        let registry = Registry::new(stores::postgres::pool(&self.pg_dsn)?);
        let redis = stores::redis::connect(&self.redis_url)?;
        let records = Records::new(&self.clickhouse_url);
        let turn = Turn::new(self.pg_dsn.clone(), redis.clone());
        if roles.ledger {
            let reader = LedgerReader::new(redis.clone(), records.clone());
            let watch = Watch::new(reader, redis.clone(), registry.clone(), self.ledger_settle);
            let (turn, every, stop) = (turn.clone(), self.ledger_every, stop.clone());
            tasks.spawn(persist("ledger", move || {
                let watch = watch.clone();
                turn.clone().repeat(Job::Ledger, every, stop.clone(), move || {
                    let watch = watch.clone();
                    async move { watch.check().await }
                })
            }));
        }
        if roles.quota {
            let quotas = QuotaReconciler::new(registry.clone(), redis, records.clone(), self.mode.enforces_quotas());
            let quotas = quotas.with_settle(self.quota_settle);
            let (turn, every, stop) = (turn.clone(), self.quota_every, stop.clone());
            tasks.spawn(persist("quota", move || {
                let quotas = quotas.clone();
                turn.clone().repeat(Job::Quota, every, stop.clone(), move || {
                    let quotas = quotas.clone();
                    async move { quotas.tick().await }
                })
            }));
        }
        if roles.audit {
            let publisher = Publisher::new(registry.clone(), records.clone());
            let (to_publish, every, stopping) = (turn.clone(), self.audit_publish_every, stop.clone());
            tasks.spawn(persist("publish", move || {
                publisher.clone().repeat(to_publish.clone(), every, stopping.clone())
            }));
            let audit = AuditReconciler::new(registry, records);
            let (every, stop) = (self.audit_reconcile_every, stop.clone());
            tasks.spawn(persist("audit", move || {
                let audit = audit.clone();
                turn.clone().repeat(Job::Audit, every, stop.clone(), move || {
                    let audit = audit.clone();
                    async move { audit.run().await }
                })
            }));
        }
        Ok(tasks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_named_and_checked() {
        let roles = |shards, quota, audit, ledger| Ok(WorkerRoles { shards, quota, audit, ledger });
        assert_eq!(WorkerRoles::parse("shards,quota,audit,ledger"), roles(true, true, true, true));
        assert_eq!(WorkerRoles::parse("audit, quota"), roles(false, true, true, false));
        for bad in ["", "shards,", "all", "Shards"] {
            assert!(WorkerRoles::parse(bad).is_err(), "{bad}");
        }
    }
}
