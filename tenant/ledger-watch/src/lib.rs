//! Checks the ledger again and again, and raises an alarm when an imbalance lasts.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ledger::{Balance, Bucket, Check, Hours, Imbalance, Imbalances, LedgerError, LedgerReader, imbalances};
use metrics::gauge;
use model::ids::OrgId;
use redis::RedisError;
use registry::event::{EventType, NewEvent};
use registry::{Registry, RegistryError};
use serde_json::json;
use stores::clock::unix_hour;
use stores::keys::RedisKey;
use stores::redis::Redis;
use thiserror::Error;
use time::OffsetDateTime;

/// How long an imbalance may last before it is an alarm, by default: an operator's replay, or a ClickHouse replica that
/// lags, can look like one for a moment.
pub const SETTLE: Duration = Duration::from_secs(120);
/// How many hours are watched, up to the present one.
pub const WATCHED_HOURS: u32 = 24;
/// How often all watched hours are checked. Every check includes the last two hours and those with an imbalance: older
/// hours hardly change.
const ALL_EVERY: Duration = Duration::from_secs(15 * 60);
/// The most imbalances that are stored, by org and hour. Later checks find the others again.
const IMBALANCES_MAX: usize = 10_000;
/// The most alarms of one check. The next checks raise the others.
const ALARMS_MAX: usize = 500;
/// The actor of the alarms in the audit trail.
const ACTOR: &str = "ledger";

/// Why a check failed. The next one starts again.
#[derive(Debug, Error)]
pub enum WatchError {
    /// The ledger could not be balanced.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Redis failed, where imbalances are stored.
    #[error("redis: {0}")]
    Redis(#[from] RedisError),
    /// Postgres failed, where alarms are written.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// How many hours were checked.
    pub hours: usize,
    /// How many orgs and hours were counted one by one.
    pub rows: usize,
    /// How many orgs and hours have an imbalance.
    pub imbalances: usize,
    /// The sum of the imbalances in absolute value, including buckets that were not counted org by org yet.
    pub items: u64,
    /// How many alarms were raised.
    pub alarms: usize,
}

/// Watches the ledger of a deployment. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Watch {
    reader: LedgerReader,
    redis: Redis,
    registry: Registry,
    settle: Duration,
    /// When all watched hours were last checked.
    checked_all_at: Arc<Mutex<Option<Instant>>>,
    checks: Arc<AtomicUsize>,
}

impl Watch {
    /// Writes alarms into that registry's audit trail.
    pub fn new(reader: LedgerReader, redis: Redis, registry: Registry, settle: Duration) -> Self {
        let (checked_all_at, checks) = (Arc::default(), Arc::default());
        Self { reader, redis, registry, settle, checked_all_at, checks }
    }

    /// Checks once. The next check repeats what failed; an alarm may then be raised twice, but is never lost.
    pub async fn check(&self) -> Result<Report, WatchError> {
        let begun = Instant::now();
        let before = imbalances(&self.redis).await?;
        let (hours, is_full) = self.hours_to_check(&before);
        let known = before.keys().map(|(org, hour)| (Bucket::from(*org), *hour)).collect();
        let check = self.reader.check(&hours, &known, self.checks.fetch_add(1, Ordering::Relaxed)).await?;
        if is_full {
            *lock(&self.checked_all_at) = Some(begun);
        }
        let now_s = OffsetDateTime::now_utc().unix_timestamp();
        let (after, alarms) = judge(&check, &hours, &before, now_s, self.settle);
        for of in &alarms {
            if let Some(imbalance) = after.get(of) {
                self.raise_alarm(*of, imbalance, &check.balance).await?;
            }
        }
        self.store(&before, &after).await?;
        let apart = check.imbalances.iter().filter(|((bucket, _), _)| !check.drilled.contains(bucket));
        let apart: u64 = apart.map(|(_, imbalance)| imbalance.unsigned_abs()).sum();
        let report = Report {
            hours: hours.iter().len(),
            rows: check.balance.rows.len(),
            imbalances: after.len(),
            items: after.values().map(|imbalance| imbalance.items.unsigned_abs()).sum::<u64>() + apart,
            alarms: alarms.len(),
        };
        gauge!("tracebility_ledger_imbalance").set(report.items as f64);
        gauge!("tracebility_ledger_imbalance_orgs").set(orgs(&after) as f64);
        gauge!("tracebility_ledger_is_complete").set(f64::from(u8::from(check.is_complete)));
        gauge!("tracebility_ledger_checked_at_seconds").set(now_s as f64);
        gauge!("tracebility_ledger_check_seconds").set(begun.elapsed().as_secs_f64());
        tracing::debug!(?report, took = ?begun.elapsed(), "the ledger was balanced");
        Ok(report)
    }

    /// The hours to check, and whether these are all watched hours: the last two, those with an imbalance, and every
    /// [`ALL_EVERY`] all of them.
    fn hours_to_check(&self, known: &Imbalances) -> (Hours, bool) {
        let (now, due) = (unix_hour(), *lock(&self.checked_all_at));
        let all = Hours::up_to(now, WATCHED_HOURS);
        if due.is_none_or(|at| at.elapsed() >= ALL_EVERY) {
            return (all, true);
        }
        let mut hours: BTreeSet<i64> = known.keys().map(|(_, hour)| *hour).filter(|hour| all.contains(*hour)).collect();
        hours.extend([now - 1, now]);
        (Hours::of(hours), false)
    }

    async fn raise_alarm(
        &self,
        (org, hour): (OrgId, i64),
        imbalance: &Imbalance,
        balance: &Balance,
    ) -> Result<(), RegistryError> {
        let row = balance.rows.iter().find(|row| (row.org_id, row.hour) == (org, hour));
        let what = if imbalance.items > 0 { "missing" } else { "there that nobody sent" };
        let items = imbalance.items.unsigned_abs();
        tracing::error!(org_id = %org, hour, items, "accepted items are {what}; see docs/operations/ledger.md");
        let detail = json!({ "imbalance": imbalance.items, "row": row });
        let event = NewEvent::new(Some(org), EventType::LedgerImbalance, ACTOR).with_target(&format!("hour {hour}"));
        match self.registry.record_events(Some(org), &[event.with_detail(detail)]).await {
            // An org that is not in the registry has no audit trail; the log has the alarm.
            Err(error) if error.is_refused_data() => {
                tracing::error!(org_id = %org, %error, "no such org");
                Ok(())
            }
            other => other,
        }
    }

    async fn store(&self, before: &Imbalances, after: &Imbalances) -> Result<(), RedisError> {
        let mut pipe = redis::pipe();
        pipe.atomic();
        let key = RedisKey::ledger_imbalances();
        for (of, imbalance) in after.iter().filter(|(of, imbalance)| before.get(of) != Some(imbalance)) {
            let Imbalance { since_s, items, alarmed } = imbalance;
            pipe.cmd("HSET")
                .arg(&key)
                .arg(format!("{}:{}", of.0, of.1))
                .arg(format!("{since_s}:{items}:{alarmed}"))
                .ignore();
        }
        for of in before.keys().filter(|of| !after.contains_key(of)) {
            pipe.cmd("HDEL").arg(&key).arg(format!("{}:{}", of.0, of.1)).ignore();
        }
        if pipe.is_empty() { Ok(()) } else { pipe.query_async(&mut self.redis.clone()).await }
    }
}

/// The imbalances to store after a check, and those to raise an alarm for: imbalances that lasted, and among those with
/// an alarm, the ones that grew.
fn judge(
    check: &Check,
    hours: &Hours,
    before: &Imbalances,
    now_s: i64,
    settle: Duration,
) -> (Imbalances, Vec<(OrgId, i64)>) {
    let (mut after, mut alarms) = (Imbalances::new(), Vec::new());
    let first = unix_hour_of(now_s) - i64::from(WATCHED_HOURS);
    for (of, known) in before.iter().filter(|((_, hour), _)| *hour > first) {
        let was_checked = hours.contains(of.1) && check.drilled.contains(&Bucket::from(of.0));
        // When not everything was read, an imbalance cannot be declared over.
        if !was_checked || !check.is_complete {
            after.insert(*of, *known);
        }
    }
    for row in check.balance.rows.iter().filter(|row| !row.is_balanced()) {
        let (of, items) = ((row.org_id, row.hour), row.amounts.imbalance);
        let same = before.get(&of).filter(|known| known.items.signum() == items.signum());
        let (since_s, alarmed) = same.map_or((now_s, 0), |same| (same.since_s, same.alarmed));
        let has_lasted = now_s.saturating_sub(since_s) >= settle.as_secs().cast_signed();
        let is_news = same.is_some() && has_lasted && items.unsigned_abs() > alarmed.unsigned_abs();
        if after.len() >= IMBALANCES_MAX && !before.contains_key(&of) {
            continue;
        }
        let raises_alarm = is_news && alarms.len() < ALARMS_MAX;
        if raises_alarm {
            alarms.push(of);
        }
        after.insert(of, Imbalance { since_s, items, alarmed: if raises_alarm { items } else { alarmed } });
    }
    (after, alarms)
}

const fn unix_hour_of(seconds: i64) -> i64 {
    seconds.div_euclid(3600)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // It holds a single value, which is always valid.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn orgs(imbalances: &Imbalances) -> usize {
    let mut orgs: Vec<OrgId> = imbalances.keys().map(|(org, _)| *org).collect();
    orgs.dedup();
    orgs.len()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use ledger::{Amounts, Row};

    const OF: (OrgId, i64) = (OrgId(Uuid::from_u128(7)), 500_000);

    fn check(imbalance: i64) -> Check {
        let amounts = Amounts { accepted: 9, imbalance, ..Amounts::default() };
        let rows = vec![Row { org_id: OF.0, hour: OF.1, amounts }];
        Check {
            drilled: BTreeSet::from([Bucket::from(OF.0)]),
            balance: Balance { rows, ..Balance::default() },
            is_complete: true,
            ..Check::default()
        }
    }

    fn judged(check: &Check, before: &Imbalances, after_s: i64, settle: Duration) -> (Imbalances, Vec<(OrgId, i64)>) {
        judge(check, &Hours::of(BTreeSet::from([OF.1])), before, OF.1 * 3600 + after_s, settle)
    }

    #[test]
    fn a_lasting_imbalance_alarms_once_and_again_when_it_grows() {
        let settle = Duration::from_secs(120);
        let (mut known, mut alarms) = (Imbalances::new(), Vec::new());
        for (now_s, imbalance) in
            [(0, 3), (60, 3), (120, 3), (180, 3), (240, 5), (300, 4), (360, 0), (420, -1), (500, 2), (620, 2)]
        {
            let (after, raised) = judged(&check(imbalance), &known, now_s, settle);
            alarms.extend(raised.iter().map(|_| now_s));
            known = after;
        }
        assert_eq!(alarms, [120, 240, 620], "the other sign is another imbalance");
        assert_eq!(known[&OF], Imbalance { since_s: OF.1 * 3600 + 500, items: 2, alarmed: 2 });
    }

    #[test]
    fn an_imbalance_seen_once_is_no_alarm_even_without_a_settling_time() {
        let (known, alarms) = judged(&check(3), &Imbalances::new(), 50, Duration::ZERO);
        assert_eq!(alarms, []);
        assert_eq!(judged(&check(3), &known, 50, Duration::ZERO).1, [OF]);
    }

    #[test]
    fn an_incomplete_check_neither_raises_nor_ends_an_alarm() {
        let known = Imbalances::from([(OF, Imbalance { since_s: 1, items: 3, alarmed: 3 })]);
        let partial = Check { is_complete: false, ..check(0) };
        assert_eq!(judged(&partial, &known, 500, SETTLE), (known.clone(), vec![]));
        assert_eq!(judged(&check(0), &known, 500, SETTLE), (Imbalances::new(), vec![]));
    }

    #[test]
    fn an_unchecked_imbalance_stays_known_until_its_hour_is_not_watched() {
        let known = Imbalances::from([(OF, Imbalance { since_s: 1, items: 3, alarmed: 3 })]);
        let elsewhere = Check { is_complete: true, ..Check::default() };
        assert_eq!(judged(&elsewhere, &known, 500, SETTLE), (known.clone(), vec![]));
        let later = Hours::of(BTreeSet::from([OF.1 + 1]));
        assert_eq!(judge(&check(0), &later, &known, OF.1 * 3600, SETTLE).0, known, "another hour was");
        let day_s = i64::from(WATCHED_HOURS) * 3600;
        assert_eq!(judged(&elsewhere, &known, day_s, SETTLE), (Imbalances::new(), vec![]));
    }

    #[test]
    fn alarms_of_one_check_are_bounded_and_the_rest_follows() {
        let rows: Vec<Row> = (0..ALARMS_MAX as u128 + 7)
            .map(|n| Row {
                org_id: OrgId(Uuid::from_u128(n)),
                hour: OF.1,
                amounts: Amounts { imbalance: 1, ..Amounts::default() },
            })
            .collect();
        let drilled = rows.iter().map(|row| Bucket::from(row.org_id)).collect();
        let check =
            Check { drilled, balance: Balance { rows, ..Balance::default() }, is_complete: true, ..Check::default() };
        let (mut known, mut raised) = (Imbalances::new(), Vec::new());
        for turn in 0..4 {
            let (after, alarms) = judged(&check, &known, turn, Duration::ZERO);
            raised.push(alarms.len());
            known = after;
        }
        assert_eq!(raised, [0, ALARMS_MAX, 7, 0]);
    }
}
