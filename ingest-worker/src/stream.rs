//! One shard's keys in Redis, as its owner uses them: the batch under way, its entries, and being done with them.
//!
//! Every change is a script that looks at the lease's epoch first, so an owner that was replaced changes nothing, whenever its
//! commands arrive. There is no consumer group: the lease says who reads, and what is in the stream is what is not stored yet.

use std::collections::HashMap;
use std::sync::LazyLock;

use redis::{RedisError, Script, Value};
use schema::envelope::ENVELOPE_FIELD;
use tenant::dlq::{DEAD_LETTER_LUA, Description};
use tenant::entries::{self, Entry};
use tenant::keys::RedisKey;
use tenant::redis::Redis;
use tenant::shard::Shard;
use tenant::shard::fence::EntryId;

use crate::delivery::intent::{Intent, IntentError};

static ANNOUNCE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("stream/announce.lua")));
static NOTE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("stream/note.lua")));
static COMMIT: LazyLock<Script> = LazyLock::new(|| Script::new(&dead_lettering(include_str!("stream/commit.lua"))));
static PARK: LazyLock<Script> = LazyLock::new(|| Script::new(&dead_lettering(include_str!("stream/park.lua"))));

/// A full Redis must be emptied, so these scripts may run on one (allow-oom).
fn dead_lettering(script: &str) -> String {
    format!("#!lua flags=allow-oom\n{DEAD_LETTER_LUA}\n{script}")
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
    #[error("another batch of this owner is under way already; this is a defect")]
    UnderWay,
}

/// A change by the owner of a shard.
#[derive(Clone, Copy, Debug)]
pub enum Write<'a> {
    /// Write down the batch that is about to be inserted, with its number in the owner's epoch.
    Announce(u64, &'a Intent),
    /// Write down more about the batch under way.
    Note(IntentId, &'a Intent),
    /// Be done with it. The letters describe what was refused of it.
    Commit(IntentId, &'a Intent, &'a [Description]),
    /// Move an entry that cannot be read to the dead letters.
    Park(&'a Description),
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a shard that was lost must not be worked on"]
pub enum Change {
    /// It is made, now or before.
    Made,
    /// The shard is somebody else's. Nothing was changed.
    Fenced,
    /// There is no room for more dead letters. Nothing was changed.
    Full,
}

/// Under what a batch was written down: the epoch and its number in that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntentId {
    /// Of who wrote it down, which may be a predecessor.
    pub epoch: u64,
    /// Counted from 1.
    pub number: u64,
}

/// One shard's keys.
#[derive(Clone)]
pub struct Stream {
    shard: Shard,
    key: RedisKey,
    redis: Redis,
    dlq_bytes_max: u64,
}

impl Stream {
    /// The keys of a shard, whose dead letters may hold so many bytes. The connection may be shared.
    pub fn new(shard: Shard, redis: Redis, dlq_bytes_max: u64) -> Self {
        Self { shard, key: RedisKey::shard_stream(shard), redis, dlq_bytes_max }
    }

    /// The shard.
    pub const fn shard(&self) -> Shard {
        self.shard
    }

    /// The stream's key.
    pub fn key(&self) -> &RedisKey {
        &self.key
    }

    /// The batch that is under way, if any.
    pub async fn under_way(&self) -> Result<Option<(IntentId, Intent)>, StreamError> {
        let mut get = redis::cmd("HMGET");
        get.arg(RedisKey::shard_intent(self.shard)).arg(&["epoch", "number", "body"]);
        let (epoch, number, body): (Option<u64>, Option<u64>, Option<Vec<u8>>) =
            get.query_async(&mut self.redis.clone()).await?;
        match (epoch, number, body) {
            (Some(epoch), Some(number), Some(body)) => Ok(Some((IntentId { epoch, number }, Intent::decode(&body)?))),
            _ => Ok(None),
        }
    }

    /// Makes a change, as the owner of that epoch. After an error it may be made or not; it may be made again.
    pub async fn write(&self, epoch: u64, write: &Write<'_>) -> Result<Change, StreamError> {
        let script = match write {
            Write::Announce(..) => &ANNOUNCE,
            Write::Note(..) => &NOTE,
            Write::Commit(..) => &COMMIT,
            Write::Park(_) => &PARK,
        };
        let mut call = script.key(RedisKey::shard_lease(self.shard));
        if !matches!(write, Write::Park(_)) {
            call.key(RedisKey::shard_intent(self.shard));
        }
        if matches!(write, Write::Commit(..) | Write::Park(_)) {
            call.key(&self.key).key(RedisKey::shard_dlq(self.shard)).key(RedisKey::shard_dlq_bytes(self.shard));
        }
        call.arg(epoch);
        match write {
            Write::Announce(number, intent) => {
                call.arg(number).arg(intent.encode());
            }
            Write::Note(id, intent) => {
                call.arg(id.epoch).arg(id.number).arg(intent.notes()).arg(intent.encode());
            }
            Write::Commit(id, intent, letters) => {
                let cut = intent.entries.iter().max().filter(|_| intent.is_prefix);
                call.arg(id.epoch).arg(id.number).arg(self.dlq_bytes_max);
                call.arg(cut.map_or(String::new(), |last| last.next().to_string())).arg(letters.len());
                for letter in *letters {
                    call.arg(&letter.entry).arg(described(letter));
                }
                for entry in intent.entries.iter().filter(|_| cut.is_none()) {
                    call.arg(entry.to_string());
                }
            }
            Write::Park(letter) => {
                call.arg(self.dlq_bytes_max).arg(&letter.entry).arg(described(letter));
            }
        }
        match (call.invoke_async(&mut self.redis.clone()).await?, write) {
            (1_i64, _) => Ok(Change::Made),
            (0, _) => Ok(Change::Fenced),
            // An owner that began by finishing what was under way never gets here.
            (_, Write::Announce(..)) => Err(StreamError::UnderWay),
            _ => Ok(Change::Full),
        }
    }

    /// The envelopes of entries. One that is not there any more was taken out by whoever appended it, because it could not be
    /// answered for.
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
    // A description is numbers and texts, which always have a JSON.
    serde_json::to_string(letter).unwrap_or_default()
}

/// The entries in the reply to a read of one stream. Taken apart by hand because the driver's own types copy every
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
    fn replies_become_entries() {
        let whole = array([bulk("1-0"), array([bulk("x"), bulk("y"), bulk("e"), bulk("bytes")])]);
        let foreign = array([bulk("3-0"), array([bulk("x"), bulk("y")])]);
        let reply = array([array([bulk("stream"), array([whole, foreign])])]);
        let wanted = vec![(EntryId::new(1, 0), b"bytes".to_vec()), (EntryId::new(3, 0), Vec::new())];
        assert_eq!(entries_of_read(reply), Some(wanted));
        assert_eq!(entries_of_read(Value::Nil), Some(vec![]));
        assert_eq!(entries_of_read(bulk("?")), None);
    }
}
