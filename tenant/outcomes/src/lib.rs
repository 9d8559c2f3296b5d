//! What became of every item: each ends in exactly one outcome, and the sums say whether anything went missing.
//!
//! [`Items`] stands for so many runs and spans of one org whose fate is open. It can be divided, and every part is
//! ended by naming its outcome; a part that is dropped without one is counted as [`Outcome::Defect`], which is never a
//! normal state and fails the tests that look for it. Sums are kept per org, hour, outcome and reason, in this process,
//! and [`run`] brings them to Redis.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use metrics::counter;
use model::ids::OrgId;

use model::words;

mod answered;
mod flush;

pub use answered::Answered;
pub use flush::{FLUSH_EVERY, field, run};
pub use flush::{KEPT_S, is_outcome};

/// Sums that are kept between two flushes, in entries. Beyond it an item is counted without its org.
pub const SUMS_MAX: usize = 200_000;
/// Why accepted items are [`Outcome::OverQuota`] or [`Outcome::DeadLettered`] when they are not kept.
pub const DROPPED: &str = "dropped";
/// Locks the sums are spread over, so that threads rarely meet.
const LOCKS: usize = 16;

words! {
    /// How an item can leave us.
    Outcome, "outcome" {
        /// Answered with a 2xx: durable, and on its way to ClickHouse.
        Accepted = "accepted",
        /// Not understood or not allowed; the client was told.
        Rejected = "rejected",
        /// Over a rate; the client was told when to come again.
        RateLimited = "rate_limited",
        /// Over a monthly limit; the client was told, or the worker set it aside.
        OverQuota = "over_quota",
        /// Accepted while Redis was away: in the local spill.
        Spilled = "spilled",
        /// Parked, with its bytes and the reason.
        DeadLettered = "dead_lettered",
        /// Accepted, and not billed, because it is a client's retry of what its shard has already.
        Repeated = "repeated",
        /// In ClickHouse.
        Stored = "stored",
        /// Not stored because of our own trouble; the client was told to come again.
        Unavailable = "unavailable",
        /// Dropped without an outcome. A defect of this program.
        Defect = "defect",
    }
}

/// What is summed up under one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sum {
    /// Whose items; `None` where that is not known.
    pub org: Option<OrgId>,
    /// Hours since the Unix epoch.
    pub hour: i64,
    /// What became of them.
    pub outcome: Outcome,
    /// Why, in one word from this program's text.
    pub reason: &'static str,
}

/// The sums of this process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Ledger {
    sums: Arc<[Mutex<HashMap<Sum, u64>>; LOCKS]>,
    answered: Answered,
}

impl Default for Ledger {
    fn default() -> Self {
        Self::new()
    }
}

impl Ledger {
    /// An empty ledger.
    pub fn new() -> Self {
        Self { sums: Arc::new(std::array::from_fn(|_| Mutex::default())), answered: Answered::default() }
    }

    /// So many items of an org, whose fate is open from now on.
    pub fn open(&self, org: OrgId, items: u64) -> Items {
        Items { ledger: self.clone(), org, items }
    }

    /// What was answered for with a 2xx.
    pub const fn answered(&self) -> &Answered {
        &self.answered
    }

    /// Counts requests that were refused before anyone knew how many items they hold, each as one.
    pub fn refused_unread(&self, org: Option<OrgId>, outcome: Outcome, reason: &'static str) {
        self.add(org, outcome, reason, 1);
    }

    /// Every sum since this process began, in order. For the flush, and for tests.
    pub fn sums(&self) -> Vec<(Sum, u64)> {
        let mut all: Vec<_> = self
            .sums
            .iter()
            .flat_map(|sums| lock(sums).iter().map(|(sum, n)| (*sum, *n)).collect::<Vec<_>>())
            .collect();
        all.sort_unstable();
        all
    }

    fn add(&self, org: Option<OrgId>, outcome: Outcome, reason: &'static str, items: u64) {
        if items == 0 {
            return;
        }
        counter!("tracebility_outcomes_total", "outcome" => outcome.as_str(), "reason" => reason).increment(items);
        let index = org.map_or(0, |org| usize::from(org.0.as_bytes()[15]) % LOCKS);
        let sum = Sum { org, hour: stores::clock::unix_hour(), outcome, reason };
        let mut sums = lock(&self.sums[index]);
        if sums.len() >= SUMS_MAX / LOCKS && !sums.contains_key(&sum) {
            drop(sums);
            // There are few outcomes and reasons, so this one always finds room.
            let without_org = Sum { org: None, ..sum };
            *lock(&self.sums[0]).entry(without_org).or_default() += items;
            return;
        }
        *sums.entry(sum).or_default() += items;
    }

    /// Forgets the sums of hours that are over and were written.
    fn forget_before(&self, hour: i64) {
        for sums in self.sums.iter() {
            lock(sums).retain(|sum, _| sum.hour >= hour);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A sum is whole at every point where a panic could happen.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Items of one org whose fate is open. End them, or divide them and end the parts.
#[must_use = "items that are dropped without an outcome are counted as a defect"]
#[derive(Debug)]
pub struct Items {
    ledger: Ledger,
    org: OrgId,
    items: u64,
}

impl Items {
    /// How many.
    pub const fn count(&self) -> u64 {
        self.items
    }

    /// Takes `items` of them out, at most all.
    pub fn split(&mut self, items: u64) -> Self {
        let items = items.min(self.items);
        self.items -= items;
        Self { ledger: self.ledger.clone(), org: self.org, items }
    }

    /// This is what became of them.
    pub fn end(mut self, outcome: Outcome, reason: &'static str) {
        let items = std::mem::take(&mut self.items);
        self.ledger.add(Some(self.org), outcome, reason, items);
    }
}

impl Drop for Items {
    fn drop(&mut self) {
        if self.items > 0 {
            tracing::error!(org_id = %self.org, items = self.items, "items were dropped without an outcome");
            self.ledger.add(Some(self.org), Outcome::Defect, "dropped", self.items);
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn counted(ledger: &Ledger, outcome: Outcome) -> u64 {
        ledger.sums().iter().filter(|(sum, _)| sum.outcome == outcome).map(|(_, n)| n).sum()
    }

    #[test]
    fn every_item_is_counted_once_whatever_happens_to_it() {
        let ledger = Ledger::new();
        let org = OrgId(Uuid::new_v4());
        let mut items = ledger.open(org, 10);
        items.split(3).end(Outcome::Rejected, "too_large");
        let mut rest = items.split(5);
        rest.split(99).end(Outcome::Accepted, "ok");
        rest.end(Outcome::Accepted, "ok");
        drop(items);
        let sums = ledger.sums();
        assert_eq!(sums.iter().map(|(_, n)| n).sum::<u64>(), 10, "{sums:?}");
        assert_eq!([Outcome::Rejected, Outcome::Accepted, Outcome::Defect].map(|o| counted(&ledger, o)), [3, 5, 2]);
        assert!(sums.iter().all(|(sum, _)| sum.org == Some(org)));
    }

    #[test]
    fn a_panic_loses_no_item() {
        let ledger = Ledger::new();
        let items = ledger.open(OrgId(Uuid::new_v4()), 4);
        let panicked = std::thread::spawn(move || {
            let _items = items;
            panic!("on purpose");
        });
        assert!(panicked.join().is_err());
        assert_eq!(counted(&ledger, Outcome::Defect), 4);
    }

    #[test]
    fn more_orgs_than_there_is_room_for_are_counted_together() {
        let ledger = Ledger::new();
        let orgs = SUMS_MAX as u128 + 1_000;
        for org in 0..orgs {
            ledger.open(OrgId(Uuid::from_u128(org)), 1).end(Outcome::Accepted, "ok");
        }
        let sums = ledger.sums();
        assert!(sums.len() <= SUMS_MAX + 1, "{}", sums.len());
        assert_eq!(counted(&ledger, Outcome::Accepted), orgs as u64);
    }
}
