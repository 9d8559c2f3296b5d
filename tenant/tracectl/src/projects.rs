//! `tracectl projects`: creates, lists and archives projects.

use clap::Subcommand;
use registry::{MAIN_WORKSPACE, Registry};
use serde_json::json;

use crate::confirm::Confirm;
use crate::failure::Failure;
use crate::output::{Answer, moment};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a project in a workspace of an org. Slugs are unique within the org.
    #[command(after_help = "Examples:\n  \
        tracectl projects create acme website\n  \
        tracectl projects create acme ranking --workspace research --name 'Ranking v2'")]
    Create {
        /// The org: its slug or id.
        org: String,
        /// The project's name in commands and addresses: 3 to 40 of a-z, 0-9 and -.
        slug: String,
        /// Its name for people [default: the slug]
        #[arg(long)]
        name: Option<String>,
        /// The workspace that it is in: its slug or id.
        #[arg(long, default_value = MAIN_WORKSPACE)]
        workspace: String,
    },
    /// List an org's projects, archived ones too.
    #[command(after_help = "Examples:\n  \
        tracectl projects list acme\n  \
        tracectl projects list acme --workspace research --output json")]
    List {
        /// The org: its slug or id.
        org: String,
        /// Only the projects of this workspace: its slug or id.
        #[arg(long)]
        workspace: Option<String>,
        /// Continue after this slug, where a list was cut.
        #[arg(long, value_name = "SLUG")]
        after: Option<String>,
    },
    /// Archive a project: its keys stop working. Its data stays.
    #[command(after_help = "Examples:\n  tracectl projects archive acme website\n  \
        tracectl projects archive acme website --yes")]
    Archive {
        /// The org: its slug or id.
        org: String,
        /// The project: its slug or id.
        project: String,
        #[command(flatten)]
        confirm: Confirm,
    },
}

impl Command {
    pub(crate) async fn run(self, registry: &Registry) -> Result<Answer, Failure> {
        match self {
            Self::Create { org, slug, name, workspace } => {
                let org = registry.find_org(&org).await?;
                let workspace = registry.find_workspace(org.org_id, &workspace).await?;
                let name = name.unwrap_or_else(|| slug.clone());
                let project_id = registry.create_project(org.org_id, workspace.workspace_id, &slug, &name).await?;
                Answer::record(
                    &json!({
                        "org_id": org.org_id,
                        "workspace_id": workspace.workspace_id,
                        "project_id": project_id,
                        "slug": slug,
                        "name": name,
                    }),
                    &[
                        ("org", org.slug),
                        ("workspace", workspace.slug),
                        ("project", slug),
                        ("id", project_id.to_string()),
                        ("name", name),
                    ],
                )
            }
            Self::List { org, workspace, after } => list(registry, &org, workspace.as_deref(), after.as_deref()).await,
            Self::Archive { org, project, confirm } => {
                let org = registry.find_org(&org).await?;
                let project = registry.find_project(org.org_id, &project).await?;
                let slug = &project.slug;
                let what = format!("archiving the project {slug} of {}", org.slug);
                confirm.ask(&what, "its keys stop working for good, within a minute")?;
                let changed = registry.archive_project(org.org_id, project.project_id).await?;
                Answer::change(
                    &json!({ "org_id": org.org_id, "project_id": project.project_id, "slug": slug }),
                    changed,
                    &format!("{slug} is archived"),
                    &format!("{slug} was archived before; nothing changed"),
                )
            }
        }
    }
}

async fn list(registry: &Registry, org: &str, workspace: Option<&str>, after: Option<&str>) -> Result<Answer, Failure> {
    let org = registry.find_org(org).await?;
    let workspace = match workspace {
        Some(workspace) => Some(registry.find_workspace(org.org_id, workspace).await?.workspace_id),
        None => None,
    };
    let projects = registry.projects(org.org_id, workspace, after).await?;
    let headings = ["SLUG", "ID", "WORKSPACE", "STATUS", "CREATED", "NAME"];
    Answer::list("projects", &projects, Some(|p| &p.slug), headings, |p| {
        [
            p.slug.clone(),
            p.project_id.to_string(),
            p.workspace_slug.clone(),
            p.status.to_string(),
            moment(p.created_at),
            p.name.clone(),
        ]
    })
}
