//! `tracectl limits`: the limits of an org, from its plan or its own.

use clap::{Args, Subcommand};
use model::meter::Meter;
use model::org::OverQuota;
use registry::{Limit, LimitChange, LimitEdit, LimitSource, Limited, Limits, Registry};
use serde_json::json;

use crate::failure::Failure;
use crate::output::{Answer, NONE};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show all limits of an org, and whether each comes from its plan or is its own.
    #[command(after_help = "Examples:\n  tracectl limits show acme\n  \
        tracectl limits show acme --output json | jq '.meters[] | select(.source == \"override\")'")]
    Show {
        /// The org: its slug or id.
        org: String,
    },
    /// Give an org limits of its own, which replace those of its plan. Limits that are not named stay.
    ///
    /// A limit is a whole number or `unlimited`; 0 forbids.
    #[command(after_help = "Examples:\n  \
        tracectl limits set acme --rps 100 --burst 400 --eval-slots 8\n  \
        tracectl limits set acme --meter span_ingested=5000000 --meter span_bytes=unlimited\n  \
        tracectl limits set acme --over-quota drop")]
    Set {
        /// The org: its slug or id.
        org: String,
        #[command(flatten)]
        own: LimitValues,
    },
    /// Remove an org's own limits; those of its plan apply again.
    #[command(after_help = "Examples:\n  tracectl limits clear acme --rps --meter span_ingested")]
    Clear {
        /// The org: its slug or id.
        org: String,
        #[command(flatten)]
        which: LimitNames,
    },
}

#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
pub(crate) struct LimitValues {
    /// Requests per second that a key may sustain, such as 100.
    #[arg(long, value_name = "LIMIT", allow_hyphen_values = true)]
    rps: Option<Limit>,
    /// Requests that a key may send at once, such as 400.
    #[arg(long, value_name = "LIMIT", allow_hyphen_values = true)]
    burst: Option<Limit>,
    /// Evaluations that may run at the same time, such as 8.
    #[arg(long, value_name = "LIMIT", allow_hyphen_values = true)]
    eval_slots: Option<Limit>,
    /// A limit per month, such as span_bytes=5000000000. Meters: span_ingested, span_bytes, eval_judge_call,
    /// eval_judge_tokens and replay_run. May be repeated.
    #[arg(long = "meter", value_name = "METER=LIMIT", value_parser = meter_limit)]
    meters: Vec<(Meter, Limit)>,
    /// What happens to accepted data that is over a monthly limit: park keeps it until the limit is raised, drop
    /// deletes it.
    #[arg(long, value_name = "POLICY")]
    over_quota: Option<OverQuota>,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
pub(crate) struct LimitNames {
    /// Requests per second that a key may sustain.
    #[arg(long)]
    rps: bool,
    /// Requests that a key may send at once.
    #[arg(long)]
    burst: bool,
    /// Evaluations that may run at the same time.
    #[arg(long)]
    eval_slots: bool,
    /// The limit per month of span_ingested, span_bytes, eval_judge_call, eval_judge_tokens or replay_run. May be
    /// repeated.
    #[arg(long = "meter", value_name = "METER")]
    meters: Vec<Meter>,
}

fn meter_limit(text: &str) -> Result<(Meter, Limit), String> {
    let (meter, limit) = text.split_once('=').ok_or("is not METER=LIMIT, such as span_ingested=5000000")?;
    let meter = meter.parse().map_err(|error: model::words::UnknownWord| error.to_string())?;
    let limit = limit.parse().map_err(|error: registry::RegistryError| error.to_string())?;
    Ok((meter, limit))
}

impl LimitValues {
    fn change(self) -> LimitChange {
        let edit = |limit: Option<Limit>| limit.map_or(LimitEdit::Keep, LimitEdit::Set);
        LimitChange {
            rps: edit(self.rps),
            burst: edit(self.burst),
            eval_slots: edit(self.eval_slots),
            meters: self.meters.into_iter().map(|(meter, limit)| (meter, LimitEdit::Set(limit))).collect(),
            over_quota: self.over_quota,
        }
    }
}

impl LimitNames {
    fn change(self) -> LimitChange {
        let edit = |clear| if clear { LimitEdit::Clear } else { LimitEdit::Keep };
        LimitChange {
            rps: edit(self.rps),
            burst: edit(self.burst),
            eval_slots: edit(self.eval_slots),
            meters: self.meters.into_iter().map(|meter| (meter, LimitEdit::Clear)).collect(),
            over_quota: None,
        }
    }
}

impl Command {
    pub(crate) async fn run(self, registry: &Registry) -> Result<Answer, Failure> {
        match self {
            Self::Show { org } => {
                let org = registry.find_org(&org).await?;
                let limits = registry.limits(org.org_id).await?;
                let rows = lines(&limits).map(|line| {
                    [line.name.to_owned(), line.limit.to_string(), line.per.to_owned(), line.source.to_string()]
                });
                // What happens to accepted data of an org that is over a monthly limit.
                let policy = ["over_quota".to_owned(), limits.over_quota.to_string(), String::new(), "org".to_owned()];
                let headings = ["LIMIT", "VALUE", "PER", "FROM"];
                Ok(Answer::table(serde_json::to_value(&limits)?, &headings, rows.chain([policy]).collect()))
            }
            Self::Set { org, own } => change(registry, &org, &own.change()).await,
            Self::Clear { org, which } => change(registry, &org, &which.change()).await,
        }
    }
}

async fn change(registry: &Registry, org: &str, change: &LimitChange) -> Result<Answer, Failure> {
    let org = registry.find_org(org).await?;
    let changed = registry.set_limits(org.org_id, change).await?;
    let slug = &org.slug;
    Answer::change(
        &json!({ "org_id": org.org_id, "slug": slug }),
        changed,
        &format!("the limits of {slug} are changed; tracectl limits show {slug} shows them"),
        &format!("the limits of {slug} were so before; nothing changed"),
    )
}

/// One limit in a form for people.
pub(crate) struct LimitLine {
    pub(crate) name: &'static str,
    pub(crate) limit: Limit,
    /// The period of the limit.
    pub(crate) per: &'static str,
    pub(crate) source: LimitSource,
}

/// All limits, always in the same order.
pub(crate) fn lines(limits: &Limits) -> impl Iterator<Item = LimitLine> {
    let line = |name, per, limited: Limited| LimitLine { name, limit: limited.limit, per, source: limited.source };
    let rates = [
        line("rps", "second", limits.rps),
        line("burst", NONE, limits.burst),
        line("eval_slots", NONE, limits.eval_slots),
    ];
    rates.into_iter().chain(limits.meters.iter().map(move |m| line(m.meter.as_str(), "month", m.limited)))
}
