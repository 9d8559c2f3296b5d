//! The monthly usage of an org: its sums, and the events that an org gets when a sum comes close to a limit or reaches
//! it. A sum and its events are one transaction.

use model::ids::OrgId;
use model::meter::Meter;
use model::org::OverQuota;
use serde::Serialize;
use serde_json::json;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use time::OffsetDateTime;

use super::event::EventType;
use super::outbox::Event;
use super::session::{Change, Session};
use super::{LIST_MAX, Limit, Registry, RegistryError, limits};

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

/// The result of writing the usage of an org.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageRecorded {
    /// The present limits of the written meters. A meter is missing if the stored sum is newer.
    pub limits: Vec<(Meter, Limit)>,
    /// What happens to accepted data beyond the limits.
    pub over_quota: OverQuota,
    /// The types of the events that were written for the org.
    pub events: Vec<EventType>,
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

impl Registry {
    /// Writes what an org has used in a period, received before `watermark`. In the same transaction it writes an event
    /// when the org has nearly reached or has reached a limit: once per period, meter and limit. With `enforced`, the
    /// event for a reached limit is `quota.block`, else another `quota.warn`. A sum older than the stored one changes
    /// nothing.
    pub async fn record_usage(
        &self,
        org_id: OrgId,
        period: u32,
        watermark: OffsetDateTime,
        usage: &[MeterUsage],
        enforced: bool,
    ) -> Result<UsageRecorded, RegistryError> {
        let mut change = Change::begin(self, org_id).await?;
        let limits = limits::read(change.connection(), org_id).await?;
        let meters: Vec<&str> = usage.iter().map(|one| one.meter.as_str()).collect();
        let used: Vec<i64> = usage.iter().map(|one| i64::try_from(one.used).unwrap_or(i64::MAX)).collect();
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
        let mut recorded = UsageRecorded { limits: Vec::new(), over_quota: limits.over_quota, events: Vec::new() };
        let mut events = Vec::new();
        for row in rows {
            let meter: Meter = row.try_get::<&str, _>("meter")?.parse()?;
            let limit = limits.meters.iter().find(|limit| limit.meter == meter).map(|limit| limit.limited.limit);
            recorded.limits.push((meter, limit.unwrap_or(Limit::Unlimited)));
            let Some(Limit::AtMost(limit)) = limit else { continue };
            let Some(of_meter) = usage.iter().find(|one| one.meter == meter) else { continue };
            let announced = AnnouncedLimits::of(&row)?;
            for level in announced.newly_crossed(of_meter, limit) {
                level.note_event(change.connection(), org_id, period, meter, limit).await?;
                let event_type = level.event_type(enforced);
                let detail = json!({
                    "period": period, "meter": meter, "used": of_meter.used, "limit": limit,
                    "percent": level.percent(),
                });
                events.push(Event::new(event_type, meter, detail));
                recorded.events.push(event_type);
            }
        }
        change.commit_measured(events).await?;
        Ok(recorded)
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
}

/// The limits of a meter, in a month, that have an event already.
struct AnnouncedLimits {
    warned: Option<u64>,
    reached: Option<u64>,
}

/// Which level of a limit the usage has crossed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Warned,
    Reached,
}

impl AnnouncedLimits {
    /// Those that a row of `quota_period` names.
    fn of(row: &PgRow) -> Result<Self, sqlx::Error> {
        let limit = |column: &str| {
            let limit: Option<i64> = row.try_get(column)?;
            Ok::<_, sqlx::Error>(limit.and_then(|limit| u64::try_from(limit).ok()))
        };
        Ok(Self { warned: limit("warned_limit")?, reached: limit("reached_limit")? })
    }

    /// The crossed levels that have no event yet. A raised limit gets a new event when it is crossed; a lowered one
    /// does not.
    fn newly_crossed(&self, usage: &MeterUsage, limit: u64) -> impl Iterator<Item = Level> {
        let is_news = |announced: Option<u64>| announced.is_none_or(|announced| limit > announced);
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

    /// Notes that this limit has an event.
    async fn note_event(
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

    const NONE: AnnouncedLimits = AnnouncedLimits { warned: None, reached: None };

    fn crossed(used: u64, refused_at: Option<u64>, limit: u64, announced: AnnouncedLimits) -> Vec<Level> {
        announced.newly_crossed(&MeterUsage { meter: Meter::SpanIngested, used, refused_at }, limit).collect()
    }

    #[test]
    fn an_event_is_due_at_eighty_percent_and_at_the_limit() {
        assert_eq!(crossed(79, None, 100, NONE), []);
        assert_eq!(crossed(80, None, 100, NONE), [Level::Warned]);
        assert_eq!(crossed(99, None, 100, NONE), [Level::Warned]);
        assert_eq!(crossed(100, None, 100, NONE), [Level::Warned, Level::Reached]);
        assert_eq!(crossed(98, Some(100), 100, NONE), [Level::Warned, Level::Reached], "nothing that fits was sent");
        assert_eq!(crossed(0, None, 0, NONE), [], "nothing used of a limit that forbids");
        assert_eq!(crossed(0, Some(0), 0, NONE), [Level::Reached]);
        assert_eq!(crossed(u64::MAX, None, u64::MAX, NONE), [Level::Warned, Level::Reached]);
    }

    #[test]
    fn another_event_is_due_only_when_the_limit_was_raised() {
        let announced = |warned, reached| AnnouncedLimits { warned: Some(warned), reached: Some(reached) };
        assert_eq!(crossed(100, Some(100), 100, announced(100, 100)), []);
        assert_eq!(crossed(100, None, 50, announced(100, 100)), [], "lowered");
        assert_eq!(crossed(100, Some(100), 200, announced(100, 100)), [], "the refusal was by the old limit");
        assert_eq!(crossed(160, Some(100), 200, announced(100, 100)), [Level::Warned]);
        assert_eq!(crossed(200, None, 200, announced(200, 100)), [Level::Reached]);
    }
}
