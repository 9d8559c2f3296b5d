//! `tracectl products`: which products an org has, and how they are configured.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use registry::Registry;
use serde_json::{Value, json};

use crate::config;
use crate::failure::Failure;
use crate::output::{Answer, moment, yes_no};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Add a product to an org, or change its configuration or whether it is enabled.
    ///
    /// The whole configuration is replaced. Without one, a product that the org has keeps its own.
    #[command(after_help = "Examples:\n  \
        tracectl products set acme replay --config '{\"runs_at_once\":4}'\n  \
        tracectl products set acme replay --config-file replay.json\n  \
        tracectl products set acme replay --disabled")]
    Set {
        /// The org: its slug or id.
        org: String,
        /// The product's name: 1 to 63 of a-z, 0-9 and _, beginning with a letter.
        product: String,
        #[command(flatten)]
        source: Source,
        /// Do not let the org use it.
        #[arg(long)]
        disabled: bool,
    },
    /// List an org's products.
    #[command(after_help = "Examples:\n  \
        tracectl products list acme\n  \
        tracectl products list acme --output json | jq '.products[].config'")]
    List {
        /// The org: its slug or id.
        org: String,
    },
}

#[derive(Args, Debug)]
#[group(multiple = false)]
pub(crate) struct Source {
    /// The configuration, one JSON object.
    #[arg(long, value_name = "JSON")]
    config: Option<String>,
    /// The file that holds it; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    config_file: Option<PathBuf>,
}

impl Source {
    fn read(&self) -> Result<Option<Value>, Failure> {
        match (&self.config, &self.config_file) {
            (Some(text), _) => config::from_text(text).map(Some),
            (None, Some(path)) => config::from_file(path).map(Some),
            (None, None) => Ok(None),
        }
    }
}

impl Command {
    pub(crate) async fn run(self, registry: &Registry) -> Result<Answer, Failure> {
        match self {
            Self::Set { org, product, source, disabled } => {
                let config = source.read()?;
                let org = registry.find_org(&org).await?;
                let changed = match config {
                    Some(config) => registry.set_product(org.org_id, &product, !disabled, &config).await?,
                    None => registry.enable_product(org.org_id, &product, !disabled).await?,
                };
                Answer::change(
                    &json!({ "org_id": org.org_id, "product": product, "enabled": !disabled }),
                    changed,
                    &format!("{} has the product {product}", org.slug),
                    &format!("{} has the product {product} just so; nothing changed", org.slug),
                )
            }
            Self::List { org } => {
                let org = registry.find_org(&org).await?;
                let products = registry.products(org.org_id).await?;
                Answer::list("products", &products, None, ["PRODUCT", "ENABLED", "UPDATED", "CONFIG"], |p| {
                    [p.product.clone(), yes_no(p.enabled), moment(p.updated_at), p.config.to_string()]
                })
            }
        }
    }
}
