//! Whose turn it is: jobs that one process of the fleet does at a time, so often.
//!
//! A key in Redis says that a job was done lately, a lock in Postgres that somebody is at it. Both only save work:
//! every job may be done twice, and at the same time.

use std::time::Duration;

use redis::RedisError;
use thiserror::Error;
use tokio::sync::watch;

use stores::keys::RedisKey;
use stores::redis::Redis;
use stores::secret::SecretUrl;

/// How often it is looked whether a job is due: this part of its interval,
const LOOKS: u32 = 8;
/// but no less often than this,
const LOOK_MAX: Duration = Duration::from_secs(5);
/// and no more often than this.
const LOOK_MIN: Duration = Duration::from_millis(20);

/// What is done by one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// Quotas are summed up.
    Quota,
    /// The outbox is copied.
    Publish,
    /// The outbox and its copy are compared.
    Audit,
    /// The ledger is balanced.
    Ledger,
}

impl Job {
    /// Its name in logs, metrics and keys.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quota => "quota",
            Self::Publish => "publish",
            Self::Audit => "audit",
            Self::Ledger => "ledger",
        }
    }

    /// Its advisory lock: "trac" and a number. Orgs have locks as well; one that is the same by accident delays a tick.
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

/// Why it is not known whose turn it is.
#[derive(Debug, Error)]
pub enum TurnError {
    /// Redis.
    #[error("redis: {0}")]
    Redis(#[from] RedisError),
    /// Postgres.
    #[error("postgres: {0}")]
    Postgres(#[from] sqlx::Error),
}

/// Takes turns with the rest of the fleet.
#[derive(Clone, Debug)]
pub struct Turn {
    dsn: SecretUrl,
    redis: Redis,
}

impl Turn {
    /// Locks are taken in that Postgres, each on a connection of its own.
    pub const fn new(dsn: SecretUrl, redis: Redis) -> Self {
        Self { dsn, redis }
    }

    /// Does a job whenever it is due, until told to stop; what is under way is then cut off.
    pub async fn repeat<T, E: std::fmt::Display, F: Future<Output = Result<T, E>>>(
        self,
        job: Job,
        every: Duration,
        mut stop: watch::Receiver<bool>,
        work: impl Fn() -> F,
    ) {
        let look = (every / LOOKS).clamp(LOOK_MIN, LOOK_MAX);
        let looking = async {
            loop {
                match self.once(job, every, &work).await {
                    Ok(None | Some(Ok(_))) => {}
                    Ok(Some(Err(error))) => failed(job, &error),
                    Err(error) => failed(job, &error),
                }
                tokio::time::sleep(look).await;
            }
        };
        tokio::select! {
            () = looking => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    /// Does a job if it was not done lately and nobody is at it; `None` otherwise.
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
            // Perhaps by the one that had the lock until now.
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

    /// Does something while holding a job's lock; `None` when somebody else does.
    pub async fn locked<T>(&self, job: Job, work: impl Future<Output = T>) -> Result<Option<T>, TurnError> {
        let Some(lock) = stores::postgres::try_lock(&self.dsn, job.lock()).await? else { return Ok(None) };
        let result = work.await;
        // The end of the connection is the end of the lock, however it ends.
        lock.release().await;
        Ok(Some(result))
    }
}

/// Counts and logs that a job failed.
pub fn failed(job: Job, error: &dyn std::fmt::Display) {
    metrics::counter!("tracebility_job_failures_total", "job" => job.name()).increment(1);
    tracing::warn!(job = job.name(), %error, "a job of the fleet failed; it is tried again");
}
