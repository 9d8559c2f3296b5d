//! What a shard took into its batches of late, so that a client's retry of a request is billed once.
//!
//! A client that got no answer, or was told to come again, sends the same content again, although Redis may have had
//! the first. Both are in the stream then, under one content id; the second is stored over the first and not billed.
//! What is remembered is in Redis, written by the same script that announces a batch, so the shard's next owner knows
//! it too.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use wire::envelope::ContentId;

/// How long a content id is remembered. SDKs give up earlier: OpenTelemetry's exporters retry for about a minute, the
/// Collector for five, LangSmith's clients for less.
pub const REMEMBERED_FOR: Duration = Duration::from_secs(600);
/// Content ids that are remembered of a shard, 16 bytes each in Redis. Beyond it the oldest are forgotten early: with
/// this many, at more than 330 requests per second and shard.
pub const IDS_MAX: usize = 200_000;
/// Bytes of an id, and of the time before the ids of one batch.
const ID_BYTES: usize = 16;
const TIME_BYTES: usize = 8;

/// The content ids of one shard's latest batches.
#[derive(Debug, Default)]
pub struct Recent {
    ids: HashSet<ContentId>,
    /// As they are in Redis, the oldest first.
    batches: VecDeque<Batch>,
}

#[derive(Debug)]
struct Batch {
    announced_ms: u64,
    ids: Vec<ContentId>,
}

/// What announcing a batch changes about what is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The ids of the batch, as they are remembered in Redis. Empty when there are none.
    pub added: Vec<u8>,
    /// How many of the oldest batches are forgotten.
    pub forgotten: usize,
}

impl Recent {
    /// Reads what a predecessor left in Redis, the oldest first. What it did not write is passed over.
    pub fn load<'a>(batches: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut recent = Self::default();
        for bytes in batches {
            let (time, ids) = bytes.split_at_checked(TIME_BYTES).unwrap_or_default();
            let announced_ms = time.try_into().map_or(0, u64::from_be_bytes);
            let ids = ids.chunks_exact(ID_BYTES).filter_map(|id| Some(ContentId(id.try_into().ok()?)));
            recent.add(announced_ms, ids.collect());
        }
        recent
    }

    /// Whether a request of that content is in a batch of the shard already.
    pub fn contains(&self, id: ContentId) -> bool {
        self.ids.contains(&id)
    }

    /// Remembers the content of a batch that is announced at that time, and forgets what is too old.
    pub fn announce(&mut self, now_ms: u64, ids: Vec<ContentId>) -> Change {
        let mut change = Change::default();
        if !ids.is_empty() {
            change.added.extend(now_ms.to_be_bytes());
            change.added.extend(ids.iter().flat_map(|id| id.0));
            self.add(now_ms, ids);
        }
        let oldest = now_ms.saturating_sub(u64::try_from(REMEMBERED_FOR.as_millis()).unwrap_or(u64::MAX));
        let mut held: usize = self.batches.iter().map(|batch| batch.ids.len()).sum();
        while let Some(batch) = self.batches.pop_front_if(|batch| batch.announced_ms < oldest || held > IDS_MAX) {
            held -= batch.ids.len();
            for id in &batch.ids {
                self.ids.remove(id);
            }
            change.forgotten += 1;
        }
        change
    }

    fn add(&mut self, announced_ms: u64, ids: Vec<ContentId>) {
        self.ids.extend(&ids);
        self.batches.push_back(Batch { announced_ms, ids });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u128) -> ContentId {
        ContentId(number.to_be_bytes())
    }

    fn ids(range: std::ops::Range<u128>) -> Vec<ContentId> {
        range.map(id).collect()
    }

    #[test]
    fn content_is_remembered_for_a_time_and_by_the_next_owner() {
        let mut recent = Recent::default();
        let first = recent.announce(1_000, ids(1..4));
        assert_eq!((first.added.len(), first.forgotten), (TIME_BYTES + 3 * ID_BYTES, 0));
        assert!(recent.contains(id(3)) && !recent.contains(id(4)));
        let next = Recent::load([first.added.as_slice(), b"odd"]);
        assert!(next.contains(id(1)) && next.contains(id(3)) && !next.contains(id(4)));
        let later = recent.announce(1_001 + REMEMBERED_FOR.as_millis() as u64, ids(4..5));
        assert_eq!(later.forgotten, 1);
        assert!(!recent.contains(id(3)) && recent.contains(id(4)));
        assert_eq!(recent.announce(1_002, Vec::new()).added, [0; 0], "a batch without ids leaves nothing");
    }

    #[test]
    fn no_more_than_so_many_are_remembered() {
        let mut recent = Recent::default();
        for batch in 0..60 {
            recent.announce(1, ids(batch * 10_000..(batch + 1) * 10_000));
            assert!(recent.ids.len() <= IDS_MAX && recent.batches.len() <= IDS_MAX / 10_000);
        }
        assert!(recent.contains(id(599_999)) && !recent.contains(id(0)));
    }
}
