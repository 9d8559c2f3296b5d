//! Looking again and again, and raising an alarm when a residue stays.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use metrics::gauge;
use model::ids::OrgId;
use redis::RedisError;
use serde_json::json;
use time::OffsetDateTime;

use ledger::{Balance, Books, Bucket, LedgerError, Look, Residue, Residues, Window, residues};
use registry::event::{EventType, NewEvent};
use registry::{Registry, RegistryError};
use stores::clock::unix_hour;
use stores::keys::RedisKey;
use stores::redis::Redis;
use thiserror::Error;

/// How long a residue may last before it is an alarm, unless set otherwise: an operator's replay, or a replica of
/// ClickHouse that lags, can look like one for a moment.
pub const SETTLE: Duration = Duration::from_secs(120);
/// Hours that are watched.
pub const WATCHED_HOURS: u32 = 24;
/// How often all of them are looked at. The last two are at every look, and those with a residue: what is older hardly
/// changes.
const ALL_EVERY: Duration = Duration::from_secs(15 * 60);
/// Residues that are remembered, by org and hour. What is beyond is found again by later looks.
const RESIDUES_MAX: usize = 10_000;
/// Alarms of one look. The others are raised by the next ones.
const ALARMS_MAX: usize = 500;
/// Who is said to have told.
const ACTOR: &str = "ledger";

/// Why a look failed. The next one begins anew.
#[derive(Debug, Error)]
pub enum WatchError {
    /// There is no balance.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Redis, which remembers what was found.
    #[error("redis: {0}")]
    Redis(#[from] RedisError),
    /// Postgres, where an alarm is written down.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Hours that were looked at.
    pub hours: usize,
    /// Orgs and hours that were looked at each by itself.
    pub rows: usize,
    /// Orgs and hours that are known to have a residue.
    pub residues: usize,
    /// The sum of the residues, whichever way, also of those that were not looked at by org yet.
    pub items: u64,
    /// Alarms that were raised.
    pub told: usize,
}

/// Watches a deployment's books. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Watch {
    books: Books,
    redis: Redis,
    registry: Registry,
    settle: Duration,
    /// When all hours were looked at last.
    looked_at_all: Arc<Mutex<Option<Instant>>>,
    looks: Arc<AtomicUsize>,
}

impl Watch {
    /// Writes alarms into that registry's audit trail.
    pub fn new(books: Books, redis: Redis, registry: Registry, settle: Duration) -> Self {
        let (looked_at_all, looks) = (Arc::default(), Arc::default());
        Self { books, redis, registry, settle, looked_at_all, looks }
    }

    /// Looks once. What fails is done again by the next look; an alarm may then be raised twice, never not at all.
    pub async fn look(&self) -> Result<Report, WatchError> {
        let begun = Instant::now();
        let before = residues(&self.redis).await?;
        let (window, is_full) = self.window(&before);
        let known = before.keys().map(|(org, hour)| (Bucket::from(*org), *hour)).collect();
        let look = self.books.look(&window, &known, self.looks.fetch_add(1, Ordering::Relaxed)).await?;
        if is_full {
            *lock(&self.looked_at_all) = Some(begun);
        }
        let now_s = OffsetDateTime::now_utc().unix_timestamp();
        let (after, alarms) = judge(&look, &window, &before, now_s, self.settle);
        for of in &alarms {
            if let Some(residue) = after.get(of) {
                self.tell(*of, residue, &look.balance).await?;
            }
        }
        self.remember(&before, &after).await?;
        let apart = look.residues.iter().filter(|((bucket, _), _)| !look.drilled.contains(bucket));
        let apart: u64 = apart.map(|(_, residue)| residue.unsigned_abs()).sum();
        let report = Report {
            hours: window.hours().len(),
            rows: look.balance.rows.len(),
            residues: after.len(),
            items: after.values().map(|residue| residue.items.unsigned_abs()).sum::<u64>() + apart,
            told: alarms.len(),
        };
        gauge!("tracebility_ledger_residue").set(report.items as f64);
        gauge!("tracebility_ledger_residue_orgs").set(orgs(&after) as f64);
        gauge!("tracebility_ledger_is_complete").set(f64::from(u8::from(look.is_complete)));
        gauge!("tracebility_ledger_checked_at_seconds").set(now_s as f64);
        gauge!("tracebility_ledger_check_seconds").set(begun.elapsed().as_secs_f64());
        tracing::debug!(?report, took = ?begun.elapsed(), "the ledger was balanced");
        Ok(report)
    }

    /// The hours to look at, and whether they are all that are watched: the last two, those that did not balance, and
    /// now and then all.
    fn window(&self, known: &Residues) -> (Window, bool) {
        let (now, due) = (unix_hour(), *lock(&self.looked_at_all));
        let all = Window::up_to(now, WATCHED_HOURS);
        if due.is_none_or(|at| at.elapsed() >= ALL_EVERY) {
            return (all, true);
        }
        let mut hours: BTreeSet<i64> = known.keys().map(|(_, hour)| *hour).filter(|hour| all.holds(*hour)).collect();
        hours.extend([now - 1, now]);
        (Window::of(hours), false)
    }

    async fn tell(&self, (org, hour): (OrgId, i64), residue: &Residue, balance: &Balance) -> Result<(), RegistryError> {
        let row = balance.rows.iter().find(|row| (row.org_id, row.hour) == (org, hour));
        let what = if residue.items > 0 { "missing" } else { "there that nobody sent" };
        let items = residue.items.unsigned_abs();
        tracing::error!(org_id = %org, hour, items, "accepted items are {what}; see docs/ledger.md");
        let detail = json!({ "residue": residue.items, "row": row });
        let event = NewEvent::new(Some(org), EventType::LedgerResidue, ACTOR).target(&format!("hour {hour}"));
        match self.registry.record_events(Some(org), &[event.detail(detail)]).await {
            // An org that is not in the registry has no trail; the log has said it.
            Err(error) if error.is_refused_data() => {
                tracing::error!(org_id = %org, %error, "no such org");
                Ok(())
            }
            told => told,
        }
    }

    async fn remember(&self, before: &Residues, after: &Residues) -> Result<(), RedisError> {
        let mut pipe = redis::pipe();
        pipe.atomic();
        let key = RedisKey::ledger_residues();
        for (of, residue) in after.iter().filter(|(of, residue)| before.get(of) != Some(residue)) {
            let Residue { since_s, items, told } = residue;
            pipe.cmd("HSET")
                .arg(&key)
                .arg(format!("{}:{}", of.0, of.1))
                .arg(format!("{since_s}:{items}:{told}"))
                .ignore();
        }
        for of in before.keys().filter(|of| !after.contains_key(of)) {
            pipe.cmd("HDEL").arg(&key).arg(format!("{}:{}", of.0, of.1)).ignore();
        }
        if pipe.is_empty() { Ok(()) } else { pipe.query_async(&mut self.redis.clone()).await }
    }
}

/// What is to be remembered after a look, and what an alarm is to be raised for: what has lasted, and what of it has
/// grown.
fn judge(
    look: &Look,
    window: &Window,
    before: &Residues,
    now_s: i64,
    settle: Duration,
) -> (Residues, Vec<(OrgId, i64)>) {
    let (mut after, mut alarms) = (Residues::new(), Vec::new());
    let first = unix_hour_of(now_s) - i64::from(WATCHED_HOURS);
    for (of, known) in before.iter().filter(|((_, hour), _)| *hour > first) {
        let was_looked_at = window.holds(of.1) && look.drilled.contains(&Bucket::from(of.0));
        // When not all was seen, nothing is known to be right again.
        if !was_looked_at || !look.is_complete {
            after.insert(*of, *known);
        }
    }
    for row in look.balance.rows.iter().filter(|row| !row.is_balanced()) {
        let (of, items) = ((row.org_id, row.hour), row.amounts.residue);
        let same = before.get(&of).filter(|known| known.items.signum() == items.signum());
        let (since_s, told) = same.map_or((now_s, 0), |same| (same.since_s, same.told));
        let has_lasted = now_s.saturating_sub(since_s) >= settle.as_secs().cast_signed();
        let is_news = same.is_some() && has_lasted && items.unsigned_abs() > told.unsigned_abs();
        if after.len() >= RESIDUES_MAX && !before.contains_key(&of) {
            continue;
        }
        let is_told = is_news && alarms.len() < ALARMS_MAX;
        if is_told {
            alarms.push(of);
        }
        after.insert(of, Residue { since_s, items, told: if is_told { items } else { told } });
    }
    (after, alarms)
}

const fn unix_hour_of(seconds: i64) -> i64 {
    seconds.div_euclid(3600)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // It holds one value, which is whole at any time.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn orgs(residues: &Residues) -> usize {
    let mut orgs: Vec<OrgId> = residues.keys().map(|(org, _)| *org).collect();
    orgs.dedup();
    orgs.len()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use ledger::{Amounts, Row};

    const OF: (OrgId, i64) = (OrgId(Uuid::from_u128(7)), 500_000);

    fn look(residue: i64) -> Look {
        let amounts = Amounts { accepted: 9, residue, ..Amounts::default() };
        let rows = vec![Row { org_id: OF.0, hour: OF.1, amounts }];
        Look {
            drilled: BTreeSet::from([Bucket::from(OF.0)]),
            balance: Balance { rows, ..Balance::default() },
            is_complete: true,
            ..Look::default()
        }
    }

    fn judged(look: &Look, before: &Residues, after_s: i64, settle: Duration) -> (Residues, Vec<(OrgId, i64)>) {
        judge(look, &Window::of(BTreeSet::from([OF.1])), before, OF.1 * 3600 + after_s, settle)
    }

    #[test]
    fn an_alarm_is_raised_once_for_what_stays_and_again_for_what_grows() {
        let settle = Duration::from_secs(120);
        let (mut known, mut alarms) = (Residues::new(), Vec::new());
        for (now_s, residue) in
            [(0, 3), (60, 3), (120, 3), (180, 3), (240, 5), (300, 4), (360, 0), (420, -1), (500, 2), (620, 2)]
        {
            let (after, raised) = judged(&look(residue), &known, now_s, settle);
            alarms.extend(raised.iter().map(|_| now_s));
            known = after;
        }
        assert_eq!(alarms, [120, 240, 620], "the other sign is another residue");
        assert_eq!(known[&OF], Residue { since_s: OF.1 * 3600 + 500, items: 2, told: 2 });
    }

    #[test]
    fn one_look_is_no_alarm_even_without_a_settling_time() {
        let (known, alarms) = judged(&look(3), &Residues::new(), 50, Duration::ZERO);
        assert_eq!(alarms, []);
        assert_eq!(judged(&look(3), &known, 50, Duration::ZERO).1, [OF]);
    }

    #[test]
    fn what_was_not_seen_whole_neither_raises_nor_ends_an_alarm() {
        let known = Residues::from([(OF, Residue { since_s: 1, items: 3, told: 3 })]);
        let partial = Look { is_complete: false, ..look(0) };
        assert_eq!(judged(&partial, &known, 500, SETTLE), (known.clone(), vec![]));
        assert_eq!(judged(&look(0), &known, 500, SETTLE), (Residues::new(), vec![]));
    }

    #[test]
    fn what_was_not_looked_at_stays_known_until_its_hour_is_not_watched() {
        let known = Residues::from([(OF, Residue { since_s: 1, items: 3, told: 3 })]);
        let elsewhere = Look { is_complete: true, ..Look::default() };
        assert_eq!(judged(&elsewhere, &known, 500, SETTLE), (known.clone(), vec![]));
        let later = Window::of(BTreeSet::from([OF.1 + 1]));
        assert_eq!(judge(&look(0), &later, &known, OF.1 * 3600, SETTLE).0, known, "another hour was");
        let day_s = i64::from(WATCHED_HOURS) * 3600;
        assert_eq!(judged(&elsewhere, &known, day_s, SETTLE), (Residues::new(), vec![]));
    }

    #[test]
    fn alarms_of_one_look_are_bounded_and_the_rest_follows() {
        let rows: Vec<Row> = (0..ALARMS_MAX as u128 + 7)
            .map(|n| Row {
                org_id: OrgId(Uuid::from_u128(n)),
                hour: OF.1,
                amounts: Amounts { residue: 1, ..Amounts::default() },
            })
            .collect();
        let drilled = rows.iter().map(|row| Bucket::from(row.org_id)).collect();
        let look =
            Look { drilled, balance: Balance { rows, ..Balance::default() }, is_complete: true, ..Look::default() };
        let (mut known, mut told) = (Residues::new(), Vec::new());
        for turn in 0..4 {
            let (after, alarms) = judged(&look, &known, turn, Duration::ZERO);
            told.push(alarms.len());
            known = after;
        }
        assert_eq!(told, [0, ALARMS_MAX, 7, 0]);
    }
}
