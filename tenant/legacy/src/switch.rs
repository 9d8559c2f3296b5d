//! Closes the legacy stream, and opens it again.
//!
//! It is closed when it is empty, and checked again when every worker has seen the switch: an entry written in between
//! comes from an API process of an old release, so the stream is opened again. A worker keeps checking a closed stream.

use std::time::Duration;

use redis::RedisError;
use registry::flags::{Flag, Flags, POLL_EVERY};
use serde_json::json;
use stores::redis::Redis;
use thiserror::Error;

use super::{Backlog, read_backlog};

/// The time after which every worker has seen that the stream was closed.
pub const SWITCH_SEEN_AFTER: Duration = POLL_EVERY.saturating_mul(2);

/// Why the stream was not closed or opened.
#[derive(Debug, Error)]
pub enum SwitchError {
    /// The stream still has entries, or entries on their way.
    #[error("the legacy stream is not empty: {}", describe(.0))]
    NotEmpty(Backlog),
    /// A reader of an older release still reads the stream.
    #[error("a worker of an older release still reads the legacy stream, in the group {0:?}")]
    OtherReader(String),
    /// An entry was written while the stream was being closed. It is open again.
    #[error("while it was being closed somebody wrote to the legacy stream: {}; it is open again", describe(.0))]
    Straggler(Backlog),
    /// Redis, which has the stream, did not answer or refused.
    #[error("redis: {0}")]
    Redis(#[from] RedisError),
    /// Postgres, which has the flag, did not answer or refused.
    #[error("postgres: {0}")]
    Postgres(#[from] sqlx::Error),
}

fn describe(backlog: &Backlog) -> String {
    let pending: u64 = backlog.groups.iter().map(|group| group.pending).sum();
    format!("{} waiting, {} on the way, {pending} with readers of older releases", backlog.entries, backlog.moving)
}

/// Closes and opens the legacy stream.
#[derive(Clone, Debug)]
pub struct Switch {
    redis: Redis,
    flags: Flags,
}

impl Switch {
    /// The switch of that deployment.
    pub const fn new(redis: Redis, flags: Flags) -> Self {
        Self { redis, flags }
    }

    /// Closes the stream for good; the error says why not. False if it was closed already.
    pub async fn close(&self, actor: &str) -> Result<bool, SwitchError> {
        if self.is_closed().await? {
            return Ok(false);
        }
        let backlog = read_backlog(&self.redis).await?;
        if let Some(group) = backlog.old_reader() {
            return Err(SwitchError::OtherReader(group.name.clone()));
        }
        if !backlog.is_empty() {
            return Err(SwitchError::NotEmpty(backlog));
        }
        self.flip(false, actor, "it is empty").await?;
        tokio::time::sleep(SWITCH_SEEN_AFTER).await;
        let backlog = read_backlog(&self.redis).await?;
        if !backlog.is_empty() {
            self.flip(true, actor, "somebody wrote to it while it was being closed").await?;
            return Err(SwitchError::Straggler(backlog));
        }
        Ok(true)
    }

    /// Opens the stream again. False if it was open.
    pub async fn reopen(&self, actor: &str) -> Result<bool, SwitchError> {
        let was_closed = self.is_closed().await?;
        if was_closed {
            self.flip(true, actor, "reopened").await?;
        }
        Ok(was_closed)
    }

    /// Whether an operator has closed it. The workers' setting applies only until the switch is flipped for the first
    /// time.
    async fn is_closed(&self) -> Result<bool, sqlx::Error> {
        Ok(self.flags.state(Flag::DualReadLegacy).await?.is_some_and(|state| !state.enabled))
    }

    async fn flip(&self, open: bool, actor: &str, why: &str) -> Result<(), sqlx::Error> {
        self.flags.set(Flag::DualReadLegacy, open, actor, &json!({ "why": why })).await
    }
}
