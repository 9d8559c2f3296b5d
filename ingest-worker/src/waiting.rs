//! Why a shard makes no progress, visible for as long as it is so: a step that is retried without end is always
//! reported.
//!
//! A short wait is not reported. A long one is an error in the log, a gauge (`tracebility_shard_waiting_seconds`), and
//! a field of the shard's lease, which `GET /v1/admin/shards` shows.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use model::shard::{Shard, Waiting};

use crate::metrics;

/// How long a wait lasts before it is reported, and how often it is reported again.
pub(crate) const TELL_EVERY: Duration = Duration::from_secs(10);

/// What one shard waits for, if it waits.
#[derive(Debug)]
pub(crate) struct Wait {
    shard: Shard,
    now: Mutex<Option<Current>>,
}

#[derive(Clone, Copy, Debug)]
struct Current {
    why: Waiting,
    since: Instant,
    /// When the wait was last reported; `None` if it was not yet.
    logged_at: Option<Instant>,
}

impl Wait {
    pub(crate) const fn new(shard: Shard) -> Self {
        Self { shard, now: Mutex::new(None) }
    }

    /// Something failed and will be tried again. Returns how long the wait has lasted, if it is time to report it.
    pub(crate) fn goes_on(&self, why: Waiting) -> Option<Duration> {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let at = Instant::now();
        let current = now.get_or_insert(Current { why, since: at, logged_at: None });
        if current.why != why {
            metrics::waiting(self.shard, current.why, Duration::ZERO);
            *current = Current { why, since: current.since, logged_at: None };
        }
        let lasts = at.saturating_duration_since(current.since);
        metrics::waiting(self.shard, why, lasts);
        let due = current.logged_at.unwrap_or(current.since) + TELL_EVERY;
        (due <= at).then(|| {
            current.logged_at = Some(at);
            lasts
        })
    }

    /// Something succeeded. True if the wait that ends here was reported.
    pub(crate) fn is_over(&self) -> bool {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(current) = now.take() else { return false };
        metrics::waiting(self.shard, current.why, Duration::ZERO);
        current.logged_at.is_some()
    }
}

impl Drop for Wait {
    /// This worker does not own the shard any more, so it no longer reports what the shard waits for.
    fn drop(&mut self) {
        self.is_over();
    }
}
