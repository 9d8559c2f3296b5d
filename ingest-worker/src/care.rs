//! Working on a shard whose work has crashed.
//!
//! A panic ends the work on one shard; an abort, or the system out of memory, ends the worker. Either way the next
//! owner does the same again, and may end the same way: one entry could end every worker of a fleet, one after the
//! other, for ever. So the lease counts how many tenures in a row ended by a crash ([`crate::lease`]). From
//! [`CAREFUL_FROM`] on the next owner is careful: it writes down each entry before it looks at it, so that whoever
//! comes after a crash knows which one it was. An entry that was the last thing that [`TRIES_MAX`] tenures did becomes
//! a dead letter, unread. When all that was waiting is done, the crashes are forgotten.
//!
//! What crashes without looking at an entry, such as a batch that is announced already, cannot be set aside so. Its
//! tenures begin with a pause that grows up to [`PAUSE_MAX`], and the gauge `tracebility_shard_crashes` says so.

use std::sync::LazyLock;
use std::time::Duration;

use model::entry_id::EntryId;
use redis::{RedisError, Script};
use stores::keys::RedisKey;
use stores::redis::Redis;

use lease::Tenure;

static SUSPECT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("care/suspect.lua")));
static CALM: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("care/calm.lua")));

/// Crashed tenures in a row after which the next is careful. Fewer happen by themselves: a worker is killed, a machine
/// is lost.
const CAREFUL_FROM: u32 = 2;
/// Careful tenures that may end with the same entry.
const TRIES_MAX: i64 = 2;
/// Crashed tenures in a row after which the next begins with a pause: by then one entry that is to blame is a dead
/// letter.
const PAUSE_FROM: u32 = CAREFUL_FROM + TRIES_MAX as u32 + 1;
const PAUSE_FIRST: Duration = Duration::from_secs(1);
/// The longest pause at the beginning of a tenure.
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// What is to be done with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// It may be looked at.
    Freely,
    /// It may have crashed a worker: it is looked at when nothing else is in the batch.
    Alone,
    /// So many tenures ended with it. It is not looked at.
    Never(i64),
    /// The shard is somebody else's.
    Gone,
}

/// How careful one tenure is.
#[derive(Clone, Debug)]
pub(crate) struct Care {
    tenure: Tenure,
    redis: Redis,
    crashes: u32,
}

impl Care {
    pub(crate) fn new(tenure: Tenure, redis: Redis) -> Self {
        let crashes = tenure.crashes();
        Self { tenure, redis, crashes }
    }

    /// Whether it is careful at all.
    pub(crate) const fn is_on(&self) -> bool {
        self.crashes >= CAREFUL_FROM
    }

    /// Whether there are crashes to be forgotten.
    pub(crate) const fn has_crashed(&self) -> bool {
        self.crashes > 0
    }

    /// How long to wait before anything is done.
    pub(crate) fn pause(&self) -> Duration {
        let doublings = self.crashes.saturating_sub(PAUSE_FROM);
        if self.crashes < PAUSE_FROM {
            Duration::ZERO
        } else {
            (PAUSE_FIRST * 2_u32.pow(doublings.min(16))).min(PAUSE_MAX)
        }
    }

    /// Says how to look at an entry, and writes down that it is looked at.
    pub(crate) async fn look(&self, entry: EntryId) -> Result<Look, RedisError> {
        if !self.is_on() {
            return Ok(Look::Freely);
        }
        let shard = self.tenure.shard();
        let mut call = SUSPECT.key(RedisKey::shard_lease(shard));
        call.key(RedisKey::shard_suspect(shard))
            .arg(self.tenure.owner())
            .arg(self.tenure.epoch())
            .arg(entry.to_string())
            .arg(self.crashes);
        let ended: i64 = call.invoke_async(&mut self.redis.clone()).await?;
        Ok(match ended {
            ..0 => Look::Gone,
            0 => Look::Freely,
            1..TRIES_MAX => Look::Alone,
            many => Look::Never(many),
        })
    }

    /// All that was waiting is done.
    pub(crate) async fn calm(&mut self) -> Result<(), RedisError> {
        let shard = self.tenure.shard();
        let mut call = CALM.key(RedisKey::shard_lease(shard));
        call.key(RedisKey::shard_suspect(shard)).arg(self.tenure.owner()).arg(self.tenure.epoch());
        call.invoke_async::<()>(&mut self.redis.clone()).await?;
        self.crashes = 0;
        Ok(())
    }
}
