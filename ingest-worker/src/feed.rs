//! Reading one shard's stream into its [`Window`].

use std::convert::Infallible;
use std::time::Duration;

use redis::{RedisResult, Value};
use schema::envelope::org_of;
use schema::ids::OrgId;
use tenant::keys::RedisKey;
use tenant::redis::Redis;
use tenant::shard::Shard;
use tenant::shard::fence::EntryId;
use uuid::Uuid;

use crate::stream::{Entry, StreamError, entries_of, entries_of_read};
use crate::window::{Held, Window};

/// How long one read waits for entries. Also how long a stop may go unnoticed.
pub const READ_WAIT_MAX: Duration = Duration::from_millis(500);
/// How many bytes one read aims at. Entries differ in size by five orders of magnitude, so the count follows their size; it grows
/// step by step, because what does not come in time is asked for in vain.
const READ_BYTES: usize = 8 << 20;
/// Entries of one read.
const READ_ENTRIES_MAX: usize = 1_024;
/// Entries of the first read, when their size is not known yet.
const READ_ENTRIES_FIRST: usize = 16;
/// Between two reads beyond a full window: what they read of the org that fills it will be read once more.
const READ_AHEAD_EVERY: Duration = Duration::from_millis(20);
/// After a read beyond the window that failed. The next one that matters says why.
const READ_AHEAD_AGAIN: Duration = Duration::from_millis(500);

/// A shard's stream, read in order, and the entries that are not in a batch yet.
pub struct Feed {
    stream: RedisKey,
    /// Blocks while it waits, so it is not shared.
    redis: Redis,
    entries: usize,
    /// What was read.
    pub window: Window,
}

impl Feed {
    /// Reads a shard from its beginning, holding so many bytes. The connection must be this feed's own.
    pub fn new(shard: Shard, redis: Redis, bytes_max: usize) -> Self {
        let stream = RedisKey::shard_stream(shard);
        Self { stream, redis, entries: READ_ENTRIES_FIRST, window: Window::new(bytes_max) }
    }

    /// Reads what comes next, waiting for it at most for `wait`; before that, some of what had to be left out.
    pub async fn read(&mut self, wait: Duration) -> Result<(), StreamError> {
        let Some((from, to)) = self.window.missing() else { return self.read_on(Some(wait)).await };
        self.read_again(from, to).await?;
        if self.window.is_full() { Ok(()) } else { self.read_on(None).await }
    }

    /// Keeps reading, for as long as it is let, so that the orgs behind a flood are seen. Ends never; may be dropped at any time.
    pub async fn read_ahead(&mut self) -> Infallible {
        loop {
            if self.window.is_full() {
                tokio::time::sleep(READ_AHEAD_EVERY).await;
            }
            if self.read_on(Some(READ_WAIT_MAX)).await.is_err() {
                tokio::time::sleep(READ_AHEAD_AGAIN).await;
            }
        }
    }

    async fn read_on(&mut self, wait: Option<Duration>) -> Result<(), StreamError> {
        let mut read = redis::cmd("XREAD");
        read.arg("COUNT").arg(self.entries);
        if let Some(wait) = wait {
            // BLOCK 0 would wait for ever.
            read.arg("BLOCK").arg(wait.as_millis().max(1) as u64);
        }
        read.arg("STREAMS").arg(&self.stream).arg(self.window.read_to().to_string());
        let reply = read.query_async(&mut self.redis).await;
        let entries = entries_of_read(self.or_read_less(reply)?).ok_or(StreamError::Reply { command: "XREAD" })?;
        self.learn_size(&entries);
        entries.into_iter().for_each(|entry| self.window.offer(held(entry)));
        Ok(())
    }

    async fn read_again(&mut self, from: EntryId, to: EntryId) -> Result<(), StreamError> {
        let mut range = redis::cmd("XRANGE");
        range.arg(&self.stream).arg(from.to_string()).arg(to.to_string()).arg("COUNT").arg(self.entries);
        let reply = range.query_async(&mut self.redis).await;
        let entries = entries_of(self.or_read_less(reply)?).ok_or(StreamError::Reply { command: "XRANGE" })?;
        let read_to = entries.last().filter(|_| entries.len() >= self.entries).map_or(to, |(id, _)| *id);
        self.learn_size(&entries);
        if entries.into_iter().all(|entry| self.window.offer_again(held(entry))) {
            self.window.read_again_to(read_to);
        }
        Ok(())
    }

    /// After a read that failed the next one is of half as many entries: the way may be too narrow for so much at a time.
    fn or_read_less(&mut self, reply: RedisResult<Value>) -> RedisResult<Value> {
        if reply.is_err() {
            self.entries = (self.entries / 2).max(1);
        }
        reply
    }

    fn learn_size(&mut self, entries: &[Entry]) {
        if let Some(mean) = entries.iter().map(|(_, bytes)| bytes.len()).sum::<usize>().checked_div(entries.len()) {
            let most = READ_ENTRIES_MAX.min(2 * self.entries);
            self.entries = (READ_BYTES / mean.max(1)).clamp(1, most);
        }
    }
}

fn held((id, envelope): Entry) -> Held {
    // What is no envelope is nobody's; it will be found unreadable when its turn comes.
    Held { id, org: org_of(&envelope).unwrap_or(OrgId(Uuid::nil())), envelope }
}
