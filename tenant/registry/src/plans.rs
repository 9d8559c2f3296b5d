//! Plans: the limits of an org that has none of its own. Only migrations create or change plans.

use model::meter::Meter;
use serde::Serialize;
use sqlx::Row;

use super::{LIST_MAX, Limit, Registry, RegistryError};

/// The limits of one plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The name of the plan, such as `pro`.
    pub plan: String,
    /// Requests per second that a key may sustain.
    pub rps: Limit,
    /// Requests that a key may send at once.
    pub burst: Limit,
    /// Evaluations that may run at the same time.
    pub eval_slots: Limit,
    /// The monthly limits, one for every meter.
    pub meters: Vec<PlanMeter>,
}

/// A plan's monthly limit of one meter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PlanMeter {
    /// The meter that is limited.
    pub meter: Meter,
    /// The most units of the meter per calendar month (UTC).
    pub limit: Limit,
}

impl Registry {
    /// All plans, the one with the lowest request rate first; at most [`LIST_MAX`]. Plans belong to no org.
    pub async fn plans(&self) -> Result<Vec<Plan>, RegistryError> {
        let rows = sqlx::query("SELECT name, rps, burst, eval_slots FROM plan ORDER BY rps < 0, rps, name LIMIT $1")
            .bind(i64::from(LIST_MAX))
            .fetch_all(&self.pool)
            .await?;
        let limits = sqlx::query("SELECT plan, meter::text AS meter, monthly_limit FROM plan_meter_limit")
            .fetch_all(&self.pool)
            .await?;
        let mut plans = Vec::with_capacity(rows.len());
        for row in rows {
            let rate = |name| row.try_get::<i32, _>(name).map(|stored| Limit::from_stored(stored.into()));
            // A meter that a plan has no row for is counted and not limited.
            let meters = Meter::ALL.iter().map(|meter| PlanMeter { meter: *meter, limit: Limit::Unlimited }).collect();
            plans.push(Plan {
                plan: row.try_get("name")?,
                rps: rate("rps")?,
                burst: rate("burst")?,
                eval_slots: rate("eval_slots")?,
                meters,
            });
        }
        for row in limits {
            let (plan, meter): (&str, Meter) = (row.try_get("plan")?, row.try_get::<&str, _>("meter")?.parse()?);
            let slots = plans.iter_mut().filter(|found| found.plan == plan).flat_map(|found| &mut found.meters);
            for slot in slots.filter(|slot| slot.meter == meter) {
                slot.limit = Limit::from_stored(row.try_get("monthly_limit")?);
            }
        }
        Ok(plans)
    }
}
