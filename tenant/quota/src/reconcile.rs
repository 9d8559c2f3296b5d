//! The quota reconciler: sums up billed usage, and corrects the counters in Redis accordingly.
//!
//! Every tick takes a watermark: everything received before it is in ClickHouse. For every org, it sums `billing_meter`
//! up to the watermark, writes `quota_period` and the org's events in one transaction, and sets the counters to that
//! sum plus what admission has charged since. So a tick never removes what is queued and not billed yet, and charges
//! that were never refunded are removed. Each step may be repeated, in whole or in part, by any number of processes at
//! once; the lock that lets one process run at a time (`Turn`) only saves work. `docs/operations/quotas.md` has the
//! picture.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use admission::COUNTER_TTL;
use metrics::gauge;
use model::ids::OrgId;
use model::meter::Meter;
use model::org::OverQuota;
use model::shard::Shard;
use model::trace::UnixNanos;
use redis::{RedisError, Script};
use registry::{Limit, MeterUsage, Registry, RegistryError};
use stores::clickhouse::{InsertError, Records};
use stores::clock::unix_hour;
use stores::keys::RedisKey;
use stores::redis::Redis;
use thiserror::Error;
use time::OffsetDateTime;
use tokio::task::JoinSet;

/// How far behind the oldest unfinished work the watermark stays, by default. If a request is appended later than this
/// after its timestamp, or if the clocks of nodes differ by more, it can be missing from the counters until the next
/// tick after it is stored.
pub const SETTLE: Duration = Duration::from_secs(120);
/// How long after its end a month is still summed up.
pub const PREVIOUS_FOR: Duration = Duration::from_secs(3 * 24 * 3600);
/// The most orgs in one query to ClickHouse.
const PAGE: u32 = 256;
/// How many orgs are processed at the same time: half of the pool's connections.
const AT_ONCE: usize = 4;
/// The tick gives up after so many orgs failed: the cause is then not a single org.
const FAILURES_MAX: u64 = 16;
/// The most months that one tick sums up. Only a very long outage leaves more.
const PERIODS_MAX: usize = 3;
const NANOS_PER_MINUTE: i64 = 60_000_000_000;
/// The actor of the reconciler's events in the audit trail.
const ACTOR: &str = "quota-reconciler";

/// Why a tick failed. The next tick starts again.
#[derive(Debug, Error)]
pub enum ReconcileError {
    /// Redis, which has the counters, did not answer or refused.
    #[error("redis: {0}")]
    Redis(#[from] RedisError),
    /// Postgres, which has the limits, did not answer or refused.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// ClickHouse, which has what is billed, did not answer or refused.
    #[error(transparent)]
    Clickhouse(#[from] InsertError),
    /// Too many orgs failed, so the tick gave up.
    #[error("{failed} orgs failed, the last with: {last}")]
    TooManyFailures {
        /// The number of orgs that failed.
        failed: u64,
        /// The message of the last of their errors.
        last: String,
    },
}

/// The result of a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Everything received before this is summed up, in ns since the Unix epoch.
    pub watermark: UnixNanos,
    /// How many orgs had usage to sum up, once per period.
    pub orgs: u64,
    /// How many counters were set to another value.
    pub corrections: u64,
    /// How many events were written.
    pub told: u64,
    /// How many orgs failed; the next tick repeats them.
    pub failed: u64,
}

/// The state of an org in a period, as Redis has it.
struct Notes {
    has_counters: bool,
    /// Limits that refused a request.
    refused: Vec<(Meter, u64)>,
    /// Recent notes of parked and dropped items, of any period.
    withheld: crate::WithheldNotes,
}

/// One org's part of a [`Report`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Done {
    is_idle: bool,
    corrections: u64,
    told: u64,
}

/// Sums up usage and corrects counters. Cheap to clone.
#[derive(Clone, Debug)]
pub struct QuotaReconciler {
    registry: Registry,
    redis: Redis,
    records: Records,
    /// Whether a reached limit makes admission refuse requests.
    enforced: bool,
    settle: Duration,
}

/// A meter of an org, for [`rebase`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// The meter that the numbers are about.
    pub meter: Meter,
    /// The billed amount of what was received before the watermark.
    pub billed: u64,
    /// The limit at which admission refuses; `None` for no limit.
    pub limit: Option<u64>,
}

impl QuotaReconciler {
    /// `registry` must be opened as the services' role.
    pub fn new(registry: Registry, redis: Redis, records: Records, enforced: bool) -> Self {
        Self { registry: registry.acting_as(ACTOR), redis, records, enforced, settle: SETTLE }
    }

    /// Sets how far the watermark stays behind the oldest unfinished work. Less than [`SETTLE`] is for tests.
    #[must_use]
    pub fn with_settle(self, settle: Duration) -> Self {
        Self { settle, ..self }
    }

    /// Sums up the usage of every org once.
    pub async fn tick(&self) -> Result<Report, ReconcileError> {
        let oldest = self.oldest().await?;
        self.tick_at(oldest).await
    }

    /// The same, with `oldest` as the time of the oldest entry that is not stored yet.
    pub async fn tick_at(&self, oldest: UnixNanos) -> Result<Report, ReconcileError> {
        let begun = Instant::now();
        let watermark = self.watermark(oldest);
        let mut report = Report { watermark, orgs: 0, corrections: 0, told: 0, failed: 0 };
        let mut after = None;
        loop {
            let orgs = self.registry.org_ids(after, PAGE).await?;
            let Some(last) = orgs.last() else { break };
            after = Some(*last);
            for period in periods(watermark, oldest) {
                self.page(period, watermark, &orgs, &mut report).await?;
            }
        }
        gauge!("tracebility_quota_reconciled_at_seconds").set((OffsetDateTime::now_utc().unix_timestamp()) as f64);
        gauge!("tracebility_quota_reconcile_duration_seconds").set(begun.elapsed().as_secs_f64());
        gauge!("tracebility_quota_watermark_seconds").set(watermark as f64 / 1e9);
        gauge!("tracebility_quota_orgs").set(report.orgs as f64);
        metrics::counter!("tracebility_quota_corrections_total").increment(report.corrections);
        let Report { orgs, corrections, told, failed, .. } = report;
        tracing::info!(orgs, corrections, told, failed, took = ?begun.elapsed(), "quotas are summed up");
        Ok(report)
    }

    /// Sums up one org, even while another process does the same.
    pub async fn org(&self, org_id: OrgId) -> Result<Report, ReconcileError> {
        let oldest = self.oldest().await?;
        let watermark = self.watermark(oldest);
        let mut report = Report { watermark, orgs: 0, corrections: 0, told: 0, failed: 0 };
        for period in periods(watermark, oldest) {
            let billed = self.billed(period, watermark, &[org_id]).await?.remove(&org_id).unwrap_or_default();
            report.add(self.reconcile(org_id, period, watermark, billed).await?);
        }
        Ok(report)
    }

    /// When the oldest entry of all shards was appended; now, if all are empty.
    async fn oldest(&self) -> Result<UnixNanos, ReconcileError> {
        static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("reconcile/oldest.lua")));
        let mut oldest = i64::MAX;
        for shard in Shard::all() {
            let ms: i64 = SCRIPT.key(RedisKey::shard_stream(shard)).invoke_async(&mut self.redis.clone()).await?;
            oldest = oldest.min(ms);
        }
        Ok(oldest.saturating_mul(1_000_000))
    }

    /// Whole minutes, because Redis keeps recent charges per minute.
    fn watermark(&self, oldest: UnixNanos) -> UnixNanos {
        let settled = oldest.saturating_sub(i64::try_from(self.settle.as_nanos()).unwrap_or(i64::MAX));
        settled.div_euclid(NANOS_PER_MINUTE) * NANOS_PER_MINUTE
    }

    async fn page(
        &self,
        period: u32,
        watermark: UnixNanos,
        orgs: &[OrgId],
        report: &mut Report,
    ) -> Result<(), ReconcileError> {
        let mut billed = self.billed(period, watermark, orgs).await?;
        let mut orgs = orgs.iter();
        let mut running = JoinSet::new();
        loop {
            while running.len() < AT_ONCE
                && let Some(org) = orgs.next()
            {
                let (reconciler, org, billed) = (self.clone(), *org, billed.remove(org).unwrap_or_default());
                running.spawn(async move { (org, reconciler.reconcile(org, period, watermark, billed).await) });
            }
            let Some(ended) = running.join_next().await else { return Ok(()) };
            let failure = match ended {
                Ok((_, Ok(done))) => {
                    report.add(done);
                    continue;
                }
                Ok((org_id, Err(error))) => {
                    tracing::warn!(%org_id, period, %error, "an org's usage could not be summed up; the next tick will");
                    error.to_string()
                }
                Err(panicked) => panicked.to_string(),
            };
            report.failed += 1;
            metrics::counter!("tracebility_quota_org_failures_total").increment(1);
            if report.failed >= FAILURES_MAX {
                return Err(ReconcileError::TooManyFailures { failed: report.failed, last: failure });
            }
        }
    }

    /// The billed usage of those orgs. Queried after the watermark was taken, so that it includes all that was finished
    /// by then.
    async fn billed(
        &self,
        period: u32,
        watermark: UnixNanos,
        orgs: &[OrgId],
    ) -> Result<HashMap<OrgId, Vec<(Meter, u64)>>, ReconcileError> {
        let mut billed = HashMap::<OrgId, Vec<(Meter, u64)>>::new();
        for row in self.records.billed(period, watermark, orgs).await? {
            match row.meter.parse() {
                Ok(meter) => billed.entry(row.org_id).or_default().push((meter, row.quantity)),
                Err(error) => tracing::warn!(org_id = %row.org_id, %error, "a meter that this version does not know"),
            }
        }
        Ok(billed)
    }

    /// One org and period: first Postgres, with its events, then Redis. A crash in between leaves the counter
    /// unchanged, and the next tick corrects it.
    async fn reconcile(
        &self,
        org_id: OrgId,
        period: u32,
        watermark: UnixNanos,
        billed: Vec<(Meter, u64)>,
    ) -> Result<Done, ReconcileError> {
        let Notes { has_counters, refused, withheld } = self.notes(org_id, period).await?;
        if !withheld.is_empty() {
            self.registry.record_events(Some(org_id), &crate::notes(org_id, &withheld, ACTOR)).await?;
            crate::forget_notes(&self.redis, org_id, &withheld, unix_hour()).await?;
        }
        if billed.is_empty() && !has_counters {
            return Ok(Done { is_idle: true, ..Done::default() });
        }
        let mut usage: Vec<MeterUsage> = Vec::new();
        // All meters that ingest charges, even those without billed usage: their counters may hold leaked charges.
        let charged = Meter::INGEST.iter().filter_map(|meter| meter.as_str().parse().ok()).map(|meter| (meter, 0));
        for (meter, used) in billed.into_iter().chain(charged) {
            if usage.iter().all(|known| known.meter != meter) {
                let refused_at = refused.iter().find(|(of, _)| *of == meter).map(|(_, limit)| *limit);
                usage.push(MeterUsage { meter, used, refused_at });
            }
        }
        let at = OffsetDateTime::from_unix_timestamp_nanos(watermark.into()).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let recorded = self.registry.record_usage(org_id, period, at, &usage, self.enforced).await?;
        let bases: Vec<Base> = recorded
            .limits
            .iter()
            .filter_map(|(meter, limit)| {
                let limit = match limit {
                    Limit::AtMost(limit) if self.enforced => Some(*limit),
                    _ => None,
                };
                let billed = usage.iter().find(|usage| usage.meter == *meter)?.used;
                Some(Base { meter: *meter, billed, limit })
            })
            .collect();
        let corrections =
            rebase(&self.redis, org_id, period, watermark, &bases, recorded.over_quota).await?.unwrap_or_default();
        Ok(Done { is_idle: false, corrections, told: recorded.events.len() as u64 })
    }

    async fn notes(&self, org_id: OrgId, period: u32) -> Result<Notes, ReconcileError> {
        let recent = RedisKey::quota_recent(org_id, period);
        let mut pipe = redis::pipe();
        let exist = pipe.cmd("EXISTS").arg(&recent);
        for meter in Meter::INGEST {
            exist.arg(RedisKey::quota(org_id, period, meter.as_str()));
        }
        let refused = pipe.cmd("HMGET").arg(&recent);
        for meter in Meter::INGEST {
            refused.arg(format!("refused:{}", meter.as_str()));
        }
        pipe.cmd("HGETALL").arg(RedisKey::quota_aside(org_id));
        let (keys, limits, withheld): (u64, Vec<Option<u64>>, crate::WithheldNotes) =
            pipe.query_async(&mut self.redis.clone()).await?;
        let refused = Meter::INGEST.iter().zip(limits);
        let refused = refused.filter_map(|(meter, limit)| Some((meter.as_str().parse().ok()?, limit?))).collect();
        Ok(Notes { has_counters: keys > 0, refused, withheld })
    }
}

impl Report {
    fn add(&mut self, done: Done) {
        self.orgs += u64::from(!done.is_idle);
        self.corrections += done.corrections;
        self.told += done.told;
    }
}

/// Sets an org's counters to the billed usage from before the watermark plus the charges since then, and sets its flag.
/// Returns how many counters changed; `None` if they were set with a later watermark before, which is kept.
pub async fn rebase(
    redis: &Redis,
    org_id: OrgId,
    period: u32,
    watermark: UnixNanos,
    meters: &[Base],
    over: OverQuota,
) -> Result<Option<u64>, RedisError> {
    static SCRIPT: LazyLock<Arc<Script>> =
        LazyLock::new(|| Arc::new(Script::new(include_str!("reconcile/rebase.lua"))));
    let mut call = SCRIPT.key(RedisKey::quota_recent(org_id, period));
    call.key(RedisKey::quota_over(org_id, period));
    call.arg(watermark.div_euclid(NANOS_PER_MINUTE)).arg(COUNTER_TTL.as_secs()).arg(over.as_str());
    for base in meters {
        call.key(RedisKey::quota(org_id, period, base.meter.as_str()));
        call.arg(base.meter.as_str()).arg(base.billed).arg(base.limit.map_or(-1, |limit| limit as i64));
    }
    let reply: Vec<i64> = call.invoke_async(&mut redis.clone()).await?;
    if reply.is_empty() && !meters.is_empty() {
        return Ok(None);
    }
    Ok(Some(reply.chunks_exact(2).filter(|counter| counter[0] != counter[1]).count() as u64))
}

/// The counter that admission compares with the limit; `None` if nothing was charged yet.
pub async fn counter(redis: &Redis, org_id: OrgId, period: u32, meter: Meter) -> Result<Option<u64>, RedisError> {
    let key = RedisKey::quota(org_id, period, meter.as_str());
    redis::cmd("GET").arg(key).query_async(&mut redis.clone()).await
}

/// The months to sum up: those from the watermark's to the present one, and the one before for its first days.
fn periods(watermark: UnixNanos, now: UnixNanos) -> Vec<u32> {
    let from = watermark.saturating_sub(i64::try_from(PREVIOUS_FOR.as_nanos()).unwrap_or(i64::MAX));
    let first = model::meter::period(from);
    let mut periods = vec![model::meter::period(now)];
    while let Some(last) = periods.last().copied().filter(|last| *last > first)
        && periods.len() < PERIODS_MAX
    {
        periods.push(if last % 100 == 1 { last - 89 } else { last - 1 });
    }
    periods
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: i64) -> UnixNanos {
        seconds * 1_000_000_000
    }

    #[test]
    fn a_month_is_summed_up_for_some_days_after_its_end() {
        const DAY: i64 = 86_400;
        const JANUARY: i64 = 1_798_761_600; // 2027-01-01
        let of = |watermark, now| periods(at(watermark), at(now));
        assert_eq!(of(JANUARY - DAY, JANUARY - DAY), [202_612]);
        assert_eq!(of(JANUARY + 2 * DAY, JANUARY + 2 * DAY), [202_701, 202_612]);
        assert_eq!(of(JANUARY + 4 * DAY, JANUARY + 4 * DAY), [202_701]);
        assert_eq!(of(JANUARY - DAY, JANUARY + 10 * DAY), [202_701, 202_612], "what is queued for long");
        assert_eq!(of(JANUARY - 300 * DAY, JANUARY), [202_701, 202_612, 202_611], "no more than these");
    }
}
