//! Looking again and again, and raising an alarm when a residue stays.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use metrics::gauge;
use redis::RedisError;
use schema::ids::OrgId;
use serde::Serialize;
use serde_json::json;
use time::OffsetDateTime;

use super::{Balance, Books, LedgerError, Whose, Window};
use crate::audit::{EventType, NewEvent};
use crate::clock::unix_hour;
use crate::keys::RedisKey;
use crate::redis::Redis;
use crate::registry::Registry;

/// How long a residue may last before it is an alarm, unless set otherwise: an operator's replay, or a replica of ClickHouse that
/// lags, can look like one for a moment.
pub const SETTLE: Duration = Duration::from_secs(120);
/// Hours that are watched.
pub const WATCHED_HOURS: u32 = 24;
/// Who is said to have told.
const ACTOR: &str = "ledger";

/// A residue that was seen, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Residue {
    /// When it was first seen, in seconds since the Unix epoch.
    pub since_s: i64,
    /// How much it was when it was seen last.
    pub items: i64,
    /// How much it was when the alarm was raised; 0 if it was not.
    pub told: i64,
}

/// What is remembered, by org and hour.
type Residues = BTreeMap<(OrgId, i64), Residue>;

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Orgs and hours that were balanced.
    pub rows: usize,
    /// Those with a residue.
    pub residues: usize,
    /// The sum of the residues, whichever way.
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
}

impl Watch {
    /// Writes alarms into that registry's audit trail.
    pub const fn new(books: Books, redis: Redis, registry: Registry, settle: Duration) -> Self {
        Self { books, redis, registry, settle }
    }

    /// Looks once. What fails is done again by the next look; an alarm may then be raised twice, never not at all.
    pub async fn look(&self) -> Result<Report, LedgerError> {
        let begun = Instant::now();
        let window = Window::up_to(unix_hour(), WATCHED_HOURS);
        let balance = self.books.balance(Whose::Everyone, window).await?;
        let before = residues(&self.redis).await?;
        let now_s = OffsetDateTime::now_utc().unix_timestamp();
        let (after, alarms) = judge(&balance, &before, now_s, self.settle);
        for (org, hour) in &alarms {
            if let Some(residue) = after.get(&(*org, *hour)) {
                self.tell(*org, *hour, residue, &balance).await?;
            }
        }
        self.remember(&before, &after).await?;
        let report =
            Report { rows: balance.rows.len(), residues: after.len(), items: balance.residue(), told: alarms.len() };
        gauge!("tracebility_ledger_residue").set(report.items as f64);
        gauge!("tracebility_ledger_residue_orgs").set(orgs(&after) as f64);
        gauge!("tracebility_ledger_is_complete").set(f64::from(u8::from(balance.is_complete)));
        gauge!("tracebility_ledger_checked_at_seconds").set(now_s as f64);
        tracing::debug!(?report, took = ?begun.elapsed(), "the ledger was balanced");
        Ok(report)
    }

    async fn tell(&self, org: OrgId, hour: i64, residue: &Residue, balance: &Balance) -> Result<(), LedgerError> {
        let row = balance.rows.iter().find(|row| (row.org_id, row.hour) == (org, hour));
        let what = if residue.items > 0 { "missing" } else { "there that nobody sent" };
        let items = residue.items.unsigned_abs();
        tracing::error!(org_id = %org, hour, items, "accepted items are {what}; see docs/ledger.md");
        let detail = json!({ "residue": residue.items, "row": row });
        let event = NewEvent::new(Some(org), EventType::LedgerResidue, ACTOR).target(&format!("hour {hour}"));
        match self.registry.record_events(Some(org), &[event.detail(detail)]).await {
            // An org that is not in the registry has no trail; the log has said it.
            Err(error) if error.is_refused_data() => tracing::error!(org_id = %org, %error, "no such org"),
            told => told?,
        }
        Ok(())
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

/// The residues that the watch has seen, by org and hour.
pub async fn residues(redis: &Redis) -> Result<Residues, RedisError> {
    let mut all = redis::cmd("HGETALL");
    let all: Vec<(String, String)> = all.arg(RedisKey::ledger_residues()).query_async(&mut redis.clone()).await?;
    let read = |(of, residue): (String, String)| {
        let (org, hour) = of.split_once(':')?;
        let mut numbers = residue.split(':').map(|n| n.parse().ok());
        let (since_s, items, told) = (numbers.next()??, numbers.next()??, numbers.next()??);
        Some(((org.parse().ok()?, hour.parse().ok()?), Residue { since_s, items, told }))
    };
    // What another release wrote is seen again.
    Ok(all.into_iter().filter_map(read).collect())
}

/// What is to be remembered after a look, and what an alarm is to be raised for: what has lasted, and what of it has grown.
fn judge(balance: &Balance, before: &Residues, now_s: i64, settle: Duration) -> (Residues, Vec<(OrgId, i64)>) {
    let (mut after, mut alarms) = (Residues::new(), Vec::new());
    for row in &balance.rows {
        let of = (row.org_id, row.hour);
        let known = before.get(&of);
        if row.is_balanced() {
            // When not all was seen, nothing is known to be right again.
            if let Some(known) = known.filter(|_| !balance.is_complete) {
                after.insert(of, *known);
            }
            continue;
        }
        let same = known.filter(|known| known.items.signum() == row.residue.signum());
        let (since_s, told) = same.map_or((now_s, 0), |same| (same.since_s, same.told));
        let has_lasted = now_s.saturating_sub(since_s) >= settle.as_secs().cast_signed();
        let is_news = same.is_some() && has_lasted && row.residue.unsigned_abs() > told.unsigned_abs();
        if is_news {
            alarms.push(of);
        }
        after.insert(of, Residue { since_s, items: row.residue, told: if is_news { row.residue } else { told } });
    }
    (after, alarms)
}

fn orgs(residues: &Residues) -> usize {
    let mut orgs: Vec<OrgId> = residues.keys().map(|(org, _)| *org).collect();
    orgs.dedup();
    orgs.len()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::super::{DeadLettered, Row, SetAside};
    use super::*;

    const OF: (OrgId, i64) = (OrgId(Uuid::from_u128(7)), 500_000);

    fn balance(residue: i64) -> Balance {
        let row = Row {
            org_id: OF.0,
            hour: OF.1,
            accepted: 9,
            stored: 0,
            set_aside: SetAside::default(),
            dead_lettered: DeadLettered::default(),
            in_flight: 0,
            residue,
        };
        Balance { rows: vec![row], is_complete: true, unreadable: 0 }
    }

    #[test]
    fn an_alarm_is_raised_once_for_what_stays_and_again_for_what_grows() {
        let settle = Duration::from_secs(120);
        let (mut known, mut alarms) = (Residues::new(), Vec::new());
        for (now_s, residue) in
            [(0, 3), (60, 3), (120, 3), (180, 3), (240, 5), (300, 4), (360, 0), (420, -1), (500, 2), (620, 2)]
        {
            let (after, raised) = judge(&balance(residue), &known, now_s, settle);
            alarms.extend(raised.iter().map(|_| now_s));
            known = after;
        }
        assert_eq!(alarms, [120, 240, 620], "the other sign is another residue");
        assert_eq!(known[&OF], Residue { since_s: 500, items: 2, told: 2 });
    }

    #[test]
    fn one_look_is_no_alarm_even_without_a_settling_time() {
        let (known, alarms) = judge(&balance(3), &Residues::new(), 50, Duration::ZERO);
        assert_eq!(alarms, []);
        assert_eq!(judge(&balance(3), &known, 50, Duration::ZERO).1, [OF]);
    }

    #[test]
    fn what_was_not_seen_whole_neither_raises_nor_ends_an_alarm() {
        let known = Residues::from([(OF, Residue { since_s: 1, items: 3, told: 3 })]);
        let partial = Balance { is_complete: false, ..balance(0) };
        assert_eq!(judge(&partial, &known, 500, SETTLE), (known.clone(), vec![]));
        assert_eq!(judge(&balance(0), &known, 500, SETTLE), (Residues::new(), vec![]));
    }
}
