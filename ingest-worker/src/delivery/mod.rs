//! How a batch is delivered: announced, inserted table by table, committed. Pure: it says what is to be done next and is told
//! what came of it; all I/O is its driver's, [`crate::shard`].
//!
//! ```text
//! Announce ─▶ Insert (table, piece) ─▶ … ─▶ SetAside ─▶ Commit ─▶ over
//!               │        ▲
//!       refused ▼        │
//!              Note ─────┘
//! ```
//!
//! Every step may be repeated, by whomever: the effects in Redis are fenced by the lease's epoch and the intent's number, those in
//! ClickHouse are recognised by their token. So a driver that does not know whether a step took effect does it again, and a
//! driver that has lost its shard forgets the batch: its successor finds the intent. `model.rs` checks this against all
//! interleavings.

use std::sync::Arc;

pub mod intent;
#[cfg(test)]
mod model;

use intent::{Intent, Piece, Refused};

/// One batch on its way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Delivery {
    intent: Arc<Intent>,
    at: At,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    Announce,
    Insert { table: usize, piece: usize },
    Note { table: usize, piece: usize },
    SetAside,
    Commit,
    Over,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write the intent to Redis.
    Announce(Arc<Intent>),
    /// Insert a piece's rows under its token.
    Insert(Arc<Intent>, Piece),
    /// Write the intent again: it says more about what ClickHouse refuses.
    Note(Arc<Intent>),
    /// Park the envelopes of orgs that are over their quota.
    SetAside(Arc<Intent>),
    /// Move what was refused to the dead letters, delete the entries, forget the intent: all at once.
    Commit(Arc<Intent>),
}

impl Delivery {
    /// A batch that nobody knows of yet.
    pub fn new(intent: Intent) -> Self {
        Self { intent: Arc::new(intent), at: At::Announce }
    }

    /// A batch that was found in Redis. Nothing is known of how far it came.
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
            At::Insert { table, piece } => {
                let piece = intent.pieces(intent.tables[table]).swap_remove(piece);
                Some(Step::Insert(intent, piece))
            }
            At::Note { .. } => Some(Step::Note(intent)),
            At::SetAside => Some(Step::SetAside(intent)),
            At::Commit => Some(Step::Commit(intent)),
            At::Over => None,
        }
    }

    /// The step has taken effect.
    pub fn done(&mut self) {
        self.at = match self.at {
            At::Announce => self.insert_or_later(0, 0),
            At::Insert { table, piece } => self.insert_or_later(table, piece + 1),
            At::Note { table, piece } => self.insert_or_later(table, piece),
            At::SetAside => At::Commit,
            At::Commit | At::Over => At::Over,
        }
    }

    /// ClickHouse has stored nothing of the insert, and has not the memory to: each half is inserted by itself. False when the insert
    /// is of one entry; then there is nothing to cut.
    pub fn too_large(&mut self) -> bool {
        let At::Insert { table, piece } = self.at else { return false };
        let one = self.intent.pieces(self.intent.tables[table])[piece].entries.len() < 2;
        if !one {
            self.refused(0);
        }
        !one
    }

    /// ClickHouse has stored nothing of the insert and never will: it is cut in halves, until the entry is found whose rows are
    /// to blame. Any other step cannot be refused; then this changes nothing.
    pub fn refused(&mut self, code: u32) {
        let At::Insert { table, piece } = self.at else { return };
        let intent = Arc::make_mut(&mut self.intent);
        let refused = intent.pieces(intent.tables[table]).swap_remove(piece);
        if refused.entries.len() > 1 {
            intent.cuts.push(refused);
        } else {
            intent.refused.push(Refused { entry: refused.entries.start, table: refused.table, code });
        }
        self.at = At::Note { table, piece };
    }

    /// The next piece that has any entry left in it, from there on.
    fn insert_or_later(&self, mut table: usize, mut piece: usize) -> At {
        while let Some(number) = self.intent.tables.get(table) {
            let pieces = self.intent.pieces(*number);
            match pieces.get(piece) {
                Some(next) if self.intent.included(next).next().is_some() => return At::Insert { table, piece },
                Some(_) => piece += 1,
                None => (table, piece) = (table + 1, 0),
            }
        }
        if self.intent.set_aside.is_empty() { At::Commit } else { At::SetAside }
    }
}

#[cfg(test)]
mod tests {
    use tenant::shard::fence::EntryId;

    use super::intent::Verdict;
    use super::*;

    fn intent(entries: u64, tables: &[u8]) -> Intent {
        let entries = (1..=entries).map(|ms| EntryId::new(ms, 0)).collect();
        Intent { entries, tables: tables.to_vec(), ..Intent::default() }
    }

    /// Carries a batch out against a ClickHouse that refuses those rows, and says what was done.
    fn run(mut delivery: Delivery, bad: &[(u8, u32)]) -> (Vec<String>, Arc<Intent>) {
        let (mut done, mut last) = (Vec::new(), Arc::new(Intent::default()));
        while let Some(step) = delivery.step() {
            match step {
                Step::Insert(intent, piece) => {
                    let rows: Vec<usize> = intent.included(&piece).collect();
                    if bad.iter().any(|(table, entry)| *table == piece.table && rows.contains(&(*entry as usize))) {
                        delivery.refused(117);
                        continue;
                    }
                    done.push(format!("{}:{rows:?}", piece.table));
                }
                Step::Commit(intent) => last = intent,
                Step::Announce(_) => done.push("announce".into()),
                Step::Note(_) => done.push("note".into()),
                Step::SetAside(_) => done.push("set aside".into()),
            }
            delivery.done();
        }
        (done, last)
    }

    #[test]
    fn announced_inserted_and_committed() {
        let (done, intent) = run(Delivery::new(intent(2, &[2, 3])), &[]);
        assert_eq!(done, ["announce", "2:[0, 1]", "3:[0, 1]"]);
        assert!(intent.refused.is_empty());
    }

    #[test]
    fn only_the_guilty_entry_is_left_out_and_is_not_billed() {
        let (done, intent) = run(Delivery::found(intent(4, &[1, 2, 3])), &[(2, 2)]);
        let wanted = ["1:[0, 1, 2, 3]", "note", "2:[0, 1]", "note", "note", "2:[3]", "3:[0, 1, 3]"];
        assert_eq!(done, wanted);
        assert_eq!(intent.refused, [Refused { entry: 2, table: 2, code: 117 }]);
    }

    #[test]
    fn who_is_over_quota_is_in_no_table() {
        let mut one = intent(2, &[2]);
        one.set_aside = vec![(0, Verdict::Park)];
        assert_eq!(run(Delivery::found(one.clone()), &[]).0, ["2:[1]", "set aside"]);
        one.set_aside.push((1, Verdict::Drop));
        assert_eq!(run(Delivery::found(one), &[]).0, ["set aside"]);
    }

    #[test]
    fn what_is_too_large_is_cut_down_to_one_entry_and_never_refused() {
        let mut delivery = Delivery::found(intent(2, &[2]));
        assert!(delivery.too_large());
        delivery.done();
        let Some(Step::Insert(intent, piece)) = delivery.step() else { panic!("{delivery:?}") };
        assert_eq!((piece.entries, intent.refused.len()), (0..1, 0));
        assert!(!delivery.too_large(), "one entry is tried for as long as it takes");
        assert!(matches!(delivery.step(), Some(Step::Insert(..))));
    }

    #[test]
    fn nothing_is_left_when_all_is_refused() {
        let (done, intent) = run(Delivery::found(intent(2, &[2, 3])), &[(2, 0), (2, 1)]);
        assert_eq!(done, ["note", "note", "note"]);
        assert_eq!(intent.refused.len(), 2);
    }
}
