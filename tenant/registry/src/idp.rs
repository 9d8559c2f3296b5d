//! The identity provider that an org's people log in with.

use model::ids::OrgId;
use model::words;
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::Row;
use stores::secret::REDACTED;
use time::OffsetDateTime;

use super::error::violated;
use super::event::EventType;
use super::outbox::Event;
use super::session::Session;
use super::{Registry, RegistryError, rules};

words! {
    /// The protocol of an identity provider.
    IdpKind, "kind of identity provider" {
        /// The OpenID Connect protocol.
        Oidc = "oidc",
        /// The SAML 2.0 protocol.
        Saml = "saml",
    }
}

/// The name of the identity provider in error messages.
const WHAT: &str = "the identity provider";

/// An org's identity provider.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IdpConfig {
    /// The protocol of the identity provider.
    pub kind: IdpKind,
    /// Whether people may log in with it.
    pub enabled: bool,
    /// Its config; values that look like secrets are replaced by `***`.
    pub config: Value,
    /// When it was last changed.
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
}

impl Registry {
    /// Sets an org's identity provider. False if nothing changed.
    pub async fn set_idp(
        &self,
        org_id: OrgId,
        kind: IdpKind,
        enabled: bool,
        config: &Value,
    ) -> Result<bool, RegistryError> {
        rules::config(WHAT, config)?;
        let mut change = self.change(org_id).await?;
        let old = sqlx::query(
            "SELECT kind::text AS kind, enabled, config = $2 AS same FROM tenant_idp_config WHERE tenant_id = $1",
        )
        .bind(org_id.0)
        .bind(config)
        .fetch_optional(change.connection())
        .await?;
        let old_kind: Option<String> = old.as_ref().map(|row| row.try_get("kind")).transpose()?;
        let was_enabled: Option<bool> = old.as_ref().map(|row| row.try_get("enabled")).transpose()?;
        let is_same = old.as_ref().map(|row| row.try_get("same")).transpose()?.unwrap_or(false);
        if is_same && was_enabled == Some(enabled) && old_kind.as_deref() == Some(kind.as_str()) {
            return Ok(false);
        }
        sqlx::query(
            "INSERT INTO tenant_idp_config (tenant_id, kind, enabled, config) VALUES ($1, $2::idp_kind, $3, $4)
             ON CONFLICT (tenant_id)
             DO UPDATE SET kind = excluded.kind, enabled = excluded.enabled, config = excluded.config",
        )
        .bind(org_id.0)
        .bind(kind.as_str())
        .bind(enabled)
        .bind(config)
        .execute(change.connection())
        .await
        .map_err(|error| match violated(&error) {
            Some("tenant_idp_config_config_check") => {
                RegistryError::InvalidConfig { what: WHAT.to_owned(), reason: "it is too large" }
            }
            _ => error.into(),
        })?;
        let detail = json!({
            "old": { "kind": old_kind, "enabled": was_enabled },
            "new": { "kind": kind, "enabled": enabled },
            "config_changed": !is_same,
        });
        change.commit(Event::new(EventType::IdpSet, org_id, detail)).await?;
        Ok(true)
    }

    /// An org's identity provider, if it has one.
    pub async fn idp(&self, org_id: OrgId) -> Result<Option<IdpConfig>, RegistryError> {
        let mut session = Session::open(&self.pool, org_id).await?;
        let row = sqlx::query(
            "SELECT kind::text AS kind, enabled, config, updated_at FROM tenant_idp_config WHERE tenant_id = $1",
        )
        .bind(org_id.0)
        .fetch_optional(session.connection())
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(IdpConfig {
            kind: row.try_get::<&str, _>("kind")?.parse()?,
            enabled: row.try_get("enabled")?,
            config: without_secrets(row.try_get("config")?),
            updated_at: row.try_get("updated_at")?,
        }))
    }
}

/// A config that may be shown: the value of every name that suggests a secret is replaced by `***`, at any depth. In
/// doubt a value is hidden.
pub(super) fn without_secrets(config: Value) -> Value {
    const SUGGEST: [&str; 6] = ["secret", "password", "passphrase", "key", "token", "credential"];
    match config {
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| {
                let lower = name.to_lowercase();
                let is_secret = SUGGEST.iter().any(|word| lower.contains(word)) && !value.is_null();
                let value = if is_secret { Value::from(REDACTED) } else { without_secrets(value) };
                (name, value)
            })
            .collect(),
        Value::Array(values) => values.into_iter().map(without_secrets).collect(),
        plain => plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_values_named_like_secrets_are_not_shown() {
        let config = json!({
            "issuer": "https://id.example", "client_secret": "s3", "nested": [{ "signingKey": { "d": 1 }, "n": 2 }],
            "token_endpoint": "t", "API_PASSWORD": ["p"], "key": null,
        });
        let shown = json!({
            "issuer": "https://id.example", "client_secret": "***", "nested": [{ "signingKey": "***", "n": 2 }],
            "token_endpoint": "***", "API_PASSWORD": "***", "key": null,
        });
        assert_eq!(without_secrets(config), shown);
    }
}
