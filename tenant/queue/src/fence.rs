//! Appending to a shard, and closing a shard to an org that moves away, so that no order is lost between the two.
//!
//! What a process believes about where an org belongs may be old: its cache is, or a request took its time, or the
//! process stood still. So the shard itself says whether it is closed to an org, beside its stream and in the same slot
//! of a cluster. An append and that question go out together, the question second: an entry is answered for only if the
//! shard was not closed to the org *after* it was there. What was answered for is therefore not beyond the fence, which
//! is the stream's last entry at the moment of closing; and it does not matter which processes run, or what they have
//! heard.
//!
//! `docs/shards.md` tells how a move goes; `docs/decisions/0005-the-shard-is-the-fence.md` why it goes so.

use std::sync::{Arc, LazyLock};

use model::ids::OrgId;
use model::trace::UnixNanos;
use redis::{Cmd, RedisError, Script};
use wire::envelope::ENVELOPE_FIELD;

use model::entry_id::EntryId;
use model::shard::Shard;
use stores::clock::hour_of;
use stores::keys::ACCEPTED_KEPT;
use stores::keys::RedisKey;
use stores::redis::ack::Wait;
use stores::redis::confirm::{ConfirmError, Confirmer};
use stores::redis::{ConnectError, Redis};

static CLOSE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("close.lua")));
static OPEN: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("open.lua")));
static RETRACT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("retract.lua")));

/// How the state of a shard ends that is open to an org which has been elsewhere.
const OPEN_MARK: &str = ":open";

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "only an entry that was kept may be answered for"]
pub enum Appended {
    /// It is in the stream.
    Kept,
    /// The org is moving away, or has moved. The entry was taken out again if it was still there; like one whose reply
    /// was lost, it may be stored all the same.
    Closed,
}

/// Why an append is not acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Redis would not keep it as promised. Nothing was appended.
    #[error(transparent)]
    NotReady(Arc<ConnectError>),
    /// Redis refused it, or did not answer: then it may have been appended or not.
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// It is in the stream, but its class was not confirmed in time, so a crash may lose it.
    #[error("{0}")]
    Unconfirmed(String),
    /// Too many wait for their confirmation. Nothing was appended.
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

/// An envelope that is accepted by being appended.
#[derive(Clone, Copy, Debug)]
pub struct Accepted<'a> {
    /// Whose.
    pub org: OrgId,
    /// When the edge read its request.
    pub received_at: UnixNanos,
    /// Runs and spans in it, as they are billed.
    pub items: u64,
    /// Its bytes.
    pub envelope: &'a [u8],
}

/// A shard that is closed to an org.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Nothing of the org that was answered for is beyond it.
    pub fence: EntryId,
    /// The first entry that is not stored yet, of whichever org.
    pub first: Option<EntryId>,
    /// Entries that are not stored yet, of all orgs, also beyond the fence.
    pub entries: u64,
}

impl Closed {
    /// Whether all is stored that was there when the shard was closed. An entry is deleted only then, so one that was
    /// read and is not stored yet counts as there.
    pub fn is_drained(&self) -> bool {
        self.first.is_none_or(|first| first > self.fence)
    }
}

/// The shards' streams, as those see them who append. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Fence {
    redis: Redis,
    /// `None` where whoever appends relies on the reply alone.
    confirmer: Option<Confirmer>,
}

impl Fence {
    /// The streams in that Redis, to which an append is done when Redis has replied.
    pub const fn new(redis: Redis) -> Self {
        Self { redis, confirmer: None }
    }

    /// The same, where an append is done when its class is given.
    pub const fn confirmed(redis: Redis, confirmer: Confirmer) -> Self {
        Self { redis, confirmer: Some(confirmer) }
    }

    /// Appends an envelope that is accepted by that, and counts its items, for [`ledger`]. Both happen or neither does.
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
            // The first of the org in that hour, perhaps of all orgs.
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
            tracing::warn!(%error, "an entry that nobody was told of could not be taken out again");
        }
        Ok(Appended::Closed)
    }

    /// Closes a shard to an org for the move of that version, or says how far it is when it is closed already. `None`
    /// when a later move has begun.
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

    /// Opens a shard to an org that was moved there. False when a later move has begun.
    pub async fn open(&self, shard: Shard, org: OrgId, version: i64) -> Result<bool, RedisError> {
        let mut call = OPEN.key(RedisKey::shard_fence(shard));
        call.arg(org.to_string()).arg(version);
        call.invoke_async(&mut self.redis.clone()).await
    }
}

/// The entry's id, whether the shard is closed to its org, and how many items of the org were accepted in that hour.
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
    fn ids_are_ordered_by_time_and_then_by_number() {
        let id = |text: &str| text.parse::<EntryId>().unwrap();
        assert!(id("9-5") < id("10-0") && id("10-9") < id("10-10") && id("0-0") < id("0-1"));
        assert_eq!(id("1795241935570-12").to_string(), "1795241935570-12");
        assert!("x-1".parse::<EntryId>().is_err() && "".parse::<EntryId>().is_err());
    }

    #[test]
    fn drained_is_when_nothing_is_left_up_to_the_fence() {
        let fence = EntryId::new(7, 2);
        let closed = |first| Closed { fence, first, entries: 3 };
        for (first, drained) in [(None, true), (Some((7, 3)), true), (Some((7, 2)), false), (Some((6, 9)), false)] {
            let first = first.map(|(ms, seq)| EntryId::new(ms, seq));
            assert_eq!(closed(first).is_drained(), drained, "{first:?}");
        }
    }
}
