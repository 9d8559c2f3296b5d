//! `tracectl quota`: usage per month, and what was parked because of it.

mod parked;

use clap::Subcommand;
use quota::reconcile::{QuotaReconciler, counter};
use registry::{Limit, PeriodUsage, Registry};
use serde::Serialize;
use service::mode::DeploymentMode;
use service::settings::parse;
use stores::redis::Redis;

use crate::environment::REDIS;
use crate::failure::Failure;
use crate::output::{Answer, NONE, moment, moment_or_none, or_none};
use crate::stores::{Clickhouse, Services};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what an org used per month, and its limits now. With the URL of Redis, also the counters that admission
    /// uses.
    #[command(after_help = "Examples:\n  tracectl quota show acme\n  \
        tracectl quota show acme --output json | jq '.usage[] | select(.period == 202611)'")]
    Show {
        /// The org: its slug or id.
        org: String,
    },
    /// Show parked data, per org and month of receipt: accepted data of orgs that are over a monthly limit.
    #[command(after_help = "Examples:\n  tracectl quota parked\n  tracectl quota parked acme")]
    Parked {
        /// The org: its slug or id. Without it all orgs.
        org: Option<String>,
    },
    /// Release an org's parked envelopes, so that they are stored, as far as its monthly limits allow now.
    ///
    /// It may be interrupted and repeated: every envelope is stored once.
    #[command(
        after_help = "Examples:\n  tracectl quota release acme\n  tracectl quota release acme --limit 1000 --force"
    )]
    Release {
        /// The org: its slug or id.
        org: String,
        /// The most envelopes to release, such as 1000, the oldest of each shard first.
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
        /// Release even what exceeds the limits.
        #[arg(long)]
        force: bool,
    },
    /// Sum up an org's usage now, and correct its counters accordingly.
    ///
    /// Workers do this every minute for every org.
    #[command(after_help = "Examples:\n  tracectl quota reconcile acme")]
    Reconcile {
        /// The org: its slug or id.
        org: String,
        /// The mode of the services: saas or self_hosted.
        #[arg(long, env = "TRACEBILITY_DEPLOYMENT_MODE", default_value = "saas", value_parser = parse::deployment_mode)]
        mode: DeploymentMode,
        #[command(flatten)]
        services: Services,
        #[command(flatten)]
        clickhouse: Clickhouse,
    },
}

/// The usage of one meter in one month.
#[derive(Serialize)]
struct UsageLine {
    #[serde(flatten)]
    usage: PeriodUsage,
    limit: Limit,
    /// The counter that admission compares with the limit at present.
    counter: Option<u64>,
}

impl Command {
    pub(crate) async fn run(self, registry: &Registry, redis: Option<Redis>, actor: &str) -> Result<Answer, Failure> {
        let needed = |what: &str| {
            let unknown = format!("it is not known where Redis is, which has {what}");
            redis.clone().ok_or_else(|| Failure::usage(unknown, format!("set {REDIS}")))
        };
        match self {
            Self::Show { org } => show(registry, redis, &org).await,
            Self::Parked { org } => parked::list(registry, needed("what is parked")?, org.as_deref()).await,
            Self::Release { org, limit, force } => {
                parked::release(registry, needed("what is parked")?, &org, limit, force, actor).await
            }
            Self::Reconcile { org, mode, services, clickhouse } => {
                let redis = needed("the counters")?;
                let records = clickhouse.records()?;
                let org = registry.find_org(&org).await?;
                let services = services.registry().await?;
                let quotas = QuotaReconciler::new(services, redis, records, mode.enforces_quotas());
                let report = quotas.org(org.org_id).await.map_err(|error| {
                    Failure::new(error.to_string(), "check that the stores run, then repeat the command")
                })?;
                let up_to = time::OffsetDateTime::from_unix_timestamp_nanos(report.watermark.into());
                let fields = [
                    ("org", org.slug.clone()),
                    ("up to", up_to.map_or_else(|_| NONE.to_owned(), moment)),
                    ("counters corrected", report.corrections.to_string()),
                    ("events told", report.told.to_string()),
                ];
                Answer::record(&report, &fields)
            }
        }
    }
}

async fn show(registry: &Registry, redis: Option<Redis>, org: &str) -> Result<Answer, Failure> {
    let org = registry.find_org(org).await?;
    let limits = registry.limits(org.org_id).await?;
    let mut lines = Vec::new();
    for usage in registry.usage(org.org_id).await? {
        let limit = limits.meters.iter().find(|limit| limit.meter == usage.meter);
        let counter = match &redis {
            None => None,
            Some(redis) => counter(redis, org.org_id, usage.period.unsigned_abs(), usage.meter)
                .await
                .map_err(|error| Failure::new(format!("Redis: {error}"), format!("check {REDIS}, or unset it")))?,
        };
        lines.push(UsageLine { usage, limit: limit.map_or(Limit::Unlimited, |limit| limit.limited.limit), counter });
    }
    let headings = ["MONTH", "METER", "USED", "COUNTER", "LIMIT", "UP TO", "WARNED", "REACHED"];
    Answer::list("usage", &lines, None, headings, |line| {
        [
            line.usage.period.to_string(),
            line.usage.meter.to_string(),
            line.usage.used.to_string(),
            or_none(line.counter),
            line.limit.to_string(),
            moment_or_none(line.usage.watermark),
            moment_or_none(line.usage.warned_at),
            moment_or_none(line.usage.reached_at),
        ]
    })
}
