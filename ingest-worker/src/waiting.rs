//! Why a shard makes no progress, told while it is so: whatever is tried without end is tried in the open.
//!
//! A wait that is over soon is nobody's business. One that lasts is an error in the log, a gauge
//! (`tracebility_shard_waiting_seconds`), and a field of the shard's lease, which `GET /v1/admin/shards` shows.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use model::shard::{Shard, Waiting};

use crate::metrics;

/// After how long a wait is told of, and how often it is told again.
pub(crate) const TELL_EVERY: Duration = Duration::from_secs(10);

/// What one shard waits for, if for anything.
#[derive(Debug)]
pub(crate) struct Wait {
    shard: Shard,
    now: Mutex<Option<Current>>,
}

#[derive(Clone, Copy, Debug)]
struct Current {
    why: Waiting,
    since: Instant,
    /// When it was told last.
    told: Option<Instant>,
}

impl Wait {
    pub(crate) const fn new(shard: Shard) -> Self {
        Self { shard, now: Mutex::new(None) }
    }

    /// Something failed and will be tried again. Says since when, if it is time to tell.
    pub(crate) fn goes_on(&self, why: Waiting) -> Option<Duration> {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let at = Instant::now();
        let current = now.get_or_insert(Current { why, since: at, told: None });
        if current.why != why {
            metrics::waiting(self.shard, current.why, Duration::ZERO);
            *current = Current { why, since: current.since, told: None };
        }
        let lasts = at.saturating_duration_since(current.since);
        metrics::waiting(self.shard, why, lasts);
        let due = current.told.unwrap_or(current.since) + TELL_EVERY;
        (due <= at).then(|| {
            current.told = Some(at);
            lasts
        })
    }

    /// Something succeeded. True if the wait that is over was told of.
    pub(crate) fn is_over(&self) -> bool {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(current) = now.take() else { return false };
        metrics::waiting(self.shard, current.why, Duration::ZERO);
        current.told.is_some()
    }
}

impl Drop for Wait {
    /// The shard is somebody else's, or nobody's: what it waits for is not this worker's to say.
    fn drop(&mut self) {
        self.is_over();
    }
}
