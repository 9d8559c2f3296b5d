//! `tracectl idp`: how an org's people sign in.

use std::path::PathBuf;

use clap::Subcommand;
use registry::{IdpKind, Registry};
use serde_json::json;

use crate::config;
use crate::failure::Failure;
use crate::output::{Answer, moment, yes_no};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Set how an org's people sign in. Replaces the earlier configuration.
    ///
    /// The configuration has secrets, so it comes from a file or from standard input, and not from the command line,
    /// which other users of the machine can see.
    #[command(after_help = "Examples:\n  \
        tracectl idp set acme oidc --config-file oidc.json\n  \
        tracectl idp set acme saml --config-file - --disabled")]
    Set {
        /// The org: its slug or id.
        org: String,
        /// The protocol: oidc or saml.
        kind: IdpKind,
        /// The file that holds the configuration, one JSON object; `-` is standard input.
        #[arg(long, value_name = "FILE")]
        config_file: PathBuf,
        /// Keep the configuration, but do not let people sign in with it.
        #[arg(long)]
        disabled: bool,
    },
    /// Show how an org's people sign in. Secrets are shown as ***.
    #[command(after_help = "Examples:\n  tracectl idp show acme\n  tracectl idp show acme --output json")]
    Show {
        /// The org: its slug or id.
        org: String,
    },
}

impl Command {
    pub(crate) async fn run(self, registry: &Registry) -> Result<Answer, Failure> {
        match self {
            Self::Set { org, kind, config_file, disabled } => {
                let config = config::from_file(&config_file)?;
                let org = registry.find_org(&org).await?;
                let changed = registry.set_idp(org.org_id, kind, !disabled, &config).await?;
                Answer::change(
                    &json!({ "org_id": org.org_id, "kind": kind, "enabled": !disabled }),
                    changed,
                    &format!("{} has an identity provider by {kind}", org.slug),
                    &format!("{} has an identity provider just so; nothing changed", org.slug),
                )
            }
            Self::Show { org } => {
                let org = registry.find_org(&org).await?;
                let Some(idp) = registry.idp(org.org_id).await? else {
                    return Err(Failure::new(
                        format!("{} has no identity provider", org.slug),
                        format!("tracectl idp set {} oidc --config-file FILE gives it one", org.slug),
                    ));
                };
                Answer::record(
                    &idp,
                    &[
                        ("org", org.slug),
                        ("kind", idp.kind.to_string()),
                        ("enabled", yes_no(idp.enabled)),
                        ("updated", moment(idp.updated_at)),
                        ("config", idp.config.to_string()),
                    ],
                )
            }
        }
    }
}
