//! One shard's stream: reading entries as a member of the consumer group, and being done with them.
//!
//! An entry that was read stays pending in Redis until it is acknowledged. It is deleted first: acknowledging alone would let
//! the stream grow for ever, and an entry that was deleted but not acknowledged is seen again as one without fields, and
//! acknowledged then.

use std::time::Duration;

use redis::{RedisError, Value};
use schema::envelope::ENVELOPE_FIELD;
use tenant::keys::{INGEST_GROUP, RedisKey};
use tenant::redis::Redis;
use tenant::shard::Shard;

/// One entry of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its id in the stream.
    pub id: String,
    /// The envelope's bytes; `None` if the entry was deleted and only its id is still pending.
    pub envelope: Option<Vec<u8>>,
}

/// Why a stream could not be read or written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum StreamError {
    #[error("redis: {0}")]
    Redis(#[from] RedisError),
    #[error("redis answered something unexpected to {command}")]
    Reply { command: &'static str },
}

/// One shard's stream, as one consumer of its group.
pub struct Stream {
    key: String,
    dlq: String,
    consumer: String,
    /// Blocks while it waits, so it is not shared.
    reader: Redis,
    writer: Redis,
}

impl Stream {
    /// The stream of a shard. `reader` must be this stream's own.
    pub fn new(shard: Shard, consumer: String, reader: Redis, writer: Redis) -> Self {
        Self {
            key: RedisKey::shard_stream(shard).as_str().to_owned(),
            dlq: RedisKey::shard_dlq(shard).as_str().to_owned(),
            consumer,
            reader,
            writer,
        }
    }

    /// The stream's key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Creates the consumer group, from the stream's beginning: a group that was lost must not skip what nobody has read.
    async fn create_group(&mut self) -> Result<(), StreamError> {
        let mut create = redis::cmd("XGROUP");
        create.arg("CREATE").arg(&self.key).arg(INGEST_GROUP).arg("0").arg("MKSTREAM");
        match create.query_async::<()>(&mut self.writer).await {
            Err(error) if error.code() != Some("BUSYGROUP") => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Reads entries that nobody has read yet, waiting for the first one at most for `wait`.
    pub async fn read_new(&mut self, count: usize, wait: Duration) -> Result<Vec<Entry>, StreamError> {
        // BLOCK 0 would wait for ever.
        let wait_ms = wait.as_millis().max(1) as u64;
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP").arg(INGEST_GROUP).arg(&self.consumer).arg("COUNT").arg(count).arg("BLOCK").arg(wait_ms);
        read.arg("STREAMS").arg(&self.key).arg(">");
        self.read(read).await
    }

    /// Reads entries after `after` that this consumer has read before and not finished.
    pub async fn read_pending(&mut self, count: usize, after: &str) -> Result<Vec<Entry>, StreamError> {
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP").arg(INGEST_GROUP).arg(&self.consumer).arg("COUNT").arg(count);
        read.arg("STREAMS").arg(&self.key).arg(after);
        self.read(read).await
    }

    async fn read(&mut self, command: redis::Cmd) -> Result<Vec<Entry>, StreamError> {
        let reply: Value = match command.query_async(&mut self.reader).await {
            // Only when it is missing: a Redis that is full refuses to create a group, even one that is there already, and
            // it is reading that empties it.
            Err(error) if error.code() == Some("NOGROUP") => {
                self.create_group().await?;
                command.query_async(&mut self.reader).await?
            }
            reply => reply?,
        };
        entries_of_read(reply).ok_or(StreamError::Reply { command: "XREADGROUP" })
    }

    /// Takes over entries that another consumer read at least `idle` ago and has not finished.
    pub async fn claim(&mut self, count: usize, idle: Duration) -> Result<Vec<Entry>, StreamError> {
        let mut claim = redis::cmd("XAUTOCLAIM");
        claim.arg(&self.key).arg(INGEST_GROUP).arg(&self.consumer).arg(idle.as_millis() as u64).arg("0-0");
        claim.arg("COUNT").arg(count);
        let reply: Value = claim.query_async(&mut self.writer).await?;
        let Value::Array(mut parts) = reply else { return Err(StreamError::Reply { command: "XAUTOCLAIM" }) };
        let entries = if parts.len() > 1 { entries(parts.swap_remove(1)) } else { None };
        entries.ok_or(StreamError::Reply { command: "XAUTOCLAIM" })
    }

    /// Is done with entries: deletes and acknowledges them, in this order. May be repeated.
    ///
    /// Not in a transaction: a Redis that is full refuses to queue any command in one, and it is this that empties it.
    pub async fn finish(&mut self, ids: &[String]) -> Result<(), StreamError> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut pipe = redis::pipe();
        pipe.cmd("XDEL").arg(&self.key).arg(ids).ignore();
        pipe.cmd("XACK").arg(&self.key).arg(INGEST_GROUP).arg(ids).ignore();
        pipe.query_async::<()>(&mut self.writer).await?;
        Ok(())
    }

    /// Moves an entry that cannot be read to the shard's dead letters, with the reason and its original bytes.
    pub async fn park(&mut self, id: &str, bytes: &[u8], reason: &str) -> Result<(), StreamError> {
        let mut pipe = redis::pipe();
        pipe.atomic();
        pipe.cmd("XADD").arg(&self.dlq).arg("*").arg(ENVELOPE_FIELD).arg(bytes);
        pipe.arg("id").arg(id).arg("reason").arg(reason).ignore();
        pipe.cmd("XACK").arg(&self.key).arg(INGEST_GROUP).arg(id).ignore();
        pipe.cmd("XDEL").arg(&self.key).arg(id).ignore();
        pipe.query_async::<()>(&mut self.writer).await?;
        Ok(())
    }
}

/// The entries in the reply to a read of one stream. Taken apart by hand because the driver's own types copy every
/// envelope into a map.
fn entries_of_read(reply: Value) -> Option<Vec<Entry>> {
    match reply {
        Value::Nil => Some(Vec::new()),
        Value::Array(mut streams) => match streams.pop() {
            None => Some(Vec::new()),
            Some(Value::Array(mut name_and_entries)) => entries(name_and_entries.pop()?),
            Some(_) => None,
        },
        Value::Map(mut streams) => match streams.pop() {
            None => Some(Vec::new()),
            Some((_, list)) => entries(list),
        },
        _ => None,
    }
}

fn entries(list: Value) -> Option<Vec<Entry>> {
    let Value::Array(list) = list else { return None };
    list.into_iter().map(entry).collect()
}

fn entry(value: Value) -> Option<Entry> {
    let Value::Array(parts) = value else { return None };
    let [id, fields] = <[Value; 2]>::try_from(parts).ok()?;
    let Value::BulkString(id) = id else { return None };
    let envelope = match fields {
        // An entry without our field was not written by us: no envelope, which is unreadable rather than deleted.
        Value::Array(fields) => Some(envelope_field(fields).unwrap_or_default()),
        _ => None,
    };
    Some(Entry { id: String::from_utf8(id).ok()?, envelope })
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
        let deleted = array([bulk("2-0"), Value::Nil]);
        let foreign = array([bulk("3-0"), array([bulk("x"), bulk("y")])]);
        let reply = array([array([bulk("stream"), array([whole, deleted, foreign])])]);
        let entry = |id: &str, bytes: Option<&str>| Entry { id: id.into(), envelope: bytes.map(Into::into) };
        let wanted = vec![entry("1-0", Some("bytes")), entry("2-0", None), entry("3-0", Some(""))];
        assert_eq!(entries_of_read(reply), Some(wanted));
        assert_eq!(entries_of_read(Value::Nil), Some(vec![]));
        assert_eq!(entries_of_read(bulk("?")), None);
    }
}
