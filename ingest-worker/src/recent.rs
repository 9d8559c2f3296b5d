//! The content ids that a shard put into its recent batches, so that a client's retry of a request is billed once.
//!
//! A client that got no answer, or an answer that asks it to retry, sends the same content again, although the first
//! request may be in Redis already. Then both are in the stream, under one content id. The rows of the second replace
//! those of the first, and the second is not billed. The content ids are in Redis: the script that announces a batch
//! writes them, so that the shard's next owner knows them too.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use wire::envelope::ContentId;

/// How long a content id is remembered. SDKs stop retrying earlier: OpenTelemetry's exporters after about a minute, the
/// Collector after five, LangSmith's clients after less.
pub const REMEMBERED_FOR: Duration = Duration::from_secs(600);
/// Most content ids that are remembered per shard, 16 bytes each in Redis. Above it the oldest are forgotten early,
/// which happens at more than 330 requests per second and shard.
pub const IDS_MAX: usize = 200_000;
/// Bytes of a content id; the next constant is the bytes of the time before the ids of one batch.
const ID_BYTES: usize = 16;
const TIME_BYTES: usize = 8;

/// The content ids of one shard's latest batches.
#[derive(Debug, Default)]
pub struct Recent {
    ids: HashSet<ContentId>,
    /// The batches as they are in Redis, the oldest first.
    batches: VecDeque<Batch>,
}

#[derive(Debug)]
struct Batch {
    announced_ms: u64,
    ids: Vec<ContentId>,
}

/// How announcing a batch changes the remembered content ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The ids of the batch, encoded as in Redis. Empty when there are none.
    pub added: Vec<u8>,
    /// How many of the oldest batches are forgotten.
    pub forgotten: usize,
}

impl Recent {
    /// Decodes the batches that the shard's owners wrote to Redis, the oldest first. Ignores bytes that no owner
    /// writes.
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

    /// Whether a request with that content is in a recent batch of the shard.
    pub fn contains(&self, id: ContentId) -> bool {
        self.ids.contains(&id)
    }

    /// Remembers the content ids of a batch that is announced at `now_ms`, and forgets the batches that are too old.
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
    fn content_ids_are_remembered_for_a_time_and_by_the_next_owner() {
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
    fn the_number_of_remembered_content_ids_is_bounded() {
        let mut recent = Recent::default();
        for batch in 0..60 {
            recent.announce(1, ids(batch * 10_000..(batch + 1) * 10_000));
            assert!(recent.ids.len() <= IDS_MAX && recent.batches.len() <= IDS_MAX / 10_000);
        }
        assert!(recent.contains(id(599_999)) && !recent.contains(id(0)));
    }
}
