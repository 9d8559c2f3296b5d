//! What the reconcilers read and write: the list of orgs, the usage of each org, and the outbox of all orgs.
//!
//! Queries over all orgs use the functions of `0005_reconcilers`, which return little and change less; everything else
//! runs in the session of one org.

use model::ids::OrgId;
use model::meter::Meter;
use model::org::OverQuota;
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use time::OffsetDateTime;
use uuid::Uuid;

use super::outbox::Event;
use super::session::{Change, Session};
use super::{LIST_MAX, Limit, Registry, RegistryError, limits};
use crate::event::{EventType, NewEvent};

/// The share of a limit, in percent, at which the org gets a warning.
pub const WARN_PERCENT: u64 = 80;

/// What an org has used of a meter, summed up from its billed usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MeterUsage {
    /// The meter that was used.
    pub meter: Meter,
    /// The usage up to the watermark, in units of the meter.
    pub used: u64,
    /// The limit by which a request was refused, if any was.
    pub refused_at: Option<u64>,
}

/// The result of writing a sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The present limits of the written meters. A meter is missing if the stored sum is newer.
    pub limits: Vec<(Meter, Limit)>,
    /// What happens to accepted data beyond the limits.
    pub over_quota: OverQuota,
    /// The types of the events that were written for the org.
    pub told: Vec<EventType>,
}

/// What an org has used of a meter in a month.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeriodUsage {
    /// The month, `YYYYMM`, in UTC.
    pub period: i32,
    /// The meter that was used.
    pub meter: Meter,
    /// The usage up to the watermark, in units of the meter.
    pub used: i64,
    /// Everything received before this time is included.
    #[serde(with = "time::serde::rfc3339::option")]
    pub watermark: Option<OffsetDateTime>,
    /// When the org last got a warning that it has nearly reached its limit.
    #[serde(with = "time::serde::rfc3339::option")]
    pub warned_at: Option<OffsetDateTime>,
    /// When an event last recorded that the org has reached its limit.
    #[serde(with = "time::serde::rfc3339::option")]
    pub reached_at: Option<OffsetDateTime>,
}

/// An event of the outbox, as it is copied to ClickHouse.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct OutboxEvent {
    /// Its number in the outbox.
    pub id: i64,
    pub event_id: Uuid,
    /// `None` for an event of no org.
    pub org_id: Option<OrgId>,
    pub event_type: String,
    pub actor: String,
    pub target: Option<String>,
    pub detail: Value,
    pub created_at: OffsetDateTime,
}

impl Registry {
    /// The ids of all orgs, sorted, those after `after`; at most [`LIST_MAX`].
    pub async fn org_ids(&self, after: Option<OrgId>, limit: u32) -> Result<Vec<OrgId>, RegistryError> {
        let rows = sqlx::query("SELECT id FROM org_ids($1, $2)")
            .bind(after.map(|org| org.0))
            .bind(limit.min(LIST_MAX).cast_signed())
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(|row| Ok(OrgId(row.try_get("id")?))).collect()
    }

    /// Writes what an org has used in a period, received before `watermark`. In the same transaction it writes an event
    /// when the org has nearly reached or has reached a limit: once per period, meter and limit. With `enforced`, the
    /// event for a reached limit is `quota.block`, else another `quota.warn`. A sum older than the stored one changes
    /// nothing.
    pub async fn settle_usage(
        &self,
        org_id: OrgId,
        period: u32,
        watermark: OffsetDateTime,
        usage: &[MeterUsage],
        enforced: bool,
    ) -> Result<Settled, RegistryError> {
        let mut change = Change::begin(self, org_id).await?;
        let limits = limits::read(change.connection(), org_id).await?;
        let meters: Vec<&str> = usage.iter().map(|usage| usage.meter.as_str()).collect();
        let used: Vec<i64> = usage.iter().map(|usage| i64::try_from(usage.used).unwrap_or(i64::MAX)).collect();
        let rows = sqlx::query(
            "INSERT INTO quota_period AS q (tenant_id, period, meter, used, watermark)
                 SELECT $1, $2, u.meter, u.used, $5 FROM unnest($3::text[], $4::bigint[]) AS u (meter, used)
             ON CONFLICT (tenant_id, period, meter) DO UPDATE SET used = excluded.used, watermark = excluded.watermark
                 WHERE q.watermark IS NULL OR q.watermark <= excluded.watermark
             RETURNING q.meter::text AS meter, q.warned_limit, q.reached_limit",
        )
        .bind(org_id.0)
        .bind(period.cast_signed())
        .bind(meters)
        .bind(used)
        .bind(watermark)
        .fetch_all(change.connection())
        .await?;
        let mut settled = Settled { limits: Vec::new(), over_quota: limits.over_quota, told: Vec::new() };
        let mut events = Vec::new();
        for row in rows {
            let meter: Meter = row.try_get::<&str, _>("meter")?.parse()?;
            let limit = limits.meters.iter().find(|limit| limit.meter == meter).map(|limit| limit.limited.limit);
            settled.limits.push((meter, limit.unwrap_or(Limit::Unlimited)));
            let (Some(usage), Some(Limit::AtMost(limit))) = (usage.iter().find(|u| u.meter == meter), limit) else {
                continue;
            };
            let told = Told { warned: told(&row, "warned_limit")?, reached: told(&row, "reached_limit")? };
            for level in told.crossed(usage, limit) {
                level.remember(change.connection(), org_id, period, meter, limit).await?;
                let event_type = level.event_type(enforced);
                let detail = json!({
                    "period": period, "meter": meter, "used": usage.used, "limit": limit, "percent": level.percent(),
                });
                events.push(Event::new(event_type, meter, detail));
                settled.told.push(event_type);
            }
        }
        change.commit_measured(events).await?;
        Ok(settled)
    }

    /// The usage of an org, newest period first; at most [`LIST_MAX`] rows.
    pub async fn usage(&self, org_id: OrgId) -> Result<Vec<PeriodUsage>, RegistryError> {
        let mut session = Session::open(&self.pool, org_id).await?;
        let rows = sqlx::query(
            "SELECT period::integer AS period, meter::text AS meter, used, watermark, warned_at, reached_at
               FROM quota_period WHERE tenant_id = $1 ORDER BY period DESC, meter LIMIT $2",
        )
        .bind(org_id.0)
        .bind(i64::from(LIST_MAX))
        .fetch_all(session.connection())
        .await?;
        let usage = rows.iter().map(|row| {
            Ok(PeriodUsage {
                period: row.try_get("period")?,
                meter: row.try_get::<&str, _>("meter")?.parse()?,
                used: row.try_get("used")?,
                watermark: row.try_get("watermark")?,
                warned_at: row.try_get("warned_at")?,
                reached_at: row.try_get("reached_at")?,
            })
        });
        usage.collect()
    }

    /// Events of the outbox that are not copied yet, in the order of their numbers; at most [`LIST_MAX`].
    pub async fn unpublished_events(&self, limit: u32) -> Result<Vec<OutboxEvent>, RegistryError> {
        self.outbox(0, None, limit).await
    }

    /// Events of the outbox with a number above `after` that happened before a time, copied or not; at most
    /// [`LIST_MAX`].
    pub async fn events_before(
        &self,
        after: i64,
        before: OffsetDateTime,
        limit: u32,
    ) -> Result<Vec<OutboxEvent>, RegistryError> {
        self.outbox(after, Some(before), limit).await
    }

    async fn outbox(
        &self,
        after: i64,
        before: Option<OffsetDateTime>,
        limit: u32,
    ) -> Result<Vec<OutboxEvent>, RegistryError> {
        let rows = sqlx::query("SELECT * FROM outbox_events($1, coalesce($2, 'infinity'), $3, $4)")
            .bind(after)
            .bind(before)
            .bind(before.is_some())
            .bind(limit.min(LIST_MAX).cast_signed())
            .fetch_all(&self.pool)
            .await?;
        let events = rows.iter().map(|row| {
            let org: Option<&str> = row.try_get("tenant_ref")?;
            Ok(OutboxEvent {
                id: row.try_get("id")?,
                event_id: row.try_get("event_id")?,
                org_id: org.and_then(|org| org.parse().ok()),
                event_type: row.try_get("event_type")?,
                actor: row.try_get("actor")?,
                target: row.try_get("target")?,
                detail: row.try_get("detail")?,
                created_at: row.try_get("created_at")?,
            })
        });
        events.collect()
    }

    /// Marks events as copied, by their numbers. Returns how many were not marked before.
    pub async fn mark_published(&self, ids: &[i64]) -> Result<i64, RegistryError> {
        let row = sqlx::query("SELECT mark_published($1) AS marked").bind(ids).fetch_one(&self.pool).await?;
        Ok(row.try_get("marked")?)
    }

    /// Writes events of an org, or of none, to the outbox. May be repeated: an event that exists already stays
    /// unchanged.
    pub async fn record_events(&self, org_id: Option<OrgId>, events: &[NewEvent]) -> Result<(), RegistryError> {
        let Some(org_id) = org_id else {
            for event in events {
                sqlx::query("SELECT record_event_of_no_org($1, $2, $3, $4, $5, $6)")
                    .bind(event.event_id)
                    .bind(event.event_type.as_str())
                    .bind(&event.actor)
                    .bind(&event.target)
                    .bind(&event.detail)
                    .bind(event.at)
                    .execute(&self.pool)
                    .await?;
            }
            return Ok(());
        };
        let mut change = Change::begin(self, org_id).await?;
        for event in events {
            sqlx::query(
                "INSERT INTO audit_outbox (event_id, tenant_id, event_type, actor, target, detail, created_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (event_id) DO NOTHING",
            )
            .bind(event.event_id)
            .bind(org_id.0)
            .bind(event.event_type.as_str())
            .bind(&event.actor)
            .bind(&event.target)
            .bind(&event.detail)
            .bind(event.at)
            .execute(change.connection())
            .await?;
        }
        change.commit_measured(Vec::new()).await?;
        Ok(())
    }
}

/// The limits that events were written for.
struct Told {
    warned: Option<u64>,
    reached: Option<u64>,
}

fn told(row: &PgRow, column: &str) -> Result<Option<u64>, sqlx::Error> {
    Ok(row.try_get::<Option<i64>, _>(column)?.and_then(|limit| u64::try_from(limit).ok()))
}

/// Which level of a limit the usage has crossed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Warned,
    Reached,
}

impl Told {
    /// The crossed level that has no event yet. A raised limit gets a new event when it is crossed; a lowered one does
    /// not.
    fn crossed(&self, usage: &MeterUsage, limit: u64) -> impl Iterator<Item = Level> {
        let is_news = |told: Option<u64>| told.is_none_or(|told| limit > told);
        let (used, limit_part) = (u128::from(usage.used) * 100, u128::from(limit) * u128::from(WARN_PERCENT));
        let is_close = usage.used > 0 && used >= limit_part;
        // The rest may be smaller than any request; then a refused request shows that the limit is reached.
        let is_reached = usage.used > 0 && usage.used >= limit || usage.refused_at == Some(limit);
        let warned = (is_close && is_news(self.warned)).then_some(Level::Warned);
        let reached = (is_reached && is_news(self.reached)).then_some(Level::Reached);
        warned.into_iter().chain(reached)
    }
}

impl Level {
    const fn percent(self) -> u64 {
        match self {
            Self::Warned => WARN_PERCENT,
            Self::Reached => 100,
        }
    }

    const fn event_type(self, enforced: bool) -> EventType {
        match self {
            Self::Reached if enforced => EventType::QuotaBlock,
            Self::Warned | Self::Reached => EventType::QuotaWarn,
        }
    }

    async fn remember(
        self,
        connection: &mut PgConnection,
        org_id: OrgId,
        period: u32,
        meter: Meter,
        limit: u64,
    ) -> Result<(), sqlx::Error> {
        let sql = match self {
            Self::Warned => {
                "UPDATE quota_period SET warned_at = now(), warned_limit = $4
                  WHERE tenant_id = $1 AND period = $2 AND meter = $3"
            }
            Self::Reached => {
                "UPDATE quota_period SET reached_at = now(), reached_limit = $4
                  WHERE tenant_id = $1 AND period = $2 AND meter = $3"
            }
        };
        let update = sqlx::query(sql).bind(org_id.0).bind(period.cast_signed()).bind(meter.as_str());
        update.bind(i64::try_from(limit).unwrap_or(i64::MAX)).execute(connection).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crossed(used: u64, refused_at: Option<u64>, limit: u64, told: Told) -> Vec<Level> {
        told.crossed(&MeterUsage { meter: Meter::SpanIngested, used, refused_at }, limit).collect()
    }

    const NOBODY: Told = Told { warned: None, reached: None };

    #[test]
    fn an_org_is_told_at_eighty_percent_and_at_the_limit() {
        assert_eq!(crossed(79, None, 100, NOBODY), []);
        assert_eq!(crossed(80, None, 100, NOBODY), [Level::Warned]);
        assert_eq!(crossed(99, None, 100, NOBODY), [Level::Warned]);
        assert_eq!(crossed(100, None, 100, NOBODY), [Level::Warned, Level::Reached]);
        assert_eq!(crossed(98, Some(100), 100, NOBODY), [Level::Warned, Level::Reached], "nothing that fits was sent");
        assert_eq!(crossed(0, None, 0, NOBODY), [], "nothing used of a limit that forbids");
        assert_eq!(crossed(0, Some(0), 0, NOBODY), [Level::Reached]);
        assert_eq!(crossed(u64::MAX, None, u64::MAX, NOBODY), [Level::Warned, Level::Reached]);
    }

    #[test]
    fn an_org_is_told_again_only_when_its_limit_was_raised() {
        let told = |warned, reached| Told { warned: Some(warned), reached: Some(reached) };
        assert_eq!(crossed(100, Some(100), 100, told(100, 100)), []);
        assert_eq!(crossed(100, None, 50, told(100, 100)), [], "lowered");
        assert_eq!(crossed(100, Some(100), 200, told(100, 100)), [], "the refusal was by the old limit");
        assert_eq!(crossed(160, Some(100), 200, told(100, 100)), [Level::Warned]);
        assert_eq!(crossed(200, None, 200, told(200, 100)), [Level::Reached]);
    }
}
