//! `tracectl ledger`: whether any accepted item is lost or doubled.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use ledger::{Balance, Hours, Imbalance, LedgerReader, Row, Scope, imbalances};
use model::ids::OrgId;
use registry::{OrgSummary, Registry};
use serde_json::json;
use stores::clock::unix_hour;
use stores::redis::Redis;
use time::OffsetDateTime;

use crate::environment::REDIS;
use crate::failure::Failure;
use crate::output::{Answer, Format, moment_or_none};
use crate::shards::every_page;
use crate::stores::Clickhouse;
use crate::when;

/// The pause between two tables of `--watch`.
const WATCH_EVERY: Duration = Duration::from_secs(5);

#[derive(Args, Debug)]
pub(crate) struct Command {
    /// The org: its slug or id. Without it, every org that sent something.
    org: Option<String>,
    /// How many hours to show, 1 to 168, the present one included.
    #[arg(long, default_value = "24", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=168))]
    hours: u32,
    /// Print the table again every 5 s.
    #[arg(long)]
    watch: bool,
    /// How long an imbalance may last, such as 2m: items that move during the count can look like one.
    #[arg(long, default_value = "2m", value_parser = when::span)]
    settle: Duration,
    #[command(flatten)]
    clickhouse: Clickhouse,
}

/// One reading of the ledger, as it is printed.
struct Page {
    balance: Balance,
    seen: BTreeMap<(OrgId, i64), Imbalance>,
    slugs: BTreeMap<OrgId, String>,
}

impl Command {
    pub(crate) async fn run(
        self,
        registry: &Registry,
        redis: Option<Redis>,
        format: Format,
    ) -> Result<Answer, Failure> {
        let redis = redis.ok_or_else(|| {
            Failure::usage("it is not known where Redis is, which has the counts", format!("set {REDIS}"))
        })?;
        let reader = LedgerReader::new(redis.clone(), self.clickhouse.records()?);
        let orgs = match &self.org {
            Some(org) => vec![registry.find_org(org).await?],
            None => every_page(async |after| registry.orgs(None, after).await, |org: &OrgSummary| &org.slug).await?,
        };
        let scope = self.org.as_ref().and(orgs.first()).map_or(Scope::Everyone, |org| Scope::Org(org.org_id));
        let slugs: BTreeMap<OrgId, String> = orgs.into_iter().map(|org| (org.org_id, org.slug)).collect();
        loop {
            let failed =
                |error: String| Failure::new(error, "check that Redis and ClickHouse run, then repeat the command");
            let hours = Hours::up_to(unix_hour(), self.hours);
            let balance = reader.balance(scope, &hours).await.map_err(|error| failed(error.to_string()))?;
            let seen = imbalances(&redis).await.map_err(|error| failed(error.to_string()))?;
            let page = Page { balance, seen, slugs: slugs.clone() };
            let overdue = page.overdue(self.settle);
            let answer = page.answer();
            if self.watch {
                answer.print(format)?;
                tokio::time::sleep(WATCH_EVERY).await;
                continue;
            }
            if overdue == 0 {
                return Ok(answer);
            }
            answer.print(format)?;
            return Err(Failure::alarm(
                format!("{overdue} of these do not add up"),
                "docs/operations/ledger.md says what an imbalance means and where to look",
            ));
        }
    }
}

impl Page {
    /// How many rows have had an imbalance for longer than that: since it was first seen, or since the end of their
    /// hour.
    fn overdue(&self, settle: Duration) -> usize {
        let long_ago = OffsetDateTime::now_utc().unix_timestamp().saturating_sub(settle.as_secs().cast_signed());
        let is_overdue = |row: &&Row| {
            let ended = row.hour.saturating_add(1).saturating_mul(3600);
            let since = self.seen.get(&(row.org_id, row.hour)).map_or(ended, |seen| seen.since_s.min(ended));
            !row.is_balanced() && since <= long_ago
        };
        self.balance.rows.iter().filter(is_overdue).count()
    }

    fn answer(self) -> Answer {
        let at = |seconds: i64| OffsetDateTime::from_unix_timestamp(seconds).ok();
        let seen = |row: &Row| self.seen.get(&(row.org_id, row.hour)).filter(|_| !row.is_balanced());
        let rows = self.balance.rows.iter().map(|row| {
            let since = seen(row).and_then(|seen| at(seen.since_s));
            [
                moment_or_none(at(row.hour.saturating_mul(3600))),
                row.amounts.accepted.to_string(),
                row.amounts.answered.to_string(),
                row.amounts.stored.to_string(),
                row.amounts.withheld.parked.saturating_add(row.amounts.withheld.dropped).to_string(),
                row.amounts.dead_lettered.held.saturating_add(row.amounts.dead_lettered.dropped).to_string(),
                row.amounts.in_flight.to_string(),
                row.amounts.imbalance.to_string(),
                moment_or_none(since),
                self.slugs.get(&row.org_id).cloned().unwrap_or_else(|| row.org_id.to_string()),
            ]
        });
        let headings =
            ["HOUR", "ACCEPTED", "ANSWERED", "STORED", "WITHHELD", "DEAD", "IN FLIGHT", "IMBALANCE", "SINCE", "ORG"];
        let json = self.balance.rows.iter().map(|row| {
            json!({ "org": self.slugs.get(&row.org_id), "row": row, "imbalance_since_s": seen(row).map(|seen| seen.since_s) })
        });
        let json = json!({
            "rows": json.collect::<Vec<_>>(), "imbalance": self.balance.imbalance(),
            "is_whole": self.balance.is_whole, "is_complete": self.balance.is_complete, "unreadable": self.balance.unreadable,
        });
        let mut answer = Answer::table(json, &headings, rows.collect());
        if !self.balance.is_whole {
            answer = answer.note(
                "there are too many orgs and hours to list: only orgs that do not balance are, and of those some",
            );
        }
        if !self.balance.is_complete {
            answer = answer.note("there is too much in flight to look at all of it: those are lower bounds, and nothing is called missing");
        }
        if self.balance.unreadable > 0 {
            let (n, next) = (self.balance.unreadable, "tracectl dlq ls shows dead letters");
            answer = answer.note(format!("of {n} entries or dead letters it is not known what they hold; {next}"));
        }
        answer
    }
}
