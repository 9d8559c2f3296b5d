//! Jobs that one process of the fleet runs at a time, at an interval.
//!
//! A key in Redis records that a job ran recently, a lock in Postgres that a process is running it. Both only save
//! work: every job may run twice, even at the same time.

use std::time::Duration;

use redis::RedisError;
use stores::keys::RedisKey;
use stores::redis::Redis;
use stores::secret::SecretUrl;
use thiserror::Error;
use tokio::sync::watch;

/// How often a process checks whether a job is due: this part of its interval,
const CHECKS_PER_INTERVAL: u32 = 8;
/// but no less often than this,
const CHECK_EVERY_MAX: Duration = Duration::from_secs(5);
/// and no more often than this.
const CHECK_EVERY_MIN: Duration = Duration::from_millis(20);

/// A job that one process runs at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// Sums up usage, and corrects the quota counters.
    Quota,
    /// Copies the outbox to ClickHouse.
    Publish,
    /// Compares the outbox with its copy in ClickHouse.
    Audit,
    /// Balances the ledger, and raises the alarm when an imbalance lasts.
    Ledger,
}

impl Job {
    /// The name of the job in logs, metrics and keys.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quota => "quota",
            Self::Publish => "publish",
            Self::Audit => "audit",
            Self::Ledger => "ledger",
        }
    }

    /// The job's advisory lock: "trac" and a number. Orgs have locks as well; one with the same number only delays a
    /// run.
    const fn lock(self) -> i64 {
        let number = match self {
            Self::Quota => 1,
            Self::Publish => 2,
            Self::Audit => 3,
            Self::Ledger => 4,
        };
        0x7472_6163_0000_0000 + number
    }
}

/// Why it is unknown whether this process should run the job.
#[derive(Debug, Error)]
pub enum TurnError {
    /// Redis, which has the time of the last run, did not answer or refused.
    #[error("redis: {0}")]
    Redis(#[from] RedisError),
    /// Postgres, which has the lock of the job, did not answer or refused.
    #[error("postgres: {0}")]
    Postgres(#[from] sqlx::Error),
}

/// Coordinates jobs with the other processes of the fleet.
#[derive(Clone, Debug)]
pub struct Turn {
    dsn: SecretUrl,
    redis: Redis,
}

impl Turn {
    /// Takes locks in that Postgres, each on a connection of its own.
    pub const fn new(dsn: SecretUrl, redis: Redis) -> Self {
        Self { dsn, redis }
    }

    /// Runs a job whenever it is due, until `stop`, which also cuts off a running job.
    pub async fn repeat<T, E: std::fmt::Display, F: Future<Output = Result<T, E>>>(
        self,
        job: Job,
        every: Duration,
        mut stop: watch::Receiver<bool>,
        work: impl Fn() -> F,
    ) {
        let check_every = (every / CHECKS_PER_INTERVAL).clamp(CHECK_EVERY_MIN, CHECK_EVERY_MAX);
        let checking = async {
            loop {
                match self.once(job, every, &work).await {
                    Ok(None | Some(Ok(_))) => {}
                    Ok(Some(Err(error))) => failed(job, &error),
                    Err(error) => failed(job, &error),
                }
                tokio::time::sleep(check_every).await;
            }
        };
        tokio::select! {
            () = checking => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    /// Runs a job, unless it ran recently or another process is running it; then `None`.
    pub async fn once<T, E, F: Future<Output = Result<T, E>>>(
        &self,
        job: Job,
        every: Duration,
        work: &impl Fn() -> F,
    ) -> Result<Option<Result<T, E>>, TurnError> {
        let done = RedisKey::reconciled(job.name());
        if self.was_done(&done).await? {
            return Ok(None);
        }
        let working = async {
            // Another process may have run it between our check and taking the lock.
            if self.was_done(&done).await? {
                return Ok(None);
            }
            let result = work().await;
            if result.is_ok() {
                let ms = u64::try_from(every.as_millis()).unwrap_or(u64::MAX).max(1);
                let mut set = redis::cmd("SET");
                set.arg(&done).arg(1).arg("PX").arg(ms).exec_async(&mut self.redis.clone()).await?;
            }
            Ok(Some(result))
        };
        self.locked(job, working).await?.unwrap_or(Ok(None))
    }

    async fn was_done(&self, done: &RedisKey) -> Result<bool, RedisError> {
        redis::cmd("EXISTS").arg(done).query_async(&mut self.redis.clone()).await
    }

    /// Runs `work` while holding a job's lock; `None` if another process holds it.
    pub async fn locked<T>(&self, job: Job, work: impl Future<Output = T>) -> Result<Option<T>, TurnError> {
        let Some(lock) = stores::postgres::try_lock(&self.dsn, job.lock()).await? else { return Ok(None) };
        let result = work.await;
        // The lock ends with its connection, even if closing fails.
        lock.release().await;
        Ok(Some(result))
    }
}

/// Counts and logs the failure of a job.
pub fn failed(job: Job, error: &dyn std::fmt::Display) {
    metrics::counter!("tracebility_job_failures_total", "job" => job.name()).increment(1);
    tracing::warn!(job = job.name(), %error, "a job of the fleet failed; it is tried again");
}
