//! `tracectl keys`: creates, lists, rotates and revokes API keys.

use std::time::Duration;

use auth::api_key;
use clap::Subcommand;
use registry::{KeyInfo, NewKey, Registry};
use serde_json::json;
use time::OffsetDateTime;

use crate::confirm::Confirm;
use crate::failure::Failure;
use crate::output::{Answer, moment, moment_or_none};
use crate::when;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a key for a project. The whole key is printed once, alone on its line, and never again.
    #[command(after_help = "Examples:\n  \
        tracectl keys create acme website --name 'production' --expires 90d\n  \
        tracectl keys create acme website --name ci --scopes ingest:write,runs:read --expires 2027-01-31\n  \
        tracectl keys create acme website --name ci --output json | jq -r .key")]
    Create {
        /// The org: its slug or id.
        org: String,
        /// The project: its slug or id.
        project: String,
        /// A name for people, such as where the key is used.
        #[arg(long)]
        name: String,
        /// The scopes of the key, each as area:action or area:*, separated by commas.
        #[arg(long, value_delimiter = ',', default_value = "ingest:write")]
        scopes: Vec<String>,
        /// When the key expires: 90d from now, at the beginning of 2027-01-31 in UTC, or at 2027-01-31T12:00:00Z
        /// [default: never]
        #[arg(long, value_name = "WHEN", value_parser = when::moment, allow_hyphen_values = true)]
        expires: Option<OffsetDateTime>,
    },
    /// List an org's working keys, newest first.
    #[command(after_help = "Examples:\n  tracectl keys list acme\n  tracectl keys list acme --all --output json")]
    List {
        /// The org: its slug or id.
        org: String,
        /// Also list keys that were revoked or have expired.
        #[arg(long)]
        all: bool,
        /// Go on after this public id, where a list was cut.
        #[arg(long, value_name = "PUBLIC_ID")]
        after: Option<String>,
    },
    /// Replace a key by a new one: same project, name and scopes. The old one works for a while longer.
    #[command(after_help = "Examples:\n  \
        tracectl keys rotate 0123456789abcdef01234567 --overlap 24h\n  \
        tracectl keys rotate 0123456789abcdef01234567 --overlap 0s --yes   # the old key leaked")]
    Rotate {
        /// The key's public id: what is between tb_ and the dot.
        public_id: String,
        /// How long the old key still works, such as 24h or 7d; with 0s it is revoked.
        #[arg(long, default_value = "24h", value_parser = when::span, allow_hyphen_values = true)]
        overlap: Duration,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Revoke a key for good: within a minute, requests with it are refused.
    #[command(after_help = "Examples:\n  tracectl keys revoke 0123456789abcdef01234567\n  \
        tracectl keys revoke 0123456789abcdef01234567 --yes")]
    Revoke {
        /// The key's public id: what is between tb_ and the dot.
        public_id: String,
        #[command(flatten)]
        confirm: Confirm,
    },
}

/// The note printed beside a new key.
const SHOWN_ONCE: &str = "keep it now: it is not shown again, and the registry holds only its hash";

impl Command {
    pub(crate) async fn run(self, registry: &Registry) -> Result<Answer, Failure> {
        match self {
            Self::Create { org, project, name, scopes, expires } => {
                let org = registry.find_org(&org).await?;
                let project = registry.find_project(org.org_id, &project).await?;
                let scopes: Vec<&str> = scopes.iter().map(String::as_str).collect();
                let wanted = NewKey { name: &name, scopes: &scopes, expires_at: expires };
                let key = registry.create_key(org.org_id, project.project_id, &wanted).await?;
                let public_id = key.public_id();
                let json = json!({
                    "key": key.reveal(),
                    "public_id": public_id,
                    "org_id": org.org_id,
                    "project_id": project.project_id,
                    "name": name,
                    "scopes": scopes,
                    "expires_at": expires.map(moment),
                });
                let ends = expires.map_or_else(|| "never ends".to_owned(), |at| format!("ends {}", moment(at)));
                Ok(Answer::secret(key.reveal(), json, if_lost(public_id, "repeat the command"))
                    .note(format!("public id {public_id}, scopes {}, {ends}", scopes.join(",")))
                    .note(SHOWN_ONCE))
            }
            Self::List { org, all, after } => list(registry, &org, all, after.as_deref()).await,
            Self::Rotate { public_id, overlap, confirm } => {
                check_public_id(&public_id)?;
                if overlap.is_zero() {
                    let what = format!("rotating the key {public_id} without an overlap");
                    confirm.ask(&what, "what uses it is refused until it has the new one")?;
                }
                let rotated = registry.rotate_key(&public_id, overlap).await?;
                let (key, old_ends_at) = (&rotated.key, moment(rotated.old_ends_at));
                let json = json!({
                    "key": key.reveal(),
                    "public_id": key.public_id(),
                    "expires_at": rotated.expires_at.map(moment),
                    "old_public_id": public_id,
                    "old_ends_at": old_ends_at,
                });
                // A key is rotated only once, so repeating the command would be refused.
                Ok(Answer::secret(
                    key.reveal(),
                    json,
                    if_lost(key.public_id(), "make another with tracectl keys create"),
                )
                .note(format!("public id {}; the old key, {public_id}, works until {old_ends_at}", key.public_id()))
                .note(SHOWN_ONCE))
            }
            Self::Revoke { public_id, confirm } => {
                check_public_id(&public_id)?;
                let what = format!("revoking the key {public_id}");
                confirm.ask(&what, "what uses it is refused for good, within a minute")?;
                let changed = registry.revoke_key(&public_id).await?;
                Answer::change(
                    &json!({ "public_id": public_id }),
                    changed,
                    &format!("{public_id} is revoked"),
                    &format!("{public_id} had ended before; nothing changed"),
                )
            }
        }
    }
}

/// Refuses a text that is not a public id without repeating it: it may be a whole key.
fn check_public_id(text: &str) -> Result<(), Failure> {
    if api_key::is_public_id(text) {
        return Ok(());
    }
    Err(Failure::usage(
        "that is no key's public id",
        "it is what is between tb_ and the dot, 24 of 0-9 and a-f; tracectl keys list ORG shows them",
    ))
}

fn if_lost(public_id: &str, then: &str) -> String {
    format!("nobody has seen it; remove it with tracectl keys revoke {public_id} --yes, and {then}")
}

async fn list(registry: &Registry, org: &str, all: bool, after: Option<&str>) -> Result<Answer, Failure> {
    let org = registry.find_org(org).await?;
    let keys = registry.keys(org.org_id, all, after).await?;
    let headings = ["PUBLIC ID", "PROJECT", "STATE", "CREATED", "ENDS", "SCOPES", "NAME"];
    Answer::list("keys", &keys, Some(|key| &key.public_id), headings, |key| {
        [
            key.public_id.clone(),
            key.project_slug.clone(),
            state(key).to_owned(),
            moment(key.created_at),
            moment_or_none(key.revoked_at.or(key.expires_at)),
            key.scopes.join(","),
            key.name.clone(),
        ]
    })
}

fn state(key: &KeyInfo) -> &'static str {
    if key.revoked_at.is_some() {
        "revoked"
    } else if key.expires_at.is_some_and(|at| at <= OffsetDateTime::now_utc()) {
        "expired"
    } else if key.rotated_at.is_some() {
        "rotated"
    } else {
        "live"
    }
}
