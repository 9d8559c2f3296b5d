//! `tracectl orgs`: creates orgs, changes them, and shows who did it.

use clap::Subcommand;
use model::org::OrgStatus;
use registry::{LIST_MAX, NewOrg, OrgKind, OrgSummary, Registry};
use serde_json::json;
use time::OffsetDateTime;

use crate::confirm::Confirm;
use crate::failure::Failure;
use crate::output::{Answer, moment, moment_or_none, or_none};
use crate::{limits, when};

/// How many audit events are shown by default.
const EVENTS_DEFAULT: u32 = 50;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create an org, with its workspace `main`.
    #[command(after_help = "Examples:\n  \
        tracectl orgs create acme --name 'Acme Inc.' --plan pro\n  \
        tracectl orgs create try-it --status trial --trial-ends 30d --retention-days 14")]
    Create {
        /// The org's name in commands and addresses: 3 to 40 of a-z, 0-9 and -.
        slug: String,
        /// Its name for people [default: the slug]
        #[arg(long)]
        name: Option<String>,
        /// The plan of the org; `tracectl orgs plans` lists the plans.
        #[arg(long, default_value = "free")]
        plan: String,
        /// What the org is for: customer or demo.
        #[arg(long, default_value = "customer")]
        kind: OrgKind,
        /// The first status: active, trial or demo.
        #[arg(long, default_value = "active")]
        status: OrgStatus,
        /// How many days its traces are kept, 1 to 3650 [default: 90]
        #[arg(long, value_name = "DAYS", value_parser = days, allow_hyphen_values = true)]
        retention_days: Option<u32>,
        /// When its trial ends: 30d from now, or a day such as 2027-01-31.
        #[arg(long, value_name = "WHEN", value_parser = when::moment, allow_hyphen_values = true)]
        trial_ends: Option<OffsetDateTime>,
    },
    /// List orgs by slug.
    #[command(after_help = "Examples:\n  tracectl orgs list --status frozen\n  \
        tracectl orgs list --output json | jq -r '.orgs[].slug'")]
    List {
        /// Only orgs with this status: demo, trial, active, frozen or archived.
        #[arg(long)]
        status: Option<OrgStatus>,
        /// Continue after this slug, where a list was cut.
        #[arg(long, value_name = "SLUG")]
        after: Option<String>,
    },
    /// Show an org with its limits and the number of its workspaces, projects and keys.
    #[command(after_help = "Examples:\n  tracectl orgs show acme\n  tracectl orgs show acme --output json")]
    Show {
        /// The org: its slug or id.
        org: String,
    },
    /// List the plans and their limits.
    #[command(after_help = "Examples:\n  tracectl orgs plans\n  tracectl orgs plans --output json")]
    Plans,
    /// Change the plan of an org. Its own limits stay.
    #[command(after_help = "Examples:\n  tracectl orgs set-plan acme enterprise")]
    SetPlan {
        /// The org: its slug or id.
        org: String,
        /// The plan; `tracectl orgs plans` lists them.
        plan: String,
    },
    /// Change how many days an org's traces are kept.
    #[command(after_help = "Examples:\n  tracectl orgs set-retention acme 30")]
    SetRetention {
        /// The org: its slug or id.
        org: String,
        /// How many days, 1 to 3650.
        #[arg(value_parser = days, allow_hyphen_values = true)]
        days: u32,
    },
    /// Freeze an org: all its keys are refused (403) until it is thawed. Its data stays.
    #[command(after_help = "Examples:\n  tracectl orgs freeze acme --reason 'invoice 4711 is overdue'\n  \
        tracectl orgs freeze acme --reason 'attack' --yes")]
    Freeze {
        /// The org: its slug or id.
        org: String,
        /// Why, for the audit trail.
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Thaw a frozen org: it gets its earlier status back.
    #[command(after_help = "Examples:\n  tracectl orgs thaw acme")]
    Thaw {
        /// The org: its slug or id.
        org: String,
    },
    /// Archive an org for good: all its keys are refused (403) and nothing of it can be changed. Its data stays.
    #[command(after_help = "Examples:\n  tracectl orgs archive acme\n  tracectl orgs archive acme --yes")]
    Archive {
        /// The org: its slug or id.
        org: String,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Show the audit trail of an org, newest first.
    #[command(after_help = "Examples:\n  tracectl orgs audit acme\n  \
        tracectl orgs audit acme --limit 500 --output json")]
    Audit {
        /// The org: its slug or id.
        org: String,
        /// The most events to show, 1 to 1000.
        #[arg(long, default_value_t = EVENTS_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=i64::from(LIST_MAX)))]
        limit: u32,
    },
}

fn days(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "is no number of days: use a whole number, such as 30".to_owned())
}

impl Command {
    pub(crate) async fn run(self, registry: &Registry) -> Result<Answer, Failure> {
        match self {
            Self::Create { slug, name, plan, kind, status, retention_days, trial_ends } => {
                let name = name.unwrap_or_else(|| slug.clone());
                let mut new = NewOrg::new(slug, name, plan);
                (new.kind, new.status) = (kind, status);
                (new.retention_days, new.trial_ends_at) = (retention_days, trial_ends);
                let org = registry.create_org(&new).await?;
                summary(&registry.find_org(&org.org_id.to_string()).await?)
            }
            Self::List { status, after } => list(registry, status, after.as_deref()).await,
            Self::Show { org } => show(registry, &org).await,
            Self::Plans => plans(registry).await,
            Self::SetPlan { org, plan } => {
                let org = registry.find_org(&org).await?;
                let changed = registry.set_plan(org.org_id, &plan).await?;
                changed_org(&org, changed, &format!("has the plan {plan}"))
            }
            Self::SetRetention { org, days } => {
                let org = registry.find_org(&org).await?;
                let changed = registry.set_retention(org.org_id, days).await?;
                changed_org(&org, changed, &format!("keeps its traces for {days} days"))
            }
            Self::Freeze { org, reason, confirm } => {
                let org = registry.find_org(&org).await?;
                let keys = keys_of(registry, &org).await?;
                confirm.ask(
                    &format!("freezing {}", org.slug),
                    &format!("{keys} refused (403) within a minute, until it is thawed"),
                )?;
                let changed = registry.freeze(org.org_id, &reason).await?;
                changed_org(&org, changed, "is frozen")
            }
            Self::Thaw { org } => {
                let org = registry.find_org(&org).await?;
                let changed = registry.thaw(org.org_id).await?;
                changed_org(&org, changed, "is no longer frozen")
            }
            Self::Archive { org, confirm } => {
                let org = registry.find_org(&org).await?;
                let keys = keys_of(registry, &org).await?;
                confirm.ask(
                    &format!("archiving {}", org.slug),
                    &format!("{keys} refused (403) within a minute, and there is no way back"),
                )?;
                let changed = registry.archive_org(org.org_id).await?;
                changed_org(&org, changed, "is archived")
            }
            Self::Audit { org, limit } => {
                let org = registry.find_org(&org).await?;
                let events = registry.events(org.org_id, limit).await?;
                Answer::list("events", &events, None, ["TIME", "EVENT", "TARGET", "ACTOR", "DETAIL"], |e| {
                    [
                        moment(e.created_at),
                        e.event_type.clone(),
                        or_none(e.target.as_ref()),
                        e.actor.clone(),
                        e.detail.to_string(),
                    ]
                })
            }
        }
    }
}

/// The start of a sentence about what stops working.
async fn keys_of(registry: &Registry, org: &OrgSummary) -> Result<String, Failure> {
    let live = registry.org(org.org_id).await?.live_keys;
    Ok(if live == 1 { "its key is".to_owned() } else { format!("its {live} keys are") })
}

fn changed_org(org: &OrgSummary, changed: bool, so: &str) -> Result<Answer, Failure> {
    let slug = &org.slug;
    Answer::change(
        &json!({ "org_id": org.org_id, "slug": slug }),
        changed,
        &format!("{slug} {so}"),
        &format!("{slug} {so}, as before; nothing changed"),
    )
}

async fn list(registry: &Registry, status: Option<OrgStatus>, after: Option<&str>) -> Result<Answer, Failure> {
    let orgs = registry.orgs(status, after).await?;
    let headings = ["SLUG", "ID", "STATUS", "PLAN", "KIND", "CREATED", "NAME"];
    Answer::list("orgs", &orgs, Some(|org| &org.slug), headings, |o| {
        [
            o.slug.clone(),
            o.org_id.to_string(),
            o.status.to_string(),
            o.plan.clone(),
            o.kind.to_string(),
            moment(o.created_at),
            o.name.clone(),
        ]
    })
}

async fn show(registry: &Registry, org: &str) -> Result<Answer, Failure> {
    let details = registry.org(registry.find_org(org).await?.org_id).await?;
    let mut fields = fields(&details.org);
    fields.extend([
        ("workspaces", details.workspaces.to_string()),
        ("projects", details.projects.to_string()),
        ("live keys", details.live_keys.to_string()),
    ]);
    fields.extend(limits::lines(&details.limits).map(|line| (line.name, format!("{} ({})", line.limit, line.source))));
    Answer::record(&details, &fields)
}

async fn plans(registry: &Registry) -> Result<Answer, Failure> {
    let plans = registry.plans().await?;
    let headings = ["PLAN", "RPS", "BURST", "EVAL SLOTS", "PER MONTH"];
    Answer::list("plans", &plans, None, headings, |p| {
        let meters: Vec<String> = p.meters.iter().map(|m| format!("{}={}", m.meter, m.limit)).collect();
        [p.plan.clone(), p.rps.to_string(), p.burst.to_string(), p.eval_slots.to_string(), meters.join(" ")]
    })
}

fn fields(org: &OrgSummary) -> Vec<(&'static str, String)> {
    vec![
        ("org", org.slug.clone()),
        ("id", org.org_id.to_string()),
        ("name", org.name.clone()),
        ("status", org.status.to_string()),
        ("kind", org.kind.to_string()),
        ("plan", org.plan.clone()),
        ("retention", format!("{} days", org.retention_days)),
        ("trial ends", moment_or_none(org.trial_ends_at)),
        ("created", moment(org.created_at)),
    ]
}

fn summary(org: &OrgSummary) -> Result<Answer, Failure> {
    Answer::record(org, &fields(org))
}
