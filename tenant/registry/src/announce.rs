//! Announces to the services which keys a change concerns, after the change was committed.

use std::sync::{Arc, Mutex, PoisonError};

use auth::invalidate::{Invalidator, KEYS_PER_MESSAGE_MAX};
use model::ids::OrgId;
use sqlx::{PgConnection, Row};

/// Which keys the services must look up again after a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AffectedKeys {
    /// No key: a key's record has nothing of what was changed.
    None,
    /// One key, by its public id.
    One(String),
    /// Every key of the org.
    Org,
}

/// Announces changes, if a Redis is configured.
#[derive(Clone, Debug, Default)]
pub(super) struct Announcer {
    invalidator: Option<Invalidator>,
    unannounced: Arc<Mutex<Option<String>>>,
}

impl Announcer {
    pub(super) fn new(invalidator: Invalidator) -> Self {
        Self { invalidator: Some(invalidator), ..Self::default() }
    }

    pub(super) fn unannounced(&self) -> Option<String> {
        self.unannounced.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The public ids of the keys that a change concerns, read in its own transaction. If there are more than one
    /// message can name, one more than that; the message then means all keys.
    pub(super) async fn keys(
        &self,
        connection: &mut PgConnection,
        org_id: OrgId,
        affected_keys: AffectedKeys,
    ) -> Result<Vec<String>, sqlx::Error> {
        match affected_keys {
            AffectedKeys::None => Ok(Vec::new()),
            AffectedKeys::One(public_id) => Ok(vec![public_id]),
            AffectedKeys::Org => {
                let rows = sqlx::query(
                    "SELECT public_id FROM api_keys WHERE tenant_id = $1 AND revoked_at IS NULL
                      ORDER BY created_at DESC LIMIT $2",
                )
                .bind(org_id.0)
                .bind(i64::try_from(KEYS_PER_MESSAGE_MAX + 1).unwrap_or(i64::MAX))
                .fetch_all(connection)
                .await?;
                rows.iter().map(|row| row.try_get("public_id")).collect()
            }
        }
    }

    /// Deletes the record that the org is over its limits, because the limits have changed: its data is stored from now
    /// on, until the reconciler has run again. If this fails, the record stays until then.
    pub(super) async fn limits_changed(&self, org_id: OrgId) {
        let Some(invalidator) = &self.invalidator else { return };
        if let Err(error) = invalidator.limits_changed(org_id).await {
            tracing::warn!(%error, "an org may be held to its old limits until the quota reconciler's next tick");
        }
    }

    /// Announces a committed change. If this fails, the change takes effect later, when caches expire.
    pub(super) async fn announce(&self, keys: &[String]) {
        if keys.is_empty() {
            return;
        }
        let failed = match &self.invalidator {
            None => Some("no Redis was given to announce it on".to_owned()),
            Some(invalidator) => invalidator.announce(keys).await.err().map(|error| error.to_string()),
        };
        if let (Some(error), Some(_)) = (&failed, &self.invalidator) {
            tracing::warn!(error, "a change of keys could not be announced");
        }
        *self.unannounced.lock().unwrap_or_else(PoisonError::into_inner) = failed;
    }
}
