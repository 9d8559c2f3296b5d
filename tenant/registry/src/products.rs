//! The products of an org, each with its config.

use model::ids::OrgId;
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::Row;
use time::OffsetDateTime;

use super::error::violated;
use super::event::EventType;
use super::outbox::Event;
use super::session::Session;
use super::{LIST_MAX, Registry, RegistryError, idp, rules};

/// A product that an org has.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Product {
    /// The name of the product.
    pub product: String,
    /// Whether the org may use it.
    pub enabled: bool,
    /// Its config; values that look like secrets are replaced by `***`.
    pub config: Value,
    /// When the product was last changed.
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
}

impl Registry {
    /// Adds a product to an org, or changes it. False if nothing changed.
    pub async fn set_product(
        &self,
        org_id: OrgId,
        product: &str,
        enabled: bool,
        config: &Value,
    ) -> Result<bool, RegistryError> {
        let what = || format!("the product {product:?}");
        rules::product(product)?;
        rules::config(&what(), config)?;
        let mut change = self.change(org_id).await?;
        let old = sqlx::query(
            "SELECT enabled, config = $3 AS same FROM tenant_products WHERE tenant_id = $1 AND product = $2",
        )
        .bind(org_id.0)
        .bind(product)
        .bind(config)
        .fetch_optional(change.connection())
        .await?;
        let was_enabled: Option<bool> = old.as_ref().map(|row| row.try_get("enabled")).transpose()?;
        let is_same = old.as_ref().map(|row| row.try_get("same")).transpose()?.unwrap_or(false);
        if is_same && was_enabled == Some(enabled) {
            return Ok(false);
        }
        sqlx::query(
            "INSERT INTO tenant_products (tenant_id, product, enabled, config) VALUES ($1, $2, $3, $4)
             ON CONFLICT (tenant_id, product) DO UPDATE SET enabled = excluded.enabled, config = excluded.config",
        )
        .bind(org_id.0)
        .bind(product)
        .bind(enabled)
        .bind(config)
        .execute(change.connection())
        .await
        .map_err(|error| match violated(&error) {
            Some("tenant_products_config_check") => {
                RegistryError::InvalidConfig { what: what(), reason: "it is too large" }
            }
            _ => error.into(),
        })?;
        let detail =
            json!({ "old": { "enabled": was_enabled }, "new": { "enabled": enabled }, "config_changed": !is_same });
        change.commit(Event::new(EventType::ProductSet, product, detail)).await?;
        Ok(true)
    }

    /// Enables or disables a product that an org has; its config stays. False if nothing changed.
    ///
    /// A separate operation, because a config cannot be read and written back: it is shown without its secrets.
    pub async fn enable_product(&self, org_id: OrgId, product: &str, enabled: bool) -> Result<bool, RegistryError> {
        rules::product(product)?;
        let mut change = self.change(org_id).await?;
        let old = sqlx::query("SELECT enabled FROM tenant_products WHERE tenant_id = $1 AND product = $2")
            .bind(org_id.0)
            .bind(product)
            .fetch_optional(change.connection())
            .await?;
        let old = old.ok_or_else(|| RegistryError::UnknownProduct { product: product.to_owned() })?;
        let was_enabled: bool = old.try_get("enabled")?;
        if was_enabled == enabled {
            return Ok(false);
        }
        sqlx::query("UPDATE tenant_products SET enabled = $3 WHERE tenant_id = $1 AND product = $2")
            .bind(org_id.0)
            .bind(product)
            .bind(enabled)
            .execute(change.connection())
            .await?;
        let detail =
            json!({ "old": { "enabled": was_enabled }, "new": { "enabled": enabled }, "config_changed": false });
        change.commit(Event::new(EventType::ProductSet, product, detail)).await?;
        Ok(true)
    }

    /// An org's products by name, at most [`LIST_MAX`].
    pub async fn products(&self, org_id: OrgId) -> Result<Vec<Product>, RegistryError> {
        let mut session = Session::open(&self.pool, org_id).await?;
        let rows = sqlx::query(
            "SELECT product, enabled, config, updated_at FROM tenant_products WHERE tenant_id = $1
              ORDER BY product LIMIT $2",
        )
        .bind(org_id.0)
        .bind(i64::from(LIST_MAX))
        .fetch_all(session.connection())
        .await?;
        let products = rows.iter().map(|row| {
            Ok(Product {
                product: row.try_get("product")?,
                enabled: row.try_get("enabled")?,
                config: idp::without_secrets(row.try_get("config")?),
                updated_at: row.try_get("updated_at")?,
            })
        });
        products.collect()
    }
}
