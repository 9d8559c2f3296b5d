//! The keys of one shard in Redis, as the shard's owner uses them: the batch under way, its entries, and its commit.
//!
//! Every change is a script that checks the lease first. So an owner that was replaced changes nothing, whenever its
//! commands arrive. There is no consumer group: the lease decides who reads, and an entry is in the stream until it is
//! stored.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use delivery::intent::{Intent, IntentError, Note};
use lease::LeaseGuard;
use model::entry_id::EntryId;
use model::shard::{Shard, Waiting};
use queue::dlq::{DEAD_LETTER_LUA, Description};
use redis::{RedisError, Script, Value};
use stores::entries;
use stores::entries::Entry;
use stores::keys::RedisKey;
use stores::redis::Redis;
use stores::redis::confirm::ConfirmedConnection;
use wire::envelope::ENVELOPE_FIELD;

use crate::recent;
use crate::recent::Recent;

static ANNOUNCE: LazyLock<Script> = LazyLock::new(|| owners(include_str!("stream/announce.lua")));
static NOTE: LazyLock<Script> = LazyLock::new(|| owners(include_str!("stream/note.lua")));
static COMMIT: LazyLock<Script> =
    LazyLock::new(|| owners(&format!("{DEAD_LETTER_LUA}\n{}", include_str!("stream/commit.lua"))));
static DEAD_LETTER: LazyLock<Script> =
    LazyLock::new(|| owners(&format!("{DEAD_LETTER_LUA}\n{}", include_str!("stream/dead_letter.lua"))));
static WAIT: LazyLock<Script> = LazyLock::new(|| owners(include_str!("stream/wait.lua")));
static FIRST: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("stream/first.lua")));
static UNDER_WAY: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("stream/under_way.lua")));

/// A script that only the shard's owner may run. It may run on a full Redis (allow-oom), because it is the worker that
/// empties Redis.
fn owners(script: &str) -> Script {
    Script::new(&format!("#!lua flags=allow-oom\n{}\n{script}", include_str!("stream/is_owner.lua")))
}

/// Why a stream could not be read or written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum StreamError {
    #[error("redis: {0}")]
    Redis(#[from] RedisError),
    #[error("redis answered something unexpected to {command}")]
    Reply { command: &'static str },
    #[error("the batch under way: {0}")]
    Intent(#[from] IntentError),
}

/// A change that the owner of a shard makes.
#[derive(Clone, Copy, Debug)]
pub enum Write<'a> {
    /// Announce a batch: its number in the owner's epoch, its intent, and how the remembered content ids change.
    Announce(u64, &'a Intent, &'a recent::Change),
    /// Add notes to the batch under way. The number is the place of the first one among all notes of the batch.
    Note(&'a IntentId, usize, &'a [Note]),
    /// Commit the batch. The descriptions are those of its refused entries, which become dead letters.
    Commit(&'a IntentId, &'a Intent, &'a [Description]),
    /// Move an entry that cannot be read to the dead letters.
    DeadLetter(&'a Description),
}

/// The result of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a shard that was lost must not be worked on"]
pub enum Change {
    /// The change is made, just now or by an earlier try.
    Made,
    /// Another worker owns the shard. Nothing was changed.
    Fenced,
    /// There is no room for more dead letters. Nothing was changed.
    Full,
    /// Another batch is under way, so this one cannot be announced. An owner begins by finishing the batch under way,
    /// so Redis must have forgotten its last commit, as after a failover to a replica that lagged behind.
    UnderWay,
}

/// The id of an intent: the owner that announced the batch, its epoch, and the batch's number in that epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntentId {
    /// The worker that announced the batch, which may be an earlier owner.
    pub owner: Arc<str>,
    /// The epoch in which that owner announced it.
    pub epoch: u64,
    /// The batch's number in that epoch, from 1.
    pub number: u64,
}

/// The keys of one shard, and the connection to them.
#[derive(Clone)]
pub struct Stream {
    shard: Shard,
    key: RedisKey,
    redis: Redis,
    dlq_bytes_max: u64,
    confirmed: Option<ConfirmedConnection>,
}

impl Stream {
    /// The keys of a shard, which may have that many bytes of dead letters. The connection may be shared.
    pub fn new(shard: Shard, redis: Redis, dlq_bytes_max: u64) -> Self {
        Self { shard, key: RedisKey::shard_stream(shard), redis, dlq_bytes_max, confirmed: None }
    }

    /// The same, but batches are announced through that connection, so that a failover does not lose an announcement
    /// that inserts rely on.
    pub fn confirmed_by(self, confirmed: Option<ConfirmedConnection>) -> Self {
        Self { confirmed, ..self }
    }

    /// The shard that the keys belong to.
    pub const fn shard(&self) -> Shard {
        self.shard
    }

    /// The key of the shard's stream.
    pub fn key(&self) -> &RedisKey {
        &self.key
    }

    /// The batch that is under way, if any, and the time since it was announced, by Redis' clock.
    pub async fn under_way(&self) -> Result<Option<(IntentId, Intent, Duration)>, StreamError> {
        type Fields = HashMap<String, Vec<u8>>;
        let call = UNDER_WAY.key(RedisKey::shard_intent(self.shard));
        let found: Option<(u64, Fields)> = call.invoke_async(&mut self.redis.clone()).await?;
        let Some((age_ms, fields)) = found else { return Ok(None) };
        let text = |name: &str| fields.get(name).and_then(|value| std::str::from_utf8(value).ok());
        let number = |name: &str| text(name).and_then(|text| text.parse().ok()).ok_or(IntentError::Broken);
        let id = IntentId {
            owner: text("owner").ok_or(IntentError::Broken)?.into(),
            epoch: number("epoch")?,
            number: number("number")?,
        };
        let body = fields.get("body").ok_or(IntentError::Broken)?;
        let notes = (1_u64..).map_while(|number| fields.get(number.to_string().as_str()));
        Ok(Some((id, Intent::decode(body, notes)?, Duration::from_millis(age_ms))))
    }

    /// The id of the first entry in the stream; `None` if the stream is empty.
    pub async fn first(&self) -> Result<Option<EntryId>, StreamError> {
        let id: Option<String> = FIRST.key(&self.key).invoke_async(&mut self.redis.clone()).await?;
        id.map(|id| id.parse().map_err(|_| StreamError::Reply { command: "XRANGE" })).transpose()
    }

    /// The content ids of the shard's latest batches.
    pub async fn recent(&self) -> Result<Recent, StreamError> {
        let mut range = redis::cmd("LRANGE");
        // [`recent::IDS_MAX`] bounds the reply.
        range.arg(RedisKey::shard_recent(self.shard)).arg(0).arg(-1);
        let batches: Vec<Vec<u8>> = range.query_async(&mut self.redis.clone()).await?;
        Ok(Recent::load(batches.iter().map(Vec::as_slice)))
    }

    /// Makes a change as the shard's owner. After an error the change may have been made or not; it may be tried again.
    pub async fn write(&self, owner: &LeaseGuard, write: &Write<'_>) -> Result<Change, StreamError> {
        let script = match write {
            Write::Announce(..) => &ANNOUNCE,
            Write::Note(..) => &NOTE,
            Write::Commit(..) => &COMMIT,
            Write::DeadLetter(_) => &DEAD_LETTER,
        };
        let mut call = script.key(RedisKey::shard_lease(self.shard));
        if !matches!(write, Write::DeadLetter(_)) {
            call.key(RedisKey::shard_intent(self.shard));
        }
        if matches!(write, Write::Announce(..)) {
            call.key(RedisKey::shard_recent(self.shard));
        }
        if matches!(write, Write::Commit(..) | Write::DeadLetter(_)) {
            call.key(&self.key).key(RedisKey::shard_dlq(self.shard)).key(RedisKey::shard_dlq_bytes(self.shard));
        }
        call.arg(owner.owner()).arg(owner.epoch());
        match write {
            Write::Announce(number, intent, recent) => {
                call.arg(number).arg(intent.encode()).arg(&recent.added).arg(recent.forgotten);
            }
            Write::Note(id, first, notes) => {
                call.arg(&*id.owner).arg(id.epoch).arg(id.number).arg(first + 1);
                notes.iter().for_each(|note| {
                    call.arg(note.encode());
                });
            }
            Write::Commit(id, intent, letters) => {
                let cut = intent.entries.iter().max().filter(|_| intent.is_prefix);
                call.arg(&*id.owner).arg(id.epoch).arg(id.number).arg(self.dlq_bytes_max);
                call.arg(cut.map_or(String::new(), |last| last.next().to_string())).arg(letters.len());
                for letter in *letters {
                    call.arg(&letter.entry).arg(described(letter));
                }
                for entry in intent.entries.iter().filter(|_| cut.is_none()) {
                    call.arg(entry.to_string());
                }
            }
            Write::DeadLetter(letter) => {
                call.arg(self.dlq_bytes_max).arg(&letter.entry).arg(described(letter));
            }
        }
        let reply = match (&self.confirmed, write) {
            (Some(confirmed), Write::Announce(..) | Write::Note(..)) => {
                call.invoke_async(&mut confirmed.clone()).await?
            }
            _ => call.invoke_async(&mut self.redis.clone()).await?,
        };
        match (reply, write) {
            (1_i64, _) => Ok(Change::Made),
            (0, _) => Ok(Change::Fenced),
            (_, Write::Announce(..)) => Ok(Change::UnderWay),
            _ => Ok(Change::Full),
        }
    }

    /// Writes to the shard's lease what its owner waits for and for how long already, or that it waits no more.
    pub async fn tell_wait(&self, owner: &LeaseGuard, wait: Option<(Waiting, Duration)>) -> Result<(), StreamError> {
        let (why, lasts) = wait.map_or(("", Duration::ZERO), |(why, lasts)| (why.as_str(), lasts));
        let mut call = WAIT.key(RedisKey::shard_lease(self.shard));
        call.arg(owner.owner()).arg(owner.epoch()).arg(why).arg(lasts.as_millis() as u64);
        Ok(call.invoke_async(&mut self.redis.clone()).await?)
    }

    /// The envelopes of entries. If an entry is missing, the process that appended it took it out again, because it
    /// could not acknowledge it.
    pub async fn fetch(&self, entries: &[EntryId]) -> Result<HashMap<EntryId, Vec<u8>>, StreamError> {
        let mut found = HashMap::with_capacity(entries.len());
        let mut left = entries;
        while !left.is_empty() {
            let (looked_at, some) = entries::pick(&mut self.redis.clone(), &self.key, ENVELOPE_FIELD, left).await?;
            found.extend(some);
            left = left.get(looked_at.max(1)..).unwrap_or_default();
        }
        Ok(found)
    }
}

fn described(letter: &Description) -> String {
    // A description consists of numbers and texts, which can always be written as JSON.
    serde_json::to_string(letter).unwrap_or_default()
}

/// The entries in the reply to a read of one stream. Decoded by hand, because the types of the Redis driver copy every
/// envelope into a map.
pub(crate) fn entries_of_read(reply: Value) -> Option<Vec<Entry>> {
    match reply {
        Value::Nil => Some(Vec::new()),
        Value::Array(mut streams) => match streams.pop() {
            None => Some(Vec::new()),
            Some(Value::Array(mut name_and_entries)) => entries_of(name_and_entries.pop()?),
            Some(_) => None,
        },
        Value::Map(mut streams) => match streams.pop() {
            None => Some(Vec::new()),
            Some((_, list)) => entries_of(list),
        },
        _ => None,
    }
}

fn entries_of(list: Value) -> Option<Vec<Entry>> {
    let Value::Array(list) = list else { return None };
    list.into_iter().map(entry).collect()
}

fn entry(value: Value) -> Option<Entry> {
    let Value::Array(parts) = value else { return None };
    let [id, fields] = <[Value; 2]>::try_from(parts).ok()?;
    let Value::BulkString(id) = id else { return None };
    let Value::Array(fields) = fields else { return None };
    let id = std::str::from_utf8(&id).ok()?.parse().ok()?;
    Some((id, envelope_field(fields).unwrap_or_default()))
}

fn envelope_field(fields: Vec<Value>) -> Option<Vec<u8>> {
    let mut fields = fields.into_iter();
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        if let (Value::BulkString(name), Value::BulkString(value)) = (name, value)
            && name == ENVELOPE_FIELD.as_bytes()
        {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    fn array(values: impl IntoIterator<Item = Value>) -> Value {
        Value::Array(values.into_iter().collect())
    }

    #[test]
    fn redis_replies_are_parsed_into_entries() {
        let whole = array([bulk("1-0"), array([bulk("x"), bulk("y"), bulk("e"), bulk("bytes")])]);
        let foreign = array([bulk("3-0"), array([bulk("x"), bulk("y")])]);
        let reply = array([array([bulk("stream"), array([whole, foreign])])]);
        let wanted = vec![(EntryId::new(1, 0), b"bytes".to_vec()), (EntryId::new(3, 0), Vec::new())];
        assert_eq!(entries_of_read(reply), Some(wanted));
        assert_eq!(entries_of_read(Value::Nil), Some(vec![]));
        assert_eq!(entries_of_read(bulk("?")), None);
    }
}
