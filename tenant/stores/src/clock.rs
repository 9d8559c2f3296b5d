//! Clocks: [`SystemClock`] for services, [`ManualClock`] for tests, so that tests of expiry do not wait.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use model::trace::UnixNanos;

/// Two readings of time. Ages and time limits of caches use [`Clock::monotonic`], which never jumps; [`Clock::unix_ms`]
/// is for instants that other systems know as well, such as a key's expiry.
pub trait Clock: Send + Sync + 'static {
    /// Time since some fixed moment of this process.
    fn monotonic(&self) -> Duration;

    /// Milliseconds since the Unix epoch.
    fn unix_ms(&self) -> i64;
}

/// Hours since the Unix epoch, by the system clock.
pub fn unix_hour() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_secs() / 3600).unwrap_or(i64::MAX)
}

/// The hour of `at`, in hours since the Unix epoch.
pub const fn hour_of(at: UnixNanos) -> i64 {
    const HOUR_NS: i64 = 3_600_000_000_000;
    at.div_euclid(HOUR_NS)
}

/// The clock of the operating system, for everything but tests.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock whose monotonic reading starts at zero now.
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn unix_ms(&self) -> i64 {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
    }
}

/// A clock that starts at the system time and then moves only by [`ManualClock::advance`].
#[derive(Debug)]
pub struct ManualClock {
    start_unix_ms: i64,
    moved_ms: AtomicU64,
}

impl ManualClock {
    /// A clock at the system time.
    pub fn new() -> Self {
        Self { start_unix_ms: SystemClock::new().unix_ms(), moved_ms: AtomicU64::new(0) }
    }

    /// Moves both readings forward, by whole milliseconds.
    pub fn advance(&self, by: Duration) {
        self.moved_ms.fetch_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.moved_ms.load(Ordering::SeqCst))
    }

    fn unix_ms(&self) -> i64 {
        self.start_unix_ms.saturating_add_unsigned(self.moved_ms.load(Ordering::SeqCst))
    }
}
