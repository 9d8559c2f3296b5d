//! Reading one shard's stream into its [`Window`].
//!
//! Every read is bounded in bytes by Redis ([`stores::entries`]): one that waits is of one entry, one that does not is
//! a page.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use model::entry_id::EntryId;
use model::ids::OrgId;
use model::shard::Shard;
use redis::RedisError;
use stores::entries::{self, Entry, LARGE_BYTES, Page, PageMax, READ_BYTES_MAX};
use stores::keys::RedisKey;
use stores::redis::Redis;
use uuid::Uuid;
use wire::envelope::{ENVELOPE_FIELD, EnvelopeKey};

use crate::arrived::Arrived;
use crate::stream::{StreamError, entries_of_read};
use crate::window::{Held, Window};

/// How long one read waits for entries. Also how long a stop may go unnoticed.
pub const READ_WAIT_MAX: Duration = Duration::from_millis(500);
/// A read that was to wait and took no longer than this found an entry that was there already, so there may be more.
const AT_ONCE: Duration = Duration::from_millis(2);
/// Bytes of a page at least, however often reading has failed.
const PAGE_BYTES_MIN: usize = 16 << 10;
/// Between two reads beyond a full window: what they read of the org that fills it will be read once more.
const READ_AHEAD_EVERY: Duration = Duration::from_millis(20);
/// After a read beyond the window that failed. The next one that matters says why.
const READ_AHEAD_AGAIN: Duration = Duration::from_millis(500);

/// A shard's stream, read in order, and the entries that are not in a batch yet.
pub struct Feed {
    stream: RedisKey,
    /// Blocks while it waits, so it is not shared.
    redis: Redis,
    /// What entries are checked with.
    key: EnvelopeKey,
    /// Bytes of the next page.
    page_bytes: usize,
    /// Whether small entries lie behind what was read, as far as is known: then a page of them is cheaper than one at a
    /// time.
    is_behind: bool,
    /// Whether the last read found nothing more.
    is_at_end: bool,
    /// What was read.
    pub window: Window,
}

impl Feed {
    /// Reads a shard from its beginning, holding so many bytes. The connection must be this feed's own.
    pub fn new(shard: Shard, redis: Redis, key: EnvelopeKey, bytes_max: usize) -> Self {
        let (stream, window) = (RedisKey::shard_stream(shard), Window::new(bytes_max));
        Self { stream, redis, key, page_bytes: READ_BYTES_MAX, is_behind: true, is_at_end: false, window }
    }

    /// Reads what comes next, waiting for it at most for `wait`; before that, some of what had to be left out.
    pub async fn read(&mut self, wait: Duration) -> Result<(), StreamError> {
        let Some((from, to)) = self.window.missing() else { return self.read_on(wait).await };
        self.read_again(from, to).await?;
        if self.window.is_full() { Ok(()) } else { self.read_page().await }
    }

    /// Keeps reading, for as long as it is let, so that the orgs behind a flood are seen. Ends never; may be dropped at
    /// any time.
    pub async fn read_ahead(&mut self) -> Infallible {
        loop {
            if self.window.is_full() {
                tokio::time::sleep(READ_AHEAD_EVERY).await;
            }
            if self.read_on(READ_WAIT_MAX).await.is_err() {
                tokio::time::sleep(READ_AHEAD_AGAIN).await;
            }
        }
    }

    /// Whether nothing was behind what was read, when it was read last.
    pub const fn is_at_end(&self) -> bool {
        self.is_at_end
    }

    async fn read_on(&mut self, wait: Duration) -> Result<(), StreamError> {
        if self.is_behind { self.read_page().await } else { self.read_one(wait).await }
    }

    /// Waits for one entry. A command that waits can be bounded by nothing but its count.
    async fn read_one(&mut self, wait: Duration) -> Result<(), StreamError> {
        let mut read = redis::cmd("XREAD");
        // BLOCK 0 would wait for ever.
        read.arg("COUNT").arg(1).arg("BLOCK").arg(wait.as_millis().max(1) as u64);
        read.arg("STREAMS").arg(&self.stream).arg(self.window.read_to().to_string());
        let begun = Instant::now();
        let reply = read.query_async(&mut self.redis).await?;
        let entries = entries_of_read(reply).ok_or(StreamError::Reply { command: "XREAD" })?;
        self.is_behind = begun.elapsed() < AT_ONCE && is_small(&entries);
        self.is_at_end = entries.is_empty();
        entries.into_iter().for_each(|entry| self.window.offer(held(&self.key, entry)));
        Ok(())
    }

    async fn read_page(&mut self) -> Result<(), StreamError> {
        let Page { entries, has_more } = self.page(self.window.read_to().next(), None).await?;
        self.is_behind = has_more && is_small(&entries);
        self.is_at_end = !has_more;
        entries.into_iter().for_each(|entry| self.window.offer(held(&self.key, entry)));
        Ok(())
    }

    async fn read_again(&mut self, from: EntryId, to: EntryId) -> Result<(), StreamError> {
        let Page { entries, has_more } = self.page(from, Some(to)).await?;
        let read_to = entries.last().filter(|_| has_more).map_or(to, |(id, _)| *id);
        if entries.into_iter().all(|entry| self.window.offer_again(held(&self.key, entry))) {
            self.window.read_again_to(read_to);
        }
        Ok(())
    }

    /// After a page that failed the next one is half as large: the way may be too narrow for so much at a time.
    async fn page(&mut self, from: EntryId, to: Option<EntryId>) -> Result<Page, RedisError> {
        let max = PageMax { bytes: self.page_bytes, ..PageMax::ALL };
        let page = entries::page(&mut self.redis, &self.stream, ENVELOPE_FIELD, from, to, max).await;
        let bytes = if page.is_ok() { self.page_bytes.saturating_mul(2) } else { self.page_bytes / 2 };
        self.page_bytes = bytes.clamp(PAGE_BYTES_MIN, READ_BYTES_MAX);
        page
    }
}

/// Whether what follows these entries is likely small.
fn is_small(entries: &[Entry]) -> bool {
    entries.last().is_some_and(|(_, envelope)| envelope.len() <= LARGE_BYTES)
}

/// Whose an entry is, is believed only if this deployment has written it. Anything else is nobody's, and becomes a dead
/// letter when its turn comes.
fn held(key: &EnvelopeKey, (id, bytes): Entry) -> Held {
    let envelope = Arrived::check(key, bytes);
    let org = envelope.header().map_or(OrgId(Uuid::nil()), |header| header.org_id);
    Held { id, org, envelope }
}
