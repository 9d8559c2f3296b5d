//! How a batch is delivered: announced, inserted table by table, committed. Pure: it says which step is next, and its
//! driver reports the result of that step. All I/O is in the driver, the deliverer of `ingest-worker`.
//!
//! ```text
//! Announce ─▶ Insert (target, piece) ─▶ … ─▶ Withhold ─▶ Commit ─▶ over
//!               │        ▲        ▲
//!       refused ▼        │        │ the table may be broken: try again
//!              Note ─────┘        │
//!               ▲                 │
//!               └─────────────── Judge
//!           the entries are bad
//! ```
//!
//! Any step may be repeated, by any worker: the lease and the intent's number fence the effects in Redis, and
//! ClickHouse recognises a repeated insert by its token. So a driver that does not know whether a step took effect does
//! it again. A driver that has lost its shard forgets the batch: its successor finds the intent in Redis.
//! `interleavings.rs` checks this against all interleavings.
//!
//! **Who is to blame for a refusal.** A refused piece is cut. As long as the table accepts other rows, the piece is cut
//! in halves, so `b` bad entries among `n` cost about `2 b log n` inserts. When the table accepts nothing, [`PROBES`]
//! single entries from all over the piece are tried instead. If each of them is refused, the driver judges whether the
//! entries are bad or the table is broken.

use std::collections::BTreeSet;
use std::sync::Arc;

pub mod intent;
#[cfg(test)]
mod interleavings;
pub mod judge;

use intent::{Intent, Note, Piece, Refused};

/// How many single entries are tried of a piece that was refused while the table accepts nothing. Also how many
/// refusals in a row it takes until a table that accepted rows counts as one that accepts none.
pub const PROBES: usize = 8;

/// A batch that is being delivered, and the step it is at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Delivery {
    intent: Arc<Intent>,
    at: At,
    /// How many of the intent's notes are in Redis.
    noted: usize,
    /// Stored pieces of the current target, each by the index of its first entry.
    stored: BTreeSet<u32>,
    /// Pieces of one entry that were refused while the table accepted nothing: it is not known yet whether they are
    /// bad.
    suspects: Vec<Suspect>,
    /// How many inserts of the current target were refused since one was accepted. `None` while none was accepted.
    refused_since_accepted: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Suspect {
    /// Index of the piece's first entry.
    start: u32,
    refused: Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    Announce,
    /// Index of the target in the intent, and index of the piece's first entry.
    Insert {
        target: usize,
        start: u32,
    },
    Note {
        target: usize,
    },
    Judge {
        target: usize,
    },
    Withhold,
    Commit,
    Over,
}

/// The step that the driver does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write the intent to Redis.
    Announce(Arc<Intent>),
    /// Insert a piece's rows under its token.
    Insert(Arc<Intent>, Piece),
    /// Add the intent's notes to Redis, from that number on.
    Note(Arc<Intent>, usize),
    /// Decide whether these entries are bad, or the table that refused each of them is broken. Report the decision with
    /// [`Delivery::entries_are_bad`], [`Delivery::table_accepts`] or, for as long as it is not known,
    /// [`Delivery::try_again`].
    Judge(Arc<Intent>, Vec<Refused>),
    /// Set aside envelopes: park or drop those of orgs that are over a monthly limit, and count the repeated ones.
    Withhold(Arc<Intent>),
    /// Move refused entries to the dead letters, delete the batch's entries and forget the intent, all in one step.
    Commit(Arc<Intent>),
}

impl Delivery {
    /// A new batch, which is not in Redis yet.
    pub fn new(intent: Intent) -> Self {
        Self {
            noted: intent.notes().len(),
            intent: Arc::new(intent),
            at: At::Announce,
            stored: BTreeSet::new(),
            suspects: Vec::new(),
            refused_since_accepted: None,
        }
    }

    /// A batch that a worker found in Redis. How much of it was inserted is not known.
    pub fn found(intent: Intent) -> Self {
        let mut found = Self::new(intent);
        found.done();
        found
    }

    /// The next step; `None` when the batch is delivered.
    pub fn step(&self) -> Option<Step> {
        let intent = Arc::clone(&self.intent);
        match self.at {
            At::Announce => Some(Step::Announce(intent)),
            At::Insert { target, start } => {
                let piece = self.piece(target, start)?;
                Some(Step::Insert(intent, piece))
            }
            At::Note { .. } => Some(Step::Note(intent, self.noted)),
            At::Judge { .. } => {
                Some(Step::Judge(intent, self.suspects.iter().map(|suspect| suspect.refused).collect()))
            }
            At::Withhold => Some(Step::Withhold(intent)),
            At::Commit => Some(Step::Commit(intent)),
            At::Over => None,
        }
    }

    /// The step has taken effect. The result of [`Step::Judge`] has functions of its own.
    pub fn done(&mut self) {
        self.at = match self.at {
            At::Announce => self.insert_or_later(0),
            At::Insert { target, start } => {
                self.stored.insert(start);
                self.refused_since_accepted = Some(0);
                // The table accepts rows: each refused entry is tried once more.
                self.suspects.clear();
                self.insert_or_later(target)
            }
            At::Note { target } => {
                self.noted = self.intent.notes().len();
                self.insert_or_later(target)
            }
            At::Judge { target } => At::Judge { target },
            At::Withhold => At::Commit,
            At::Commit | At::Over => At::Over,
        }
    }

    /// There is nothing to insert: the piece has no rows of this table, or they were stored before. Unlike
    /// [`Delivery::done`], this says nothing about whether the table accepts rows now.
    pub fn nothing_to_insert(&mut self) {
        let At::Insert { target, start } = self.at else { return };
        self.stored.insert(start);
        self.at = self.insert_or_later(target);
    }

    /// ClickHouse has stored nothing of the insert because it has too little memory. The piece is cut in halves, and
    /// each is inserted by itself. False when the piece has one entry, which cannot be cut.
    pub fn too_large(&mut self) -> bool {
        let At::Insert { target, start } = self.at else { return false };
        self.cut(target, start, 1)
    }

    /// ClickHouse has stored nothing of the insert, and never will in this form. Only an insert can be refused: at any
    /// other step this changes nothing.
    pub fn refused(&mut self, code: u32) {
        let At::Insert { target, start } = self.at else { return };
        self.refused_since_accepted =
            self.refused_since_accepted.map(|refused| refused + 1).filter(|refused| *refused < PROBES);
        let probes = if self.accepts() { 1 } else { PROBES };
        if self.cut(target, start, probes) {
            return;
        }
        let Some(entry) = self.piece(target, start).and_then(|piece| self.intent.included(&piece).next()) else {
            return;
        };
        let refused = Refused { entry: entry as u32, target: self.intent.targets[target], code };
        if self.accepts() {
            self.note(Note::Refused(refused));
            self.at = At::Note { target };
            return;
        }
        self.suspects.retain(|suspect| suspect.start != start);
        self.suspects.push(Suspect { start, refused });
        self.at = if self.suspects.len() >= PROBES { At::Judge { target } } else { self.insert_or_later(target) };
    }

    /// An entry of the piece was changed after it was put into the batch and cannot be read: it becomes a dead letter.
    pub fn unreadable(&mut self, entry: u32) {
        let At::Insert { target, .. } = self.at else { return };
        self.note(Note::Refused(Refused { entry, target: self.intent.targets[target], code: 0 }));
        self.at = At::Note { target };
    }

    /// The suspects are bad: they become dead letters.
    pub fn entries_are_bad(&mut self) {
        let At::Judge { target } = self.at else { return };
        for suspect in std::mem::take(&mut self.suspects) {
            self.note(Note::Refused(suspect.refused));
        }
        self.at = At::Note { target };
    }

    /// The table refuses everything, so no entry is to blame; or it is not known yet. The first suspect is tried again.
    pub fn try_again(&mut self) {
        let At::Judge { target } = self.at else { return };
        if let Some(suspect) = self.suspects.first() {
            self.at = At::Insert { target, start: suspect.start };
        }
    }

    /// The table accepts rows of other entries. Each suspect is tried once more, and is bad if it is refused again.
    pub fn table_accepts(&mut self) {
        let At::Judge { target } = self.at else { return };
        self.suspects.clear();
        self.refused_since_accepted = Some(0);
        self.at = self.insert_or_later(target);
    }

    /// Whether the current target accepts rows, as far as is known.
    const fn accepts(&self) -> bool {
        self.refused_since_accepted.is_some()
    }

    fn piece(&self, target: usize, start: u32) -> Option<Piece> {
        let pieces = self.intent.pieces(*self.intent.targets.get(target)?);
        pieces.into_iter().find(|piece| piece.entries.start == start)
    }

    /// Cuts a piece in two, or cuts out `probes` single entries. False when the piece cannot be cut.
    fn cut(&mut self, target: usize, start: u32, probes: usize) -> bool {
        let Some(piece) = self.piece(target, start) else { return false };
        let included: Vec<u32> = self.intent.included(&piece).map(|entry| entry as u32).collect();
        let count = included.len();
        if count < 2 {
            return false;
        }
        let mut before = BTreeSet::new();
        if probes == 1 {
            before.insert(included[count / 2]);
        } else {
            let probes = probes.min(count);
            for probe in (0..probes).map(|n| included[n * count / probes]) {
                before.extend([probe, probe + 1]);
            }
        }
        before.retain(|at| *at > piece.entries.start && *at < piece.entries.end);
        self.note(Note::Cut { target: piece.target, before: before.into_iter().collect() });
        self.at = At::Note { target };
        true
    }

    fn note(&mut self, note: Note) {
        // A note is refused only for indexes that its batch does not have, and these are indexes of this batch.
        if Arc::make_mut(&mut self.intent).note(note).is_err() {
            debug_assert!(false, "a note that its own batch refuses");
        }
    }

    /// The next piece that still has an entry, in that target or a later one.
    fn insert_or_later(&mut self, mut target: usize) -> At {
        while target < self.intent.targets.len() {
            if let Some(start) = self.next_piece(target) {
                return At::Insert { target, start };
            }
            if !self.suspects.is_empty() {
                return At::Judge { target };
            }
            target += 1;
            self.stored.clear();
            self.refused_since_accepted = None;
        }
        if self.intent.withheld.is_empty() { At::Commit } else { At::Withhold }
    }

    /// While the table accepts rows: the first piece that is left. Otherwise a single entry, or else the largest piece,
    /// which is the one of which least is known.
    fn next_piece(&self, target: usize) -> Option<u32> {
        let pieces = self.intent.pieces(self.intent.targets[target]);
        let open = pieces.into_iter().filter(|piece| {
            let start = piece.entries.start;
            !self.stored.contains(&start) && self.suspects.iter().all(|suspect| suspect.start != start)
        });
        let mut open = open.map(|piece| (self.intent.included(&piece).count(), piece.entries.start));
        if self.accepts() {
            return open.find(|(count, _)| *count > 0).map(|(_, start)| start);
        }
        let rank = |(count, start): &(usize, u32)| (*count != 1, usize::MAX - count, *start);
        open.filter(|(count, _)| *count > 0).min_by_key(rank).map(|(_, start)| start)
    }
}

#[cfg(test)]
mod tests;
