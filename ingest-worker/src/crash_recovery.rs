//! How a worker takes over a shard after the work on it has crashed.
//!
//! A panic ends the work on one shard. An abort, or a system that is out of memory, ends the worker. In both cases the
//! next owner repeats the same work and may crash in the same way: one entry could crash every worker of a deployment,
//! one after the other, without end. So the lease counts how many owners in a row crashed ([`lease`]). From
//! [`CAREFUL_FROM`] crashes on, the next owner is careful: it writes each entry's id to Redis before it processes
//! the entry, so that the owner after a crash knows which entry was processed last. An entry that was the last one of
//! [`TRIES_MAX`] crashed owners becomes a dead letter, unread. When all entries that were waiting are done, the crashes
//! are forgotten.
//!
//! A crash that happens without processing an entry, such as one in a batch that is announced already, cannot be
//! avoided this way. After such crashes an owner begins with a pause that grows up to [`PAUSE_MAX`], and the gauge
//! `tracebility_shard_crashes` shows them.

use std::sync::LazyLock;
use std::time::Duration;

use lease::LeaseGuard;
use model::entry_id::EntryId;
use redis::{RedisError, Script};
use stores::keys::RedisKey;
use stores::redis::Redis;

static RECORD_ATTEMPT: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("crash_recovery/record_attempt.lua")));
static FORGET_CRASHES: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("crash_recovery/forget_crashes.lua")));

/// Number of crashed owners in a row after which the next owner is careful. Fewer crashes happen without a bad entry: a
/// worker is killed, a machine is lost.
const CAREFUL_FROM: u32 = 2;
/// How many careful owners may crash with the same entry as the last one they processed.
const TRIES_MAX: i64 = 2;
/// Number of crashed owners in a row after which the next owner begins with a pause. By then a single bad entry is a
/// dead letter already.
const PAUSE_FROM: u32 = CAREFUL_FROM + TRIES_MAX as u32 + 1;
const PAUSE_FIRST: Duration = Duration::from_secs(1);
/// The longest pause with which an owner begins.
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// What to do with an entry that may have crashed a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Precaution {
    /// Nothing: no owner crashed with the entry.
    None,
    /// The entry may have crashed a worker: it is processed only when the batch has no other entry.
    Alone,
    /// This many owners crashed with the entry. It is not read and becomes a dead letter.
    DeadLetter(i64),
    /// Another worker owns the shard.
    LeaseLost,
}

/// How one owner of a shard takes over after crashes.
#[derive(Clone, Debug)]
pub(crate) struct CrashRecovery {
    guard: LeaseGuard,
    redis: Redis,
    crashes: u32,
}

impl CrashRecovery {
    pub(crate) fn new(guard: LeaseGuard, redis: Redis) -> Self {
        let crashes = guard.crashes();
        Self { guard, redis, crashes }
    }

    /// Whether the owner writes down each entry before it processes it.
    pub(crate) const fn is_careful(&self) -> bool {
        self.crashes >= CAREFUL_FROM
    }

    /// Whether the lease counts crashes that can be forgotten later.
    pub(crate) const fn has_crashed(&self) -> bool {
        self.crashes > 0
    }

    /// How long the owner waits before it does anything.
    pub(crate) fn pause(&self) -> Duration {
        let doublings = self.crashes.saturating_sub(PAUSE_FROM);
        if self.crashes < PAUSE_FROM {
            Duration::ZERO
        } else {
            (PAUSE_FIRST * 2_u32.pow(doublings.min(16))).min(PAUSE_MAX)
        }
    }

    /// Writes down that the entry is about to be processed, and returns the precaution to take.
    pub(crate) async fn record_attempt(&self, entry: EntryId) -> Result<Precaution, RedisError> {
        if !self.is_careful() {
            return Ok(Precaution::None);
        }
        let shard = self.guard.shard();
        let mut call = RECORD_ATTEMPT.key(RedisKey::shard_lease(shard));
        call.key(RedisKey::shard_suspect(shard))
            .arg(self.guard.owner())
            .arg(self.guard.epoch())
            .arg(entry.to_string())
            .arg(self.crashes);
        let ended: i64 = call.invoke_async(&mut self.redis.clone()).await?;
        Ok(match ended {
            ..0 => Precaution::LeaseLost,
            0 => Precaution::None,
            1..TRIES_MAX => Precaution::Alone,
            many => Precaution::DeadLetter(many),
        })
    }

    /// Forgets the crashes: all entries that were waiting are done.
    pub(crate) async fn forget_crashes(&mut self) -> Result<(), RedisError> {
        let shard = self.guard.shard();
        let mut call = FORGET_CRASHES.key(RedisKey::shard_lease(shard));
        call.key(RedisKey::shard_suspect(shard)).arg(self.guard.owner()).arg(self.guard.epoch());
        call.invoke_async::<()>(&mut self.redis.clone()).await?;
        self.crashes = 0;
        Ok(())
    }
}
