//! The limits of an org: its plan's, or its own where it has any.

use std::fmt;
use std::str::FromStr;

use model::ids::OrgId;
use model::meter::Meter;
use model::org::OverQuota;
use model::words;
use serde::{Serialize, Serializer};
use serde_json::json;
use sqlx::{PgConnection, Row};

use super::event::EventType;
use super::outbox::Event;
use super::session::Session;
use super::{Registry, RegistryError};

words! {
    /// Where a limit comes from.
    LimitSource, "source of a limit" {
        /// The limit is the plan's.
        Plan = "plan",
        /// The org has its own limit, instead of its plan's.
        Override = "override",
        /// Neither sets a limit: usage is counted and not limited.
        Default = "default",
    }
}

/// A limit. Stored as a number, where −1 means unlimited and 0 forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// There is no limit.
    Unlimited,
    /// No more than this; 0 forbids.
    AtMost(u64),
}

/// The largest rate, burst or number of slots: what the column holds.
const RATE_MAX: u64 = i32::MAX as u64;
/// The largest limit of a meter: what the column holds.
const METER_MAX: u64 = i64::MAX as u64;

impl Limit {
    /// The number that is stored; an error if the limit is more than `max`.
    fn stored(self, max: u64) -> Result<i64, RegistryError> {
        match self {
            Self::Unlimited => Ok(-1),
            Self::AtMost(n) => i64::try_from(n)
                .ok()
                .filter(|_| n <= max)
                .ok_or_else(|| RegistryError::InvalidLimit { value: n.to_string(), max }),
        }
    }

    pub(super) fn from_stored(stored: i64) -> Self {
        u64::try_from(stored).map_or(Self::Unlimited, Self::AtMost)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlimited => f.pad("unlimited"),
            Self::AtMost(n) => fmt::Display::fmt(n, f),
        }
    }
}

impl FromStr for Limit {
    type Err = RegistryError;

    /// Parses `unlimited` or a number. Negative numbers are refused, even −1: write `unlimited`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "unlimited" {
            return Ok(Self::Unlimited);
        }
        let number = text.parse::<u64>().ok().filter(|n| *n <= METER_MAX);
        number.map(Self::AtMost).ok_or_else(|| RegistryError::InvalidLimit { value: text.to_owned(), max: METER_MAX })
    }
}

impl Serialize for Limit {
    /// A number, or the text `unlimited`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Unlimited => serializer.serialize_str("unlimited"),
            Self::AtMost(n) => serializer.serialize_u64(*n),
        }
    }
}

/// A limit and where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Limited {
    /// The limit that applies.
    pub limit: Limit,
    /// Whether it comes from the plan or the org.
    pub source: LimitSource,
}

/// The limit of a meter, per calendar month in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MeterLimit {
    /// The meter that is limited.
    pub meter: Meter,
    /// The limit that applies, and where it comes from.
    #[serde(flatten)]
    pub limited: Limited,
}

/// All limits of an org.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Requests per second that a key may sustain.
    pub rps: Limited,
    /// Requests that a key may send at once.
    pub burst: Limited,
    /// Evaluations that may run at the same time.
    pub eval_slots: Limited,
    /// The monthly limits, one for every meter.
    pub meters: Vec<MeterLimit>,
    /// What happens to accepted data beyond the monthly limits.
    pub over_quota: OverQuota,
}

/// A change of one of an org's own limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LimitEdit {
    /// Leave the limit unchanged.
    #[default]
    Keep,
    /// Set the limit to this.
    Set(Limit),
    /// Remove the org's own limit; the plan's applies again.
    Clear,
}

/// A change of an org's own limits. `LimitChange::default()` changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitChange {
    /// Requests per second that a key may sustain.
    pub rps: LimitEdit,
    /// Requests that a key may send at once.
    pub burst: LimitEdit,
    /// Evaluations that may run at the same time.
    pub eval_slots: LimitEdit,
    /// Monthly limits. A meter that is not listed stays unchanged.
    pub meters: Vec<(Meter, LimitEdit)>,
    /// What happens to accepted data beyond the monthly limits; `None` leaves the policy unchanged.
    pub over_quota: Option<OverQuota>,
}

impl Registry {
    /// All limits of an org, from its plan and its own.
    pub async fn limits(&self, org_id: OrgId) -> Result<Limits, RegistryError> {
        let mut session = Session::open(&self.pool, org_id).await?;
        read(session.connection(), org_id).await
    }

    /// Changes an org's own limits. False if nothing changed.
    pub async fn set_limits(&self, org_id: OrgId, new: &LimitChange) -> Result<bool, RegistryError> {
        let rates = [new.rps, new.burst, new.eval_slots].map(|edit| stored(edit, RATE_MAX));
        let [rps, burst, eval_slots] = rates;
        let rates = [rps?, burst?, eval_slots?];
        let meters: Result<Vec<_>, RegistryError> =
            new.meters.iter().map(|(meter, edit)| Ok((*meter, stored(*edit, METER_MAX)?))).collect();
        let meters = meters?;

        let mut change = self.change(org_id).await?;
        let old = read(change.connection(), org_id).await?;
        // Each limit has two parameters: `keep` leaves the column, else the value replaces it, where null means the
        // plan's limit.
        let query = sqlx::query(
            "INSERT INTO tenant_plan_override AS o (tenant_id, rps, burst, eval_slots, over_quota)
                 VALUES ($1, $3, $5, $7, coalesce($8, 'park'))
             ON CONFLICT (tenant_id) DO UPDATE SET rps = CASE WHEN $2 THEN o.rps ELSE excluded.rps END,
                 burst = CASE WHEN $4 THEN o.burst ELSE excluded.burst END,
                 eval_slots = CASE WHEN $6 THEN o.eval_slots ELSE excluded.eval_slots END,
                 over_quota = coalesce($8, o.over_quota)",
        );
        let query = rates.iter().fold(query.bind(org_id.0), |query, rate| {
            let value = rate.flatten().and_then(|n| i32::try_from(n).ok());
            query.bind(rate.is_none()).bind(value)
        });
        query.bind(new.over_quota.map(OverQuota::as_str)).execute(change.connection()).await?;
        for (meter, edit) in meters {
            match edit {
                None => continue,
                Some(None) => {
                    sqlx::query("DELETE FROM tenant_meter_limit_override WHERE tenant_id = $1 AND meter = $2")
                        .bind(org_id.0)
                        .bind(meter.as_str())
                        .execute(change.connection())
                        .await?
                }
                Some(Some(limit)) => {
                    sqlx::query(
                        "INSERT INTO tenant_meter_limit_override (tenant_id, meter, monthly_limit) VALUES ($1, $2, $3)
                         ON CONFLICT (tenant_id, meter) DO UPDATE SET monthly_limit = excluded.monthly_limit",
                    )
                    .bind(org_id.0)
                    .bind(meter.as_str())
                    .bind(limit)
                    .execute(change.connection())
                    .await?
                }
            };
        }
        let new = read(change.connection(), org_id).await?;
        if old == new {
            return Ok(false);
        }
        change.commit(Event::new(EventType::OrgLimits, org_id, json!({ "old": old, "new": new }))).await?;
        Ok(true)
    }
}

/// `None` keeps the limit, `Some(None)` removes it.
fn stored(edit: LimitEdit, max: u64) -> Result<Option<Option<i64>>, RegistryError> {
    match edit {
        LimitEdit::Keep => Ok(None),
        LimitEdit::Clear => Ok(Some(None)),
        LimitEdit::Set(limit) => limit.stored(max).map(|n| Some(Some(n))),
    }
}

/// The limits of the session's org.
pub(super) async fn read(connection: &mut PgConnection, org_id: OrgId) -> Result<Limits, RegistryError> {
    let row = sqlx::query(
        "SELECT coalesce(o.rps, plan.rps) AS rps, o.rps IS NOT NULL AS own_rps,
                coalesce(o.burst, plan.burst) AS burst, o.burst IS NOT NULL AS own_burst,
                coalesce(o.eval_slots, plan.eval_slots) AS eval_slots, o.eval_slots IS NOT NULL AS own_eval_slots,
                coalesce(o.over_quota, 'park') AS over_quota
           FROM tenants t JOIN plan ON plan.name = t.plan LEFT JOIN tenant_plan_override o ON o.tenant_id = t.id
          WHERE t.id = $1",
    )
    .bind(org_id.0)
    .fetch_optional(&mut *connection)
    .await?;
    let row = row.ok_or_else(|| RegistryError::UnknownOrg { org: org_id.to_string() })?;
    let rate = |name, own| -> Result<Limited, sqlx::Error> {
        let source = if row.try_get(own)? { LimitSource::Override } else { LimitSource::Plan };
        Ok(Limited { limit: Limit::from_stored(row.try_get::<i32, _>(name)?.into()), source })
    };
    let (rps, burst, eval_slots) =
        (rate("rps", "own_rps")?, rate("burst", "own_burst")?, rate("eval_slots", "own_eval_slots")?);
    let over_quota = row.try_get::<&str, _>("over_quota")?.parse()?;
    let rows = sqlx::query(
        "SELECT meter::text AS meter, coalesce(o.monthly_limit, l.monthly_limit) AS monthly_limit,
                o.monthly_limit IS NOT NULL AS own
           FROM (SELECT meter, monthly_limit FROM tenant_meter_limit_override WHERE tenant_id = $1) o
           FULL JOIN (SELECT l.meter, l.monthly_limit FROM plan_meter_limit l JOIN tenants t ON t.plan = l.plan
                       WHERE t.id = $1) l USING (meter)",
    )
    .bind(org_id.0)
    .fetch_all(connection)
    .await?;
    let nobody = Limited { limit: Limit::Unlimited, source: LimitSource::Default };
    let mut meters: Vec<_> = Meter::ALL.iter().map(|meter| MeterLimit { meter: *meter, limited: nobody }).collect();
    for row in rows {
        let meter: Meter = row.try_get::<&str, _>("meter")?.parse()?;
        let source = if row.try_get("own")? { LimitSource::Override } else { LimitSource::Plan };
        let limited = Limited { limit: Limit::from_stored(row.try_get("monthly_limit")?), source };
        for slot in meters.iter_mut().filter(|slot| slot.meter == meter) {
            slot.limited = limited;
        }
    }
    Ok(Limits { rps, burst, eval_slots, meters, over_quota })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_unlimited_or_a_number_that_is_not_negative() {
        assert_eq!("unlimited".parse::<Limit>().unwrap(), Limit::Unlimited);
        assert_eq!("0".parse::<Limit>().unwrap(), Limit::AtMost(0));
        for bad in ["", "-1", "-2", "1.5", "1e6", "Unlimited", "9223372036854775808", "99999999999999999999"] {
            let error = bad.parse::<Limit>().unwrap_err();
            assert!(matches!(&error, RegistryError::InvalidLimit { value, .. } if value == bad), "{error}");
        }
        assert!(Limit::AtMost(RATE_MAX).stored(RATE_MAX).is_ok());
        assert!(Limit::AtMost(RATE_MAX + 1).stored(RATE_MAX).is_err());
        for (limit, json) in [(Limit::Unlimited, "\"unlimited\""), (Limit::AtMost(7), "7")] {
            assert_eq!(serde_json::to_string(&limit).unwrap(), json);
            assert_eq!(Limit::from_stored(limit.stored(METER_MAX).unwrap()), limit);
        }
    }
}
