//! What services read from and write to ClickHouse, apart from ingest: billed usage, and the audit trail.
//!
//! A few named queries, each with a bounded answer. ClickHouse binds their parameters; no query contains them as text.
//! Audit rows are few, so they are sent as JSON.

// As in the parent module.
#![allow(clippy::disallowed_types)]

use std::collections::HashSet;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use clickhouse::Client;
use clickhouse::error::Error;
use model::ids::OrgId;
use model::trace::UnixNanos;
use serde::Serialize;
use time::OffsetDateTime;
use time::macros::format_description;
use uuid::Uuid;

use super::{ClickHouseUrl, InsertError};

/// How long one query, or one insert of audit rows, may take.
pub const QUERY_DEADLINE: Duration = Duration::from_secs(30);
/// The most orgs or events in one query. Each takes 39 bytes of the URL.
pub const NAMES_MAX: usize = 1_000;
/// The schema version that audit rows are written with.
const AUDIT_SCHEMA_VERSION: u16 = 1;

/// How much of a meter an org was billed for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Billed {
    /// The org that was billed.
    pub org_id: OrgId,
    /// The name of the meter, which this build may not know.
    pub meter: String,
    /// The billed amount, in units of the meter.
    pub quantity: u64,
}

/// A row of `audit_log`.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditRow {
    /// The id of the event in the outbox.
    pub event_id: Uuid,
    /// The org that the event concerns; the zero id if it concerns none.
    pub org_id: OrgId,
    /// When the event happened.
    pub event_time: OffsetDateTime,
    /// The type of the event.
    pub event_type: String,
    /// The person or program that caused the event.
    pub actor: String,
    /// What the event changed.
    pub target: String,
    /// Details of the event, as JSON.
    pub detail: String,
}

/// A row of `audit_reconciliation_gap`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AuditGap {
    /// The id of the reconciliation run that found the gap.
    pub detection_id: Uuid,
    /// When the gap was found.
    #[serde(with = "time::serde::rfc3339")]
    pub detected_at: OffsetDateTime,
    /// The id of the event that was missing from `audit_log`.
    pub event_id: Uuid,
    /// The org that the event concerns; the zero id if it concerns none.
    pub org_id: OrgId,
    /// When the event happened.
    #[serde(with = "time::serde::rfc3339")]
    pub event_time: OffsetDateTime,
    /// The type of the event.
    pub event_type: String,
    /// Whether the event has been copied again.
    pub is_repaired: bool,
}

/// Runs these queries. Cheap to clone.
#[derive(Clone)]
pub struct Records {
    pub(super) client: Client,
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The client holds the password.
        f.write_str("Records")
    }
}

impl Records {
    /// No I/O happens here.
    pub fn new(url: &ClickHouseUrl) -> Self {
        let client = url
            .client()
            .with_setting("async_insert", "0")
            .with_setting("insert_deduplicate", "1")
            // The status line is sent at the end, so that a failure half-way is reported as an error.
            .with_setting("wait_end_of_query", "1")
            .with_setting("max_execution_time", QUERY_DEADLINE.as_secs().to_string());
        Self { client }
    }

    /// The usage that those orgs, at most [`NAMES_MAX`], were billed for in a period, for items received before
    /// `before`.
    pub async fn billed(&self, period: u32, before: UnixNanos, orgs: &[OrgId]) -> Result<Vec<Billed>, InsertError> {
        const TABLE: &str = "billing_meter";
        // A period is a partition. FINAL, because an envelope may have been inserted twice.
        const SQL: &str = "SELECT toString(org_id), CAST(meter, 'String'), sum(quantity) FROM billing_meter FINAL
              WHERE org_id IN {orgs:Array(UUID)} AND period = {period:UInt32} AND toYYYYMM(received_at) = {period:UInt32}
                AND received_at < fromUnixTimestamp64Nano({before:Int64}, 'UTC')
              GROUP BY org_id, meter";
        let query = self
            .client
            .query(SQL)
            .param("orgs", texts(orgs.iter().map(|org| org.0))?)
            .param("period", period)
            .param("before", before);
        let rows = within(TABLE, query.fetch_all::<(String, String, u64)>()).await?;
        let billed = rows.into_iter().map(|(org_id, meter, quantity)| {
            let org_id = org_id.parse().map_err(|_| unexpected(TABLE))?;
            Ok(Billed { org_id, meter, quantity })
        });
        billed.collect()
    }

    /// Whether a table has rows that an org sent at that time. For a caller that does not know the result of an insert.
    pub async fn has_rows(&self, table: &'static str, org: OrgId, received_at: UnixNanos) -> Result<bool, InsertError> {
        const SQL: &str = "SELECT count() FROM {table:Identifier} WHERE org_id = {org:UUID}
              AND received_at = fromUnixTimestamp64Nano({received_at:Int64}, 'UTC')";
        let query = self.client.query(SQL).param("table", table).param("org", org.0.to_string());
        let rows: u64 = within(table, query.param("received_at", received_at).fetch_one()).await?;
        Ok(rows > 0)
    }

    /// Whether a table is replicated. If so, Keeper stores a token and its rows in one transaction; otherwise a crash
    /// can keep one and lose the other.
    pub async fn is_replicated(&self, table: &'static str) -> Result<bool, InsertError> {
        const SQL: &str = "SELECT count() FROM system.tables
              WHERE database = currentDatabase() AND name = {table:String} AND match(engine, '^(Replicated|Shared)')";
        let replicated: u64 = within(table, self.client.query(SQL).param("table", table).fetch_one()).await?;
        Ok(replicated > 0)
    }

    /// Inserts events in one block. ClickHouse stores the same `token` only once.
    pub async fn insert_events(&self, rows: &[AuditRow], token: &str) -> Result<(), InsertError> {
        const SQL: &str =
            "INSERT INTO audit_log (event_id, org_id, event_time, event_type, actor, target, detail, source,
             received_at, schema_version) FORMAT JSONEachRow";
        let received_at = timestamp(OffsetDateTime::now_utc());
        let mut lines = Vec::new();
        for row in rows {
            let line = serde_json::json!({
                "event_id": row.event_id, "org_id": row.org_id, "event_time": timestamp(row.event_time),
                "event_type": row.event_type, "actor": row.actor, "target": row.target, "detail": row.detail,
                "source": "outbox", "received_at": received_at, "schema_version": AUDIT_SCHEMA_VERSION,
            });
            lines.extend_from_slice(format!("{line}\n").as_bytes());
        }
        self.insert("audit_log", SQL, lines, token).await
    }

    /// Which of those events, at most [`NAMES_MAX`], are in `audit_log`. All of them happened between the two times.
    pub async fn find_events(
        &self,
        ids: &[Uuid],
        from: OffsetDateTime,
        to: OffsetDateTime,
    ) -> Result<HashSet<Uuid>, InsertError> {
        const TABLE: &str = "audit_log";
        // An event stored twice counts as found, so no FINAL.
        const SQL: &str = "SELECT DISTINCT toString(event_id) FROM audit_log
              WHERE event_id IN {ids:Array(UUID)} AND event_time >= fromUnixTimestamp64Nano({from:Int64}, 'UTC')
                AND event_time <= fromUnixTimestamp64Nano({to:Int64}, 'UTC')";
        let query = self.client.query(SQL).param("ids", texts(ids.iter().copied())?);
        let query = query.param("from", nanos(from)).param("to", nanos(to));
        let found = within(TABLE, query.fetch_all::<String>()).await?;
        found.iter().map(|id| id.parse().map_err(|_| unexpected(TABLE))).collect()
    }

    /// Stores gaps. A second row for the same gap and run replaces the first.
    pub async fn insert_gaps(&self, gaps: &[AuditGap]) -> Result<(), InsertError> {
        const SQL: &str =
            "INSERT INTO audit_reconciliation_gap (detection_id, detected_at, event_id, org_id, event_time,
             event_type, missing_in, is_repaired, schema_version) FORMAT JSONEachRow";
        let mut lines = Vec::new();
        for gap in gaps {
            let line = serde_json::json!({
                "detection_id": gap.detection_id, "detected_at": timestamp(gap.detected_at), "event_id": gap.event_id,
                "org_id": gap.org_id, "event_time": timestamp(gap.event_time), "event_type": gap.event_type,
                "missing_in": "clickhouse", "is_repaired": gap.is_repaired, "schema_version": AUDIT_SCHEMA_VERSION,
            });
            lines.extend_from_slice(format!("{line}\n").as_bytes());
        }
        // Every write has its own token, so that ClickHouse drops none as a repetition.
        self.insert("audit_reconciliation_gap", SQL, lines, &Uuid::new_v4().to_string()).await
    }

    /// The latest gaps, newest first; at most `limit`.
    pub async fn gaps(&self, limit: u32) -> Result<Vec<AuditGap>, InsertError> {
        const TABLE: &str = "audit_reconciliation_gap";
        const SQL: &str = "SELECT toString(detection_id), toUnixTimestamp64Nano(detected_at), toString(event_id),
                 toString(org_id), toUnixTimestamp64Nano(event_time), CAST(event_type, 'String'), toUInt8(is_repaired)
              FROM audit_reconciliation_gap FINAL ORDER BY detected_at DESC, event_time DESC LIMIT {limit:UInt32}";
        type Row = (String, i64, String, String, i64, String, u8);
        let rows = within(TABLE, self.client.query(SQL).param("limit", limit).fetch_all::<Row>()).await?;
        let gaps = rows.into_iter().map(|(detection, detected, event, org, happened, event_type, repaired)| {
            let time = |nanos: i64| OffsetDateTime::from_unix_timestamp_nanos(nanos.into()).ok();
            let gap = || {
                Some(AuditGap {
                    detection_id: detection.parse().ok()?,
                    detected_at: time(detected)?,
                    event_id: event.parse().ok()?,
                    org_id: org.parse().ok()?,
                    event_time: time(happened)?,
                    event_type: event_type.clone(),
                    is_repaired: repaired != 0,
                })
            };
            gap().ok_or_else(|| unexpected(TABLE))
        });
        gaps.collect()
    }

    pub(super) async fn insert(
        &self,
        table: &'static str,
        sql: &'static str,
        lines: Vec<u8>,
        token: &str,
    ) -> Result<(), InsertError> {
        if lines.is_empty() {
            return Ok(());
        }
        let mut insert = self
            .client
            .insert_formatted_with(sql)
            // One block, so that one token covers all rows.
            .with_setting("input_format_parallel_parsing", "0")
            .with_setting("insert_deduplication_token", token)
            .with_timeouts(Some(QUERY_DEADLINE), Some(QUERY_DEADLINE));
        let sent = async {
            insert.send(Bytes::from(lines)).await?;
            insert.end().await
        };
        within(table, sent).await
    }
}

pub(super) async fn within<T>(
    table: &'static str,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, InsertError> {
    let done = tokio::time::timeout(QUERY_DEADLINE, work).await.unwrap_or(Err(Error::TimedOut));
    done.map_err(|error| InsertError::new(table, &error))
}

/// Ids as ClickHouse reads a parameter of several.
fn texts(ids: impl ExactSizeIterator<Item = Uuid>) -> Result<Vec<String>, InsertError> {
    if ids.len() > NAMES_MAX {
        return Err(InsertError::new("", &Error::InvalidParams(format!("more than {NAMES_MAX} ids").into())));
    }
    Ok(ids.map(|id| id.to_string()).collect())
}

pub(super) fn unexpected(table: &'static str) -> InsertError {
    InsertError::new(table, &Error::BadResponse("an answer of another shape than was asked for".to_owned()))
}

fn nanos(time: OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos()).unwrap_or(i64::MAX)
}

/// A time in UTC, in ClickHouse's format.
fn timestamp(time: OffsetDateTime) -> String {
    const FORMAT: &[time::format_description::BorrowedFormatItem<'_>] =
        format_description!("[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:9]");
    // Cannot fail: the format asks for nothing that such a time does not have.
    time.to_offset(time::UtcOffset::UTC).format(FORMAT).unwrap_or_default()
}
