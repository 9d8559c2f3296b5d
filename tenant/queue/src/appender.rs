//! Appends to a shard, and closes a shard to an org that moves away, so that the order of the org's entries is kept.
//!
//! A process may have outdated information about the shard of an org: its cache is old, a request took long, or the
//! process was suspended. So the shard itself records, beside its stream and in the same slot of a cluster, whether it
//! is closed to an org. An append and that check are sent together, the check second: an entry is acknowledged only if
//! the shard was still open to the org *after* the entry was there. So no acknowledged entry comes after the fence,
//! which is the stream's last entry at the moment of closing; this holds whichever processes run and whatever they
//! know.
//!
//! `docs/operations/shards.md` describes a move; `docs/decisions/0005-the-shard-is-the-fence.md` explains why it works
//! this way.

use std::sync::{Arc, LazyLock};

use model::entry_id::EntryId;
use model::ids::OrgId;
use model::shard::Shard;
use model::trace::UnixNanos;
use redis::{Cmd, RedisError, Script};
use stores::clock::hour_of;
use stores::keys::{ACCEPTED_KEPT, RedisKey};
use stores::redis::ack::Wait;
use stores::redis::confirm::{ConfirmError, Confirmer};
use stores::redis::{ConnectError, Redis};
use wire::envelope::ENVELOPE_FIELD;

static CLOSE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("close.lua")));
static OPEN: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("open.lua")));
static RETRACT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("retract.lua")));

/// The suffix of the fence's value when the shard is open again to an org that has been on another shard.
const OPEN_MARK: &str = ":open";

/// The result of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "only an entry that was kept may be answered for"]
pub enum Appended {
    /// The entry is in the stream.
    Kept,
    /// The org is moving away, or has moved. The entry was removed if it was still there; as after a lost reply, it may
    /// nevertheless be stored.
    Closed,
}

/// Why an append is not acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Redis cannot give the ack class. Nothing was appended.
    #[error(transparent)]
    NotReady(Arc<ConnectError>),
    /// Redis refused it, or did not answer. Without an answer, the entry may have been appended.
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// It is in the stream, but the ack class was not confirmed in time, so a crash may lose it.
    #[error("{0}")]
    Unconfirmed(String),
    /// Too many appends wait for confirmation. Nothing was appended.
    #[error("too many appends wait for their confirmation")]
    Busy,
}

impl From<ConfirmError> for AppendError {
    fn from(error: ConfirmError) -> Self {
        match error {
            ConfirmError::Redis(error) => Self::Redis(error),
            ConfirmError::Unconfirmed(why) => Self::Unconfirmed(why),
            ConfirmError::Busy => Self::Busy,
        }
    }
}

/// An envelope that counts as accepted once it is appended.
#[derive(Clone, Copy, Debug)]
pub struct Accepted<'a> {
    /// The org that sent it.
    pub org: OrgId,
    /// When the API read the request.
    pub received_at: UnixNanos,
    /// The number of runs and spans in it, as they are billed.
    pub items: u64,
    /// The sealed envelope, which becomes field `e` of the entry.
    pub envelope: &'a [u8],
}

/// The state of a shard that is closed to an org.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The stream's last entry at closing; no acknowledged entry of the org comes after it.
    pub fence: EntryId,
    /// The first entry in the stream, of any org; it is not stored yet.
    pub first: Option<EntryId>,
    /// Number of entries in the stream, of all orgs, including those after the fence.
    pub entries: u64,
}

impl Closed {
    /// Whether everything in the stream at closing is stored. An entry is deleted only when it is stored, so an entry
    /// that was read and is not stored yet still counts.
    pub fn is_drained(&self) -> bool {
        self.first.is_none_or(|first| first > self.fence)
    }
}

/// Appends to the streams of the shards. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ShardAppender {
    redis: Redis,
    /// `None` where the reply of Redis is enough.
    confirmer: Option<Confirmer>,
}

impl ShardAppender {
    /// Appends to that Redis; an append is complete when Redis has replied.
    pub const fn new(redis: Redis) -> Self {
        Self { redis, confirmer: None }
    }

    /// The same, but an append is complete when its ack class is confirmed.
    pub const fn confirmed(redis: Redis, confirmer: Confirmer) -> Self {
        Self { redis, confirmer: Some(confirmer) }
    }

    /// Appends an envelope and counts its items as accepted, for `ledger`. Both happen or neither does.
    pub async fn append(&self, shard: Shard, new: &Accepted<'_>) -> Result<Appended, AppendError> {
        let wait = match &self.confirmer {
            Some(confirmer) => confirmer.wait().await.map_err(AppendError::NotReady)?,
            None => None,
        };
        let stream = RedisKey::shard_stream(shard);
        let counts = RedisKey::shard_accepted(shard, hour_of(new.received_at));
        let mut redis = self.redis.clone();
        let org = new.org.to_string();
        let (id, state, sum) = match (&self.confirmer, wait) {
            (Some(confirmer), Some(wait)) => {
                confirmed(confirmer, wait, shard, commands(shard, &counts, new), new.envelope.len()).await?
            }
            _ => {
                let mut pipe = redis::pipe();
                pipe.atomic();
                for command in commands(shard, &counts, new) {
                    pipe.add_command(command);
                }
                pipe.query_async(&mut redis).await?
            }
        };
        if sum <= i64::try_from(new.items).unwrap_or(i64::MAX) {
            // The first append of the org in that hour, perhaps of all orgs.
            let mut expire = redis::cmd("EXPIRE");
            expire.arg(&counts).arg(ACCEPTED_KEPT.as_secs()).arg("NX");
            if let Err(error) = expire.exec_async(&mut redis).await {
                tracing::warn!(%error, "counts of accepted items will be kept for longer than needed");
            }
        }
        if state.is_none_or(|state| state.ends_with(OPEN_MARK)) {
            return Ok(Appended::Kept);
        }
        let mut retract = RETRACT.key(&stream);
        retract.key(&counts).arg(id).arg(org).arg(new.items);
        if let Err(error) = retract.invoke_async::<()>(&mut redis).await {
            tracing::warn!(%error, "could not remove an unacknowledged entry");
        }
        Ok(Appended::Closed)
    }

    /// Closes a shard to an org for the move of that version; if it is closed already, returns its present state.
    /// `None` when a later move has begun.
    pub async fn close(&self, shard: Shard, org: OrgId, version: i64) -> Result<Option<Closed>, RedisError> {
        let mut call = CLOSE.key(RedisKey::shard_stream(shard));
        call.key(RedisKey::shard_fence(shard)).arg(org.to_string()).arg(version);
        let reply: redis::Value = call.invoke_async(&mut self.redis.clone()).await?;
        if matches!(&reply, redis::Value::Array(values) if values.len() == 1) {
            return Ok(None);
        }
        let (_, fence, first, entries): (i64, String, String, u64) = redis::from_redis_value(reply)?;
        let id = |text: &str| {
            let unexpected = |_| RedisError::from((redis::ErrorKind::UnexpectedReturnType, "not an id of a stream"));
            text.parse::<EntryId>().map_err(unexpected)
        };
        let first = if first.is_empty() { None } else { Some(id(&first)?) };
        Ok(Some(Closed { fence: id(&fence)?, first, entries }))
    }

    /// Opens a shard to an org that moved there. False when a later move has begun.
    pub async fn open(&self, shard: Shard, org: OrgId, version: i64) -> Result<bool, RedisError> {
        let mut call = OPEN.key(RedisKey::shard_fence(shard));
        call.arg(org.to_string()).arg(version);
        call.invoke_async(&mut self.redis.clone()).await
    }
}

/// The entry's id, whether the shard is closed to its org, and the org's sum of accepted items in that hour.
type Reply = (String, Option<String>, i64);

/// The three commands of an append, in their order.
fn commands(shard: Shard, counts: &RedisKey, new: &Accepted<'_>) -> [Cmd; 3] {
    let org = new.org.to_string();
    let mut add = redis::cmd("XADD");
    add.arg(RedisKey::shard_stream(shard)).arg("*").arg(ENVELOPE_FIELD).arg(new.envelope);
    let mut state = redis::cmd("HGET");
    state.arg(RedisKey::shard_fence(shard)).arg(&org);
    let mut count = redis::cmd("HINCRBY");
    count.arg(counts).arg(org).arg(new.items);
    [add, state, count]
}

async fn confirmed(
    confirmer: &Confirmer,
    wait: Wait,
    shard: Shard,
    commands: [Cmd; 3],
    bytes: usize,
) -> Result<Reply, AppendError> {
    let replies = confirmer.write(shard, wait, commands.into(), bytes).await?;
    Ok(redis::from_redis_value(redis::Value::Array(replies).extract_error()?).map_err(RedisError::from)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_ids_are_ordered_by_time_and_then_by_number() {
        let id = |text: &str| text.parse::<EntryId>().unwrap();
        assert!(id("9-5") < id("10-0") && id("10-9") < id("10-10") && id("0-0") < id("0-1"));
        assert_eq!(id("1795241935570-12").to_string(), "1795241935570-12");
        assert!("x-1".parse::<EntryId>().is_err() && "".parse::<EntryId>().is_err());
    }

    #[test]
    fn a_closed_shard_is_drained_when_no_entry_up_to_the_fence_remains() {
        let fence = EntryId::new(7, 2);
        let closed = |first| Closed { fence, first, entries: 3 };
        for (first, drained) in [(None, true), (Some((7, 3)), true), (Some((7, 2)), false), (Some((6, 9)), false)] {
            let first = first.map(|(ms, seq)| EntryId::new(ms, seq));
            assert_eq!(closed(first).is_drained(), drained, "{first:?}");
        }
    }
}
