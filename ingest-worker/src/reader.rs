//! Reading one shard's stream into its [`FairQueue`].
//!
//! Redis bounds the bytes of every read ([`stores::entries`]): a read that waits returns one entry, and one that does
//! not wait returns a page.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use model::entry_id::EntryId;
use model::ids::OrgId;
use model::shard::Shard;
use redis::RedisError;
use stores::entries;
use stores::entries::{Entry, LARGE_BYTES, Page, PageMax, READ_BYTES_MAX};
use stores::keys::RedisKey;
use stores::redis::Redis;
use uuid::Uuid;
use wire::envelope::{ENVELOPE_FIELD, EnvelopeKey};

use crate::arrived::Arrived;
use crate::fair_queue::{FairQueue, ReadEntry};
use crate::stream::{StreamError, entries_of_read};

/// How long one read waits for entries. Also the longest time until the reader notices a stop.
pub const READ_WAIT_MAX: Duration = Duration::from_millis(500);
/// A waiting read that took no longer than this found an entry that was there already, so there may be more of them.
const AT_ONCE: Duration = Duration::from_millis(2);
/// The smallest bound of a page, in bytes, however often reads have failed.
const PAGE_BYTES_MIN: usize = 16 << 10;
/// Pause between two reads while the fair queue is full: what they read of the org that fills it must be read again
/// later.
const READ_AHEAD_EVERY: Duration = Duration::from_millis(20);
/// Pause after a failed read ahead. Its error is not logged: the next read by [`Reader::read`] reports the same
/// problem.
const READ_AHEAD_AGAIN: Duration = Duration::from_millis(500);

/// A shard's stream, read in order, and the entries that are not in a batch yet.
pub struct Reader {
    stream: RedisKey,
    /// A connection of its own, because a read that waits blocks it.
    redis: Redis,
    /// The key that entries are checked with.
    key: EnvelopeKey,
    /// Bound of the next page, in bytes.
    page_bytes: usize,
    /// Whether small entries probably follow what was read. Then a page of them is cheaper than one entry at a time.
    is_behind: bool,
    /// Whether the last read found that no entry follows.
    is_at_end: bool,
    /// The entries that were read and are in no batch yet.
    pub queue: FairQueue,
}

impl Reader {
    /// Reads a shard from its beginning, and holds at most `bytes_max` bytes. No one else may use the connection.
    pub fn new(shard: Shard, redis: Redis, key: EnvelopeKey, bytes_max: usize) -> Self {
        let (stream, queue) = (RedisKey::shard_stream(shard), FairQueue::new(bytes_max));
        Self { stream, redis, key, page_bytes: READ_BYTES_MAX, is_behind: true, is_at_end: false, queue }
    }

    /// Reads the next entries, and waits for them at most for `wait`. Before that, reads again some entries that were
    /// forgotten.
    pub async fn read(&mut self, wait: Duration) -> Result<(), StreamError> {
        let Some((from, to)) = self.queue.missing() else { return self.read_on(wait).await };
        self.read_again(from, to).await?;
        if self.queue.is_full() { Ok(()) } else { self.read_page().await }
    }

    /// Keeps reading, so that orgs behind a flood are seen. Never returns; may be dropped at any time.
    pub async fn read_ahead(&mut self) -> Infallible {
        loop {
            if self.queue.is_full() {
                tokio::time::sleep(READ_AHEAD_EVERY).await;
            }
            if self.read_on(READ_WAIT_MAX).await.is_err() {
                tokio::time::sleep(READ_AHEAD_AGAIN).await;
            }
        }
    }

    /// Whether the last read reached the end of the stream.
    pub const fn is_at_end(&self) -> bool {
        self.is_at_end
    }

    async fn read_on(&mut self, wait: Duration) -> Result<(), StreamError> {
        if self.is_behind { self.read_page().await } else { self.read_one(wait).await }
    }

    /// Waits for one entry. Redis can bound a command that waits by its count only.
    async fn read_one(&mut self, wait: Duration) -> Result<(), StreamError> {
        let mut read = redis::cmd("XREAD");
        // BLOCK 0 would wait without end.
        read.arg("COUNT").arg(1).arg("BLOCK").arg(wait.as_millis().max(1) as u64);
        read.arg("STREAMS").arg(&self.stream).arg(self.queue.read_to().to_string());
        let begun = Instant::now();
        let reply = read.query_async(&mut self.redis).await?;
        let entries = entries_of_read(reply).ok_or(StreamError::Reply { command: "XREAD" })?;
        self.is_behind = begun.elapsed() < AT_ONCE && is_small(&entries);
        self.is_at_end = entries.is_empty();
        entries.into_iter().for_each(|entry| self.queue.offer(read_entry(&self.key, entry)));
        Ok(())
    }

    async fn read_page(&mut self) -> Result<(), StreamError> {
        let Page { entries, has_more } = self.page(self.queue.read_to().next(), None).await?;
        self.is_behind = has_more && is_small(&entries);
        self.is_at_end = !has_more;
        entries.into_iter().for_each(|entry| self.queue.offer(read_entry(&self.key, entry)));
        Ok(())
    }

    async fn read_again(&mut self, from: EntryId, to: EntryId) -> Result<(), StreamError> {
        let Page { entries, has_more } = self.page(from, Some(to)).await?;
        let read_to = entries.last().filter(|_| has_more).map_or(to, |(id, _)| *id);
        if entries.into_iter().all(|entry| self.queue.offer_again(read_entry(&self.key, entry))) {
            self.queue.read_again_to(read_to);
        }
        Ok(())
    }

    /// After a page that failed, the next one is half as large: the network may be too slow for a large one.
    async fn page(&mut self, from: EntryId, to: Option<EntryId>) -> Result<Page, RedisError> {
        let max = PageMax { bytes: self.page_bytes, ..PageMax::ALL };
        let page = entries::page(&mut self.redis, &self.stream, ENVELOPE_FIELD, from, to, max).await;
        let bytes = if page.is_ok() { self.page_bytes.saturating_mul(2) } else { self.page_bytes / 2 };
        self.page_bytes = bytes.clamp(PAGE_BYTES_MIN, READ_BYTES_MAX);
        page
    }
}

/// Whether the entries after these are probably small.
fn is_small(entries: &[Entry]) -> bool {
    entries.last().is_some_and(|(_, envelope)| envelope.len() <= LARGE_BYTES)
}

/// The org of an entry is believed only if this deployment has sealed the envelope. Any other entry gets the nil id,
/// and becomes a dead letter when its turn comes.
fn read_entry(key: &EnvelopeKey, (id, bytes): Entry) -> ReadEntry {
    let envelope = Arrived::check(key, bytes);
    let org = envelope.header().map_or(OrgId(Uuid::nil()), |header| header.org_id);
    ReadEntry { id, org, envelope }
}
