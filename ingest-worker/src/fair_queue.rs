//! Which entries of a shard are in memory, and which org is next. Pure.
//!
//! A stream is read in order, but its orgs take turns: otherwise the entries after an org's flood would wait for all of
//! it. The fair queue holds the entries that were read and are not in a batch yet. When it is full, it forgets the
//! newest entries of the org that has most bytes in it. They are still in Redis and are read again later. So memory is
//! bounded, entries of other orgs are seen however long the flood is, and the entries of one org always come out in
//! their order.

use std::collections::{HashMap, VecDeque};

use model::entry_id::EntryId;
use model::ids::OrgId;

use crate::arrived::Arrived;

/// Bytes of one org's entries that are taken before the next org's turn.
const TURN_BYTES: usize = 256 << 10;

/// One entry that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadEntry {
    /// The entry's id in the stream.
    pub id: EntryId,
    /// The org it belongs to; the nil id if the entry is not authentic.
    pub org: OrgId,
    /// The entry's bytes, checked.
    pub envelope: Arrived,
}

/// The entries of one shard that were read and are not in a batch yet, per org.
#[derive(Debug)]
pub struct FairQueue {
    bytes_max: usize,
    bytes: usize,
    orgs: HashMap<OrgId, Queue>,
    /// The orgs that have entries here, in the order of their turns. The first org is in the middle of its turn.
    turns: VecDeque<OrgId>,
    left: usize,
    read_to: EntryId,
}

#[derive(Debug, Default)]
struct Queue {
    entries: VecDeque<ReadEntry>,
    bytes: usize,
    /// The first id from which on this org's entries were read and then forgotten.
    forgotten: Option<EntryId>,
}

impl FairQueue {
    /// An empty fair queue that holds at most so many bytes, or one entry if that is larger.
    pub fn new(bytes_max: usize) -> Self {
        let (orgs, turns) = (HashMap::new(), VecDeque::new());
        Self { bytes_max, bytes: 0, orgs, turns, left: TURN_BYTES, read_to: EntryId::ZERO }
    }

    /// The id of the last entry that was read from the stream.
    pub fn read_to(&self) -> EntryId {
        self.read_to
    }

    /// Whether the queue has no entry.
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Whether another entry would make the fair queue forget one.
    pub fn is_full(&self) -> bool {
        self.bytes >= self.bytes_max
    }

    /// Takes the next entry of the stream.
    pub fn offer(&mut self, entry: ReadEntry) {
        self.read_to = entry.id;
        let org = entry.org;
        if self.orgs.get(&org).is_none_or(|queue| queue.forgotten.is_none()) {
            self.push(entry);
            while self.bytes > self.bytes_max && self.forget_one() {}
        }
    }

    /// The first and last id of the range to read again; `None` when no entry that was read is missing.
    pub fn missing(&self) -> Option<(EntryId, EntryId)> {
        let from = self.orgs.values().filter_map(|queue| queue.forgotten).min()?;
        Some((from, self.read_to))
    }

    /// Takes an entry that was read again. False when there is no room for it: then the entries after it must not be
    /// offered.
    pub fn offer_again(&mut self, entry: ReadEntry) -> bool {
        let Some(queue) = self.orgs.get_mut(&entry.org) else { return true };
        if queue.forgotten.is_none_or(|from| entry.id < from) {
            return true;
        }
        if self.bytes > 0 && self.bytes + entry.envelope.len() > self.bytes_max {
            return false;
        }
        queue.forgotten = Some(entry.id.next());
        self.push(entry);
        true
    }

    /// Notes that every entry up to that id was read again and taken.
    pub fn read_again_to(&mut self, to: EntryId) {
        let caught_up = to >= self.read_to;
        for queue in self.orgs.values_mut() {
            if let Some(from) = &mut queue.forgotten {
                *from = (*from).max(to.next());
                if caught_up {
                    queue.forgotten = None;
                }
            }
        }
        self.orgs.retain(|_, queue| !queue.entries.is_empty() || queue.forgotten.is_some());
    }

    /// Takes out the next entry, by turns of the orgs.
    pub fn pop(&mut self) -> Option<ReadEntry> {
        let org = *self.turns.front()?;
        let queue = self.orgs.get_mut(&org)?;
        let entry = queue.entries.pop_front()?;
        queue.bytes -= entry.envelope.len();
        self.bytes -= entry.envelope.len();
        let turn_is_over = entry.envelope.len() >= self.left;
        if queue.entries.is_empty() {
            self.turns.pop_front();
            if queue.forgotten.is_none() {
                self.orgs.remove(&org);
            }
            self.left = TURN_BYTES;
        } else if turn_is_over {
            self.turns.rotate_left(1);
            self.left = TURN_BYTES;
        } else {
            self.left -= entry.envelope.len();
        }
        Some(entry)
    }

    /// Gives back the entry that was popped last. It is popped first again.
    pub fn put_back(&mut self, entry: ReadEntry) {
        let org = entry.org;
        let queue = self.orgs.entry(org).or_default();
        queue.bytes += entry.envelope.len();
        self.bytes += entry.envelope.len();
        queue.entries.push_front(entry);
        self.turns.retain(|other| *other != org);
        self.turns.push_front(org);
        self.left = TURN_BYTES;
    }

    /// The next entry of every org.
    pub fn firsts(&self) -> impl Iterator<Item = &ReadEntry> {
        self.orgs.values().filter_map(|queue| queue.entries.front())
    }

    /// The first entry that was read and is not in a batch, whether it is in the queue or forgotten.
    pub fn oldest(&self) -> Option<EntryId> {
        let first = |queue: &Queue| queue.entries.front().map(|entry| entry.id).or(queue.forgotten);
        self.orgs.values().filter_map(first).min()
    }

    fn push(&mut self, entry: ReadEntry) {
        let org = entry.org;
        let queue = self.orgs.entry(org).or_default();
        if queue.entries.is_empty() {
            self.turns.push_back(org);
        }
        queue.bytes += entry.envelope.len();
        self.bytes += entry.envelope.len();
        queue.entries.push_back(entry);
    }

    /// Forgets the newest entry of the org that has most bytes. False when there is only one entry.
    fn forget_one(&mut self) -> bool {
        if self.turns.len() == 1 && self.orgs.values().any(|queue| queue.entries.len() == 1) {
            return false;
        }
        let Some((org, queue)) = self.orgs.iter_mut().max_by_key(|(_, queue)| queue.bytes) else { return false };
        let Some(entry) = queue.entries.pop_back() else { return false };
        queue.bytes -= entry.envelope.len();
        self.bytes -= entry.envelope.len();
        queue.forgotten = Some(entry.id);
        if queue.entries.is_empty() {
            let org = *org;
            self.turns.retain(|other| *other != org);
            self.left = TURN_BYTES;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use uuid::Uuid;

    use wire::envelope::{DecodeError, Unverified};

    use super::*;

    fn org(n: u8) -> OrgId {
        OrgId(Uuid::from_u128(n.into()))
    }

    fn entry(ms: u64, n: u8, len: usize) -> ReadEntry {
        let envelope = Arrived::Unverified(Unverified { bytes: vec![0; len], error: DecodeError::Magic });
        ReadEntry { id: EntryId::new(ms, 0), org: org(n), envelope }
    }

    /// Reads the missing entries again, at most `count` at a time, as the worker does.
    fn catch_up(queue: &mut FairQueue, stream: &[ReadEntry], count: usize) {
        let Some((from, to)) = queue.missing() else { return };
        let again: Vec<_> = stream.iter().filter(|e| e.id >= from && e.id <= to).take(count).cloned().collect();
        let read_to = if again.len() < count { to } else { again.last().unwrap().id };
        if again.into_iter().all(|entry| queue.offer_again(entry)) {
            queue.read_again_to(read_to);
        }
    }

    proptest! {
        #[test]
        fn every_entry_comes_out_once_in_its_orgs_order_within_the_memory_limit(
            sizes in vec((0..4_u8, 1..50_usize), 1..120),
            max in 50..300_usize,
            moves in vec((0..4_u8, 1..6_usize), 1..400),
        ) {
            let stream: Vec<_> = sizes.iter().enumerate().map(|(i, (n, len))| entry(i as u64 + 1, *n, *len)).collect();
            let (mut queue, mut out, mut read) = (FairQueue::new(max), Vec::<ReadEntry>::new(), 0);
            // Reads and takes in any order, and then everything to the end.
            let to_the_end = (0..4 * stream.len()).flat_map(|_| [(0, 6), (1, 6), (2, 1)]);
            for (what, count) in moves.into_iter().chain(to_the_end) {
                match what {
                    0 => {
                        let next: Vec<_> = stream[read..].iter().take(count).cloned().collect();
                        read += next.len();
                        next.into_iter().for_each(|entry| queue.offer(entry));
                    }
                    1 => {
                        let left: Vec<_> = stream.iter().filter(|e| !out.contains(e)).cloned().collect();
                        catch_up(&mut queue, &left, count);
                    }
                    2 => out.extend(queue.pop()),
                    _ => if let Some(entry) = queue.pop() { queue.put_back(entry) },
                }
                prop_assert!(queue.bytes <= max);
                let bytes: usize = queue.orgs.values().flat_map(|q| &q.entries).map(|e| e.envelope.len()).sum();
                prop_assert_eq!(bytes, queue.bytes);
                let oldest = stream[..read].iter().find(|e| !out.contains(e)).map(|e| e.id);
                // `oldest` is never later than the true one. It is earlier when an org has no entry before its next
                // forgotten one.
                prop_assert!(oldest.is_none_or(|oldest| queue.oldest().is_some_and(|seen| seen <= oldest)));
            }
            prop_assert_eq!(out.len(), stream.len());
            for n in 0..4 {
                let of = |all: &[ReadEntry]| all.iter().filter(|e| e.org == org(n)).map(|e| e.id).collect::<Vec<_>>();
                prop_assert_eq!(of(&out), of(&stream));
            }
        }
    }

    #[test]
    fn a_flooding_org_does_not_hold_up_other_orgs() {
        let mut queue = FairQueue::new(10 * TURN_BYTES);
        for ms in 1..=1_000 {
            queue.offer(entry(ms, 1, TURN_BYTES / 2));
        }
        queue.offer(entry(1_001, 2, 100));
        queue.offer(entry(1_002, 3, 100));
        let turns: Vec<_> = std::iter::from_fn(|| queue.pop()).take(5).map(|entry| entry.org).collect();
        assert_eq!(turns, [org(1), org(1), org(2), org(3), org(1)], "a turn each, however much is before it");
        let (from, to) = queue.missing().unwrap();
        assert!(from.ms() < 25 && to.ms() == 1_002, "the rest of the flood is read when there is room: {from}..{to}");
    }

    #[test]
    fn an_entry_larger_than_the_queue_is_taken_alone() {
        let mut queue = FairQueue::new(10);
        queue.offer(entry(1, 1, 100));
        queue.offer(entry(2, 1, 100));
        assert_eq!(queue.pop().unwrap().id.ms(), 1);
        assert!(queue.pop().is_none());
        assert!(queue.offer_again(entry(2, 1, 100)));
        queue.read_again_to(EntryId::new(2, 0));
        assert_eq!((queue.pop().unwrap().id.ms(), queue.missing()), (2, None));
    }
}
