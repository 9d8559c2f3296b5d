//! Counts the outcomes of items: each item has exactly one, so the sums show whether any went missing.
//!
//! [`ItemOutcomes`] stands for a number of runs and spans of one org without an outcome yet. If it is dropped without
//! one, its items are counted as [`Outcome::Defect`], which is never a normal state and fails the tests that look for
//! it. This process keeps sums per org, hour, outcome and reason, and [`run`] writes them to Redis.

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

/// The most sums kept between two flushes. Beyond it, items are counted without their org.
pub const SUMS_MAX: usize = 200_000;
/// The reason for items that are [`Outcome::OverQuota`] or [`Outcome::DeadLettered`] and were dropped instead of kept.
pub const DROPPED: &str = "dropped";
/// Number of locks for the sums, so that threads rarely wait for each other.
const LOCKS: usize = 16;

words! {
    /// The outcome of an item.
    Outcome, "outcome" {
        /// Answered with a 2xx: its entry is in a stream, on the way to ClickHouse.
        Accepted = "accepted",
        /// Invalid or not allowed; the answer says so.
        Rejected = "rejected",
        /// Over a rate limit; the answer says when to retry.
        RateLimited = "rate_limited",
        /// Over a monthly limit; the client got an error, or the worker parked or dropped the item.
        OverQuota = "over_quota",
        /// Kept as a dead letter with the reason, or dropped from there.
        DeadLettered = "dead_lettered",
        /// Accepted, and not billed, because it is a client's retry of a request that is stored already.
        Repeated = "repeated",
        /// Not stored because of a failure on our side; the answer asks the client to retry.
        Unavailable = "unavailable",
        /// Dropped without an outcome: a bug in this program.
        Defect = "defect",
    }
}

/// The key of a sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sum {
    /// The org that sent the items; `None` if it is unknown.
    pub org: Option<OrgId>,
    /// The hour in which the items ended, in hours since the Unix epoch.
    pub hour: i64,
    /// The outcome of the items.
    pub outcome: Outcome,
    /// The reason: one word, a constant of this program.
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
    /// A ledger without any sums.
    pub fn new() -> Self {
        Self { sums: Arc::new(std::array::from_fn(|_| Mutex::default())), answered: Answered::default() }
    }

    /// A number of items of an org that have no outcome yet.
    pub fn open(&self, org: OrgId, items: u64) -> ItemOutcomes {
        ItemOutcomes { ledger: self.clone(), org, items }
    }

    /// The counts of items that were answered with a 2xx.
    pub const fn answered(&self) -> &Answered {
        &self.answered
    }

    /// Counts requests that were refused before their items were counted, each as one item.
    pub fn refused_unread(&self, org: Option<OrgId>, outcome: Outcome, reason: &'static str) {
        self.add(org, outcome, reason, 1);
    }

    /// All sums since this process started, in order. For the flush, and for tests.
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
            // There are few outcomes and reasons, so there is always room for this one.
            let without_org = Sum { org: None, ..sum };
            *lock(&self.sums[0]).entry(without_org).or_default() += items;
            return;
        }
        *sums.entry(sum).or_default() += items;
    }

    /// Forgets sums of past hours that are written.
    fn forget_before(&self, hour: i64) {
        for sums in self.sums.iter() {
            lock(sums).retain(|sum, _| sum.hour >= hour);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A sum is complete at every point where a panic could happen.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Items of one org without an outcome. End them with [`ItemOutcomes::end`].
#[must_use = "items that are dropped without an outcome are counted as a defect"]
#[derive(Debug)]
pub struct ItemOutcomes {
    ledger: Ledger,
    org: OrgId,
    items: u64,
}

impl ItemOutcomes {
    /// The number of items.
    pub const fn count(&self) -> u64 {
        self.items
    }

    /// Counts the items under that outcome and reason.
    pub fn end(mut self, outcome: Outcome, reason: &'static str) {
        let items = std::mem::take(&mut self.items);
        self.ledger.add(Some(self.org), outcome, reason, items);
    }
}

impl Drop for ItemOutcomes {
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
        ledger.open(org, 3).end(Outcome::Rejected, "too_large");
        ledger.open(org, 5).end(Outcome::Accepted, "ok");
        let items = ledger.open(org, 2);
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
    fn outcomes_of_orgs_over_the_limit_are_counted_together() {
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
