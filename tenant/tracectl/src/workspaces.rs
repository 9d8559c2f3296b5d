//! `tracectl workspaces`: creates, lists and archives workspaces.

use clap::Subcommand;
use registry::{Registry, Workspace};
use serde_json::json;

use crate::confirm::Confirm;
use crate::failure::Failure;
use crate::output::{Answer, moment};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a workspace in an org.
    #[command(after_help = "Examples:\n  \
        tracectl workspaces create acme research --name 'Research'\n  \
        tracectl workspaces create acme staging")]
    Create {
        /// The org: its slug or id.
        org: String,
        /// The workspace's name in commands and addresses: 3 to 40 of a-z, 0-9 and -.
        slug: String,
        /// Its name for people [default: the slug]
        #[arg(long)]
        name: Option<String>,
    },
    /// List an org's workspaces, archived ones too.
    #[command(after_help = "Examples:\n  \
        tracectl workspaces list acme\n  \
        tracectl workspaces list acme --output json | jq -r '.workspaces[].slug'")]
    List {
        /// The org: its slug or id.
        org: String,
        /// Continue after this slug, where a list was cut.
        #[arg(long, value_name = "SLUG")]
        after: Option<String>,
    },
    /// Archive a workspace: the keys of all its projects stop working. Its data stays.
    #[command(after_help = "Examples:\n  tracectl workspaces archive acme research\n  \
        tracectl workspaces archive acme research --yes")]
    Archive {
        /// The org: its slug or id.
        org: String,
        /// The workspace: its slug or id.
        workspace: String,
        #[command(flatten)]
        confirm: Confirm,
    },
}

impl Command {
    pub(crate) async fn run(self, registry: &Registry) -> Result<Answer, Failure> {
        match self {
            Self::Create { org, slug, name } => {
                let org = registry.find_org(&org).await?;
                let name = name.unwrap_or_else(|| slug.clone());
                let workspace_id = registry.create_workspace(org.org_id, &slug, &name).await?;
                Answer::record(
                    &json!({ "org_id": org.org_id, "workspace_id": workspace_id, "slug": slug, "name": name }),
                    &[("org", org.slug), ("workspace", slug), ("id", workspace_id.to_string()), ("name", name)],
                )
            }
            Self::List { org, after } => {
                let org = registry.find_org(&org).await?;
                list(&registry.workspaces(org.org_id, after.as_deref()).await?)
            }
            Self::Archive { org, workspace, confirm } => {
                let org = registry.find_org(&org).await?;
                let workspace = registry.find_workspace(org.org_id, &workspace).await?;
                let what = format!("archiving the workspace {} of {}", workspace.slug, org.slug);
                confirm.ask(&what, "the keys of all its projects stop working for good, within a minute")?;
                let changed = registry.archive_workspace(org.org_id, workspace.workspace_id).await?;
                let slug = &workspace.slug;
                Answer::change(
                    &json!({ "org_id": org.org_id, "workspace_id": workspace.workspace_id, "slug": slug }),
                    changed,
                    &format!("{slug} is archived"),
                    &format!("{slug} was archived before; nothing changed"),
                )
            }
        }
    }
}

fn list(workspaces: &[Workspace]) -> Result<Answer, Failure> {
    let headings = ["SLUG", "ID", "STATUS", "CREATED", "NAME"];
    Answer::list("workspaces", workspaces, Some(|w| &w.slug), headings, |w| {
        [w.slug.clone(), w.workspace_id.to_string(), w.status.to_string(), moment(w.created_at), w.name.clone()]
    })
}
