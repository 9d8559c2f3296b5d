//! Telling the services which keys a change concerns, after it was committed.

use std::sync::{Arc, Mutex, PoisonError};

use model::ids::OrgId;
use sqlx::{PgConnection, Row};

use auth::invalidate::{Invalidator, KEYS_PER_MESSAGE_MAX};

/// Which keys are to be looked up anew after a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// None.
    Nobody,
    /// One, by its public id.
    Key(String),
    /// Every key of the org.
    Org,
}

/// Announces changes, if there is a way to.
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

    /// The public ids that a change reaches, read in its own transaction. Of very many only as many as no message can
    /// name, which then means all.
    pub(super) async fn keys(
        &self,
        connection: &mut PgConnection,
        org_id: OrgId,
        reach: Reach,
    ) -> Result<Vec<String>, sqlx::Error> {
        match reach {
            Reach::Nobody => Ok(Vec::new()),
            Reach::Key(public_id) => Ok(vec![public_id]),
            Reach::Org => {
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

    /// Forgets what was said about an org that is over its limits, which have changed: what it sends from now on is not
    /// set aside before it is looked at again. It stays so until then if that fails.
    pub(super) async fn limits_changed(&self, org_id: OrgId) {
        let Some(invalidator) = &self.invalidator else { return };
        if let Err(error) = invalidator.limits_changed(org_id).await {
            tracing::warn!(%error, "an org may be held to its old limits until the quota reconciler's next tick");
        }
    }

    /// Announces a committed change. It stays a change if that fails: it then holds a little later.
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
