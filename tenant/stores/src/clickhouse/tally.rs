//! How many items there are by org and hour: of those that are stored, and of those that an API has answered for.

use model::ids::OrgId;
use uuid::Uuid;

use super::InsertError;
use super::records::{Records, unexpected, within};

/// Rows of one insert of what was answered.
const ANSWERED_ROWS: usize = 10_000;

/// Which items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tally {
    /// Runs and spans that are billed. Read without FINAL: what was stored twice is to be seen.
    Stored,
    /// Runs and spans that were answered with a 2xx.
    Answered,
}

/// Whose.
#[derive(Clone, Copy, Debug)]
pub enum TallyOf<'a> {
    /// Every org's.
    Everyone,
    /// That org's.
    Org(OrgId),
    /// Of the orgs of those buckets ([`ledger`]).
    Buckets(&'a [u16]),
}

/// Items of an org in an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrgTally {
    /// Whose.
    pub org_id: OrgId,
    /// Hours since the Unix epoch, of when they were received.
    pub hour: i64,
    /// How many.
    pub items: u64,
}

/// The last ten bits of an org's id, as in `ledger::balance`.
macro_rules! bucket {
    () => {
        "bitAnd(reinterpretAsUInt16(reverse(substring(UUIDToNum(org_id), 15, 2))), 1023)"
    };
}
/// Items of hours. `received_at` is compared with the hours' ends as well, which tell whole parts that need not be
/// read.
macro_rules! stored {
    () => {
        " FROM billing_meter WHERE meter = 'span_ingested'
            AND received_at >= fromUnixTimestamp64Second({from:Int64}, 'UTC')
            AND received_at < fromUnixTimestamp64Second({until:Int64}, 'UTC')
            AND toInt64(intDiv(toUnixTimestamp(received_at), 3600)) IN {hours:Array(Int64)}"
    };
}
/// FINAL: of what a process has written of an hour, the largest counts.
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
    /// Items by org, of those hours since the Unix epoch; at most `limit` orgs and hours.
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

    /// Items by bucket of orgs and hour, of those hours since the Unix epoch.
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

    /// Writes down how much a process has answered for so far, per org and hour. A smaller count than was written
    /// before changes nothing, so it may be repeated.
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
            // Every write its own token: nothing of it may be taken for a retry.
            self.insert("answered", SQL, lines, &Uuid::new_v4().to_string()).await?;
        }
        Ok(())
    }
}
