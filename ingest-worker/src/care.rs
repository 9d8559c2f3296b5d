//! How a worker takes over a shard after the work on it has crashed.
//!
//! A panic ends the work on one shard. An abort, or a system that is out of memory, ends the worker. In both cases the
//! next owner repeats the same work and may crash in the same way: one entry could crash every worker of a deployment,
//! one after the other, without end. So the lease counts how many owners in a row crashed ([`lease`]). From
//! [`CAREFUL_FROM`] crashes on, the next owner is careful: it writes each entry's id to Redis before it looks at the
//! entry, so that the owner after a crash knows which entry was looked at last. An entry that was the last one of
//! [`TRIES_MAX`] crashed owners becomes a dead letter, unread. When all entries that were waiting are done, the crashes
//! are forgotten.
//!
//! A crash that happens without looking at an entry, such as one in a batch that is announced already, cannot be
//! avoided this way. After such crashes an owner begins with a pause that grows up to [`PAUSE_MAX`], and the gauge
//! `tracebility_shard_crashes` shows them.

use std::sync::LazyLock;
use std::time::Duration;

use lease::LeaseGuard;
use model::entry_id::EntryId;
use redis::{RedisError, Script};
use stores::keys::RedisKey;
use stores::redis::Redis;

static SUSPECT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("care/suspect.lua")));
static CALM: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("care/calm.lua")));

/// Number of crashed owners in a row after which the next owner is careful. Fewer crashes happen without a bad entry: a
/// worker is killed, a machine is lost.
const CAREFUL_FROM: u32 = 2;
/// How many careful owners may crash with the same entry as the last one they looked at.
const TRIES_MAX: i64 = 2;
/// Number of crashed owners in a row after which the next owner begins with a pause. By then a single bad entry is a
/// dead letter already.
const PAUSE_FROM: u32 = CAREFUL_FROM + TRIES_MAX as u32 + 1;
const PAUSE_FIRST: Duration = Duration::from_secs(1);
/// The longest pause with which an owner begins.
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// How to look at an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// The entry may be looked at.
    Freely,
    /// The entry may have crashed a worker: it is looked at only when the batch has no other entry.
    Alone,
    /// This many owners crashed with the entry. It is not looked at and becomes a dead letter.
    Never(i64),
    /// Another worker owns the shard.
    LeaseLost,
}

/// How careful one owner of a shard is.
#[derive(Clone, Debug)]
pub(crate) struct Care {
    guard: LeaseGuard,
    redis: Redis,
    crashes: u32,
}

impl Care {
    pub(crate) fn new(guard: LeaseGuard, redis: Redis) -> Self {
        let crashes = guard.crashes();
        Self { guard, redis, crashes }
    }

    /// Whether the owner writes down each entry before it looks at it.
    pub(crate) const fn is_on(&self) -> bool {
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

    /// Writes down that the entry is about to be looked at, and says how to do so.
    pub(crate) async fn look(&self, entry: EntryId) -> Result<Look, RedisError> {
        if !self.is_on() {
            return Ok(Look::Freely);
        }
        let shard = self.guard.shard();
        let mut call = SUSPECT.key(RedisKey::shard_lease(shard));
        call.key(RedisKey::shard_suspect(shard))
            .arg(self.guard.owner())
            .arg(self.guard.epoch())
            .arg(entry.to_string())
            .arg(self.crashes);
        let ended: i64 = call.invoke_async(&mut self.redis.clone()).await?;
        Ok(match ended {
            ..0 => Look::LeaseLost,
            0 => Look::Freely,
            1..TRIES_MAX => Look::Alone,
            many => Look::Never(many),
        })
    }

    /// Forgets the crashes: all entries that were waiting are done.
    pub(crate) async fn calm(&mut self) -> Result<(), RedisError> {
        let shard = self.guard.shard();
        let mut call = CALM.key(RedisKey::shard_lease(shard));
        call.key(RedisKey::shard_suspect(shard)).arg(self.guard.owner()).arg(self.guard.epoch());
        call.invoke_async::<()>(&mut self.redis.clone()).await?;
        self.crashes = 0;
        Ok(())
    }
}
