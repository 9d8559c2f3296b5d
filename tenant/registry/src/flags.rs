//! Flags: switches that are changed while the services run, without a deploy.
//!
//! A flag is a row of `runtime_flag`; without a row, the setting at start applies. A process that uses a flag
//! `follow`s it: it reads the flag once a second, and while Postgres is away it keeps the last value. A flag and its
//! event in the audit trail are written together, or neither is.

use std::time::Duration;

use model::words;
use serde::Serialize;
use sqlx::{PgPool, Row};
use time::OffsetDateTime;
use tokio::sync::watch;
use uuid::Uuid;

use crate::event::EventType;

/// How often a process reads a flag, and so how late it may notice a change.
pub const POLL_EVERY: Duration = Duration::from_secs(1);

words! {
    /// Switches for the whole deployment, kept in Postgres.
    Flag, "flag" {
        /// Whether the worker also drains the legacy stream.
        DualReadLegacy = "dual_read_legacy",
    }
}

/// The value of a flag that was set at least once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlagState {
    /// Whether the flag is on.
    pub enabled: bool,
    /// The person or program that set it last.
    pub by: String,
    /// When it was set last.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
}

/// The flags of a deployment. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Flags {
    pool: PgPool,
}

impl Flags {
    /// The flags in that Postgres, with the services' role.
    pub const fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// The value of a flag; `None` if it was never set.
    pub async fn state(&self, flag: Flag) -> Result<Option<FlagState>, sqlx::Error> {
        let row = sqlx::query("SELECT enabled, updated_by, updated_at FROM runtime_flag WHERE name = $1")
            .bind(flag.as_str())
            .fetch_optional(&self.pool)
            .await?;
        let read = |row: sqlx::postgres::PgRow| {
            Ok(FlagState {
                enabled: row.try_get("enabled")?,
                by: row.try_get("updated_by")?,
                since: row.try_get("updated_at")?,
            })
        };
        row.map(read).transpose()
    }

    /// Sets a flag and writes the audit event in one statement, so both happen or neither does. `why` is a JSON object
    /// for the event.
    pub async fn set(
        &self,
        flag: Flag,
        enabled: bool,
        actor: &str,
        why: &serde_json::Value,
    ) -> Result<(), sqlx::Error> {
        sqlx::query(
            "WITH before AS (SELECT enabled FROM runtime_flag WHERE name = $1),
                  flipped AS (INSERT INTO runtime_flag AS f (name, enabled, updated_by) VALUES ($1, $2, $3)
                              ON CONFLICT (name) DO UPDATE SET enabled = $2, updated_by = $3 RETURNING f.enabled)
             SELECT record_event_of_no_org($4, $5, $3, $1,
                        $6::jsonb || jsonb_build_object('old', (SELECT enabled FROM before), 'new', enabled), now())
               FROM flipped",
        )
        .bind(flag.as_str())
        .bind(enabled)
        .bind(actor)
        .bind(Uuid::new_v4())
        .bind(EventType::FlagChange.as_str())
        .bind(why)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Follows a flag until `stop`. The first value is `at_start`, and while Postgres is away the last value stays.
    pub fn follow(self, flag: Flag, at_start: bool, mut stop: watch::Receiver<bool>) -> watch::Receiver<bool> {
        let (sender, receiver) = watch::channel(at_start);
        tokio::spawn(async move {
            let mut was_away = false;
            loop {
                match self.state(flag).await {
                    Ok(state) => {
                        was_away = false;
                        let now = state.map_or(at_start, |state| state.enabled);
                        if sender.send_if_modified(|before| std::mem::replace(before, now) != now) {
                            tracing::info!(flag = flag.as_str(), enabled = now, "a switch was flipped");
                        }
                    }
                    Err(error) if !was_away => {
                        was_away = true;
                        tracing::warn!(flag = flag.as_str(), %error, "could not read a switch; it stays what it was");
                    }
                    Err(_) => {}
                }
                tokio::select! {
                    () = tokio::time::sleep(POLL_EVERY) => {}
                    _ = stop.wait_for(|stop| *stop) => return,
                    () = sender.closed() => return,
                }
            }
        });
        receiver
    }
}
