//! Counts of items by org and hour: items that are stored, and items that an API process answered with a 2xx.

use model::ids::OrgId;
use uuid::Uuid;

use super::InsertError;
use super::records::{Records, unexpected, within};

/// The most rows in one insert into `answered`.
const ANSWERED_ROWS: usize = 10_000;

/// Which items to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tally {
    /// Billed runs and spans. Read without FINAL, so that items stored twice count twice.
    Stored,
    /// Runs and spans that were answered with a 2xx.
    Answered,
}

/// Which orgs to count.
#[derive(Clone, Copy, Debug)]
pub enum TallyOf<'a> {
    /// All orgs, so that the answer grows with their number.
    Everyone,
    /// One org, with all others left out by the query.
    Org(OrgId),
    /// The orgs of those buckets (`ledger`).
    Buckets(&'a [u16]),
}

/// The number of items of an org in an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrgTally {
    /// The org that sent the items.
    pub org_id: OrgId,
    /// The hour in which the items were received, in hours since the Unix epoch.
    pub hour: i64,
    /// The number of items.
    pub items: u64,
}

/// The bucket of an org: the last ten bits of its id, as in `ledger::balance`.
macro_rules! bucket {
    () => {
        "bitAnd(reinterpretAsUInt16(reverse(substring(UUIDToNum(org_id), 15, 2))), 1023)"
    };
}
/// Items of the given hours. The query compares `received_at` with the limits of the hours as well, so that ClickHouse
/// can skip whole parts.
macro_rules! stored {
    () => {
        " FROM billing_meter WHERE meter = 'span_ingested'
            AND received_at >= fromUnixTimestamp64Second({from:Int64}, 'UTC')
            AND received_at < fromUnixTimestamp64Second({until:Int64}, 'UTC')
            AND toInt64(intDiv(toUnixTimestamp(received_at), 3600)) IN {hours:Array(Int64)}"
    };
}
/// FINAL: for each process and hour, the largest count wins.
macro_rules! answered {
    () => {
        " FROM answered FINAL WHERE hour >= fromUnixTimestamp64Second({from:Int64}, 'UTC')
            AND hour < fromUnixTimestamp64Second({until:Int64}, 'UTC')
            AND toInt64(intDiv(toUnixTimestamp(hour), 3600)) IN {hours:Array(Int64)}"
    };
}
macro_rules! of_orgs {
    () => {
        concat!(
            " AND ({everyone:UInt8} OR org_id = {org:UUID} OR ",
            bucket!(),
            " IN {buckets:Array(UInt16)}) GROUP BY org_id, at LIMIT {limit:UInt32}"
        )
    };
}
const STORED_OF_ORGS: &str = concat!(
    "SELECT toString(org_id), toInt64(intDiv(toUnixTimestamp(received_at), 3600)) AS at, sum(quantity)",
    stored!(),
    of_orgs!()
);
const ANSWERED_OF_ORGS: &str = concat!(
    "SELECT toString(org_id), toInt64(intDiv(toUnixTimestamp(hour), 3600)) AS at, sum(items)",
    answered!(),
    of_orgs!()
);
const STORED_OF_BUCKETS: &str = concat!(
    "SELECT toUInt16(",
    bucket!(),
    ") AS bucket, toInt64(intDiv(toUnixTimestamp(received_at), 3600)) AS at, sum(quantity)",
    stored!(),
    " GROUP BY bucket, at"
);
const ANSWERED_OF_BUCKETS: &str = concat!(
    "SELECT toUInt16(",
    bucket!(),
    ") AS bucket, toInt64(intDiv(toUnixTimestamp(hour), 3600)) AS at, sum(items)",
    answered!(),
    " GROUP BY bucket, at"
);

impl Tally {
    const fn table(self) -> &'static str {
        match self {
            Self::Stored => "billing_meter",
            Self::Answered => "answered",
        }
    }
}

impl Records {
    /// Number of items by org and hour, for those hours since the Unix epoch; at most `limit` rows.
    pub async fn tally_orgs(
        &self,
        tally: Tally,
        of: TallyOf<'_>,
        hours: &[i64],
        limit: u32,
    ) -> Result<Vec<OrgTally>, InsertError> {
        let sql = match tally {
            Tally::Stored => STORED_OF_ORGS,
            Tally::Answered => ANSWERED_OF_ORGS,
        };
        let (everyone, org, buckets) = match of {
            TallyOf::Everyone => (1_u8, Uuid::nil(), &[][..]),
            TallyOf::Org(org) => (0, org.0, &[][..]),
            TallyOf::Buckets(buckets) => (0, Uuid::nil(), buckets),
        };
        let query = self.in_hours(sql, hours).param("everyone", everyone).param("org", org.to_string());
        let query = query.param("buckets", buckets).param("limit", limit);
        let rows = within(tally.table(), query.fetch_all::<(String, i64, u64)>()).await?;
        let rows = rows.into_iter().map(|(org_id, hour, items)| {
            let org_id = org_id.parse().map_err(|_| unexpected(tally.table()))?;
            Ok(OrgTally { org_id, hour, items })
        });
        rows.collect()
    }

    /// Number of items by bucket of orgs and hour, for those hours since the Unix epoch.
    pub async fn tally_buckets(&self, tally: Tally, hours: &[i64]) -> Result<Vec<(u16, i64, u64)>, InsertError> {
        let sql = match tally {
            Tally::Stored => STORED_OF_BUCKETS,
            Tally::Answered => ANSWERED_OF_BUCKETS,
        };
        within(tally.table(), self.in_hours(sql, hours).fetch_all()).await
    }

    fn in_hours(&self, sql: &'static str, hours: &[i64]) -> clickhouse::query::Query {
        let (first, last) = (hours.first().copied().unwrap_or_default(), hours.last().copied().unwrap_or(-1));
        let query = self.client.query(sql).param("hours", hours);
        query.param("from", first.saturating_mul(3600)).param("until", last.saturating_add(1).saturating_mul(3600))
    }

    /// Stores how many items a process has answered so far, per org and hour. A count smaller than the stored one
    /// changes nothing, so the call may be repeated.
    pub async fn insert_answered(&self, process: Uuid, counts: &[(OrgId, i64, u64)]) -> Result<(), InsertError> {
        const SQL: &str = "INSERT INTO answered (hour, org_id, process, items, schema_version) FORMAT JSONEachRow";
        for some in counts.chunks(ANSWERED_ROWS) {
            let mut lines = Vec::new();
            for (org_id, hour, items) in some {
                let line = serde_json::json!({
                    "hour": hour.saturating_mul(3600), "org_id": org_id, "process": process, "items": items,
                    "schema_version": 1,
                });
                lines.extend_from_slice(format!("{line}\n").as_bytes());
            }
            // Every write has its own token, so that ClickHouse drops none as a repetition.
            self.insert("answered", SQL, lines, &Uuid::new_v4().to_string()).await?;
        }
        Ok(())
    }
}
