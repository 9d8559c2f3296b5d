//! How a batch is delivered: announced, inserted table by table, committed. Pure: it says what is to be done next and
//! is told what came of it; all I/O is its driver's, the carrier of `ingest-worker`.
//!
//! ```text
//! Announce ─▶ Insert (target, piece) ─▶ … ─▶ SetAside ─▶ Commit ─▶ over
//!               │        ▲        ▲
//!       refused ▼        │        │ the table may be broken: try again
//!              Note ─────┘        │
//!               ▲                 │
//!               └─────────────── Judge
//!           the entries are bad
//! ```
//!
//! Every step may be repeated, by whomever: the effects in Redis are fenced by the lease and the intent's number, those
//! in ClickHouse are recognised by their token. So a driver that does not know whether a step took effect does it
//! again, and a driver that has lost its shard forgets the batch: its successor finds the intent. `interleavings.rs`
//! checks this against all interleavings.
//!
//! **Who is to blame for a refusal.** A refused piece is cut. As long as the table accepts other rows it is cut in
//! halves, so `b` bad entries among `n` cost about `2 b log n` inserts. When nothing is accepted, [`PROBES`] single
//! entries from all over the piece are tried instead; if each is refused, the driver judges whether the entries are bad
//! or the table is.

use std::collections::BTreeSet;
use std::sync::Arc;

pub mod intent;
#[cfg(test)]
mod interleavings;
pub mod judge;

use intent::{Intent, Note, Piece, Refused};

/// Single entries that are tried of a piece that was refused while nothing is accepted. Also how many refusals in a row
/// it takes until a table that accepted rows counts as one that accepts none.
pub const PROBES: usize = 8;

/// One batch on its way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Delivery {
    intent: Arc<Intent>,
    at: At,
    /// How many of the intent's notes are in Redis.
    noted: usize,
    /// Pieces of the target at hand that are stored, by their first entry.
    stored: BTreeSet<u32>,
    /// Pieces of one entry that were refused when nothing was accepted: nobody knows yet whether they are bad.
    suspects: Vec<Suspect>,
    /// Inserts of the target at hand that were refused since one was accepted. `None` while none was accepted.
    refused_since_accepted: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Suspect {
    /// The piece's first entry.
    start: u32,
    refused: Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    Announce,
    /// The target's place, and the piece's first entry.
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
    /// Add the intent's notes from that number on.
    Note(Arc<Intent>, usize),
    /// Decide whether these entries are bad, or the table that refused each of them: [`Delivery::entries_are_bad`],
    /// [`Delivery::table_accepts`] or, for as long as it takes, [`Delivery::try_again`].
    Judge(Arc<Intent>, Vec<Refused>),
    /// Park the envelopes of orgs that are over their quota.
    SetAside(Arc<Intent>),
    /// Move what was refused to the dead letters, delete the entries, forget the intent: all at once.
    Commit(Arc<Intent>),
}

impl Delivery {
    /// A batch that nobody knows of yet.
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
            At::Insert { target, start } => {
                let piece = self.piece(target, start)?;
                Some(Step::Insert(intent, piece))
            }
            At::Note { .. } => Some(Step::Note(intent, self.noted)),
            At::Judge { .. } => {
                Some(Step::Judge(intent, self.suspects.iter().map(|suspect| suspect.refused).collect()))
            }
            At::SetAside => Some(Step::SetAside(intent)),
            At::Commit => Some(Step::Commit(intent)),
            At::Over => None,
        }
    }

    /// The step has taken effect. A judgement is told by its own functions.
    pub fn done(&mut self) {
        self.at = match self.at {
            At::Announce => self.insert_or_later(0),
            At::Insert { target, start } => {
                self.stored.insert(start);
                self.refused_since_accepted = Some(0);
                // The table takes rows: whoever was refused is tried once more.
                self.suspects.clear();
                self.insert_or_later(target)
            }
            At::Note { target } => {
                self.noted = self.intent.notes().len();
                self.insert_or_later(target)
            }
            At::Judge { target } => At::Judge { target },
            At::SetAside => At::Commit,
            At::Commit | At::Over => At::Over,
        }
    }

    /// There is nothing to insert: the piece has no rows of this table, or they were stored before. Unlike
    /// [`Delivery::done`] this says nothing about whether the table accepts rows now.
    pub fn nothing_to_insert(&mut self) {
        let At::Insert { target, start } = self.at else { return };
        self.stored.insert(start);
        self.at = self.insert_or_later(target);
    }

    /// ClickHouse has stored nothing of the insert, and has not the memory to: each half is inserted by itself. False
    /// when the insert is of one entry; then there is nothing to cut.
    pub fn too_large(&mut self) -> bool {
        let At::Insert { target, start } = self.at else { return false };
        self.cut(target, start, 1)
    }

    /// ClickHouse has stored nothing of the insert and never will, as it is. Any other step cannot be refused; then
    /// this changes nothing.
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

    /// An entry of the insert was changed since it was put into the batch and cannot be read: it ends in the dead
    /// letters.
    pub fn unreadable(&mut self, entry: u32) {
        let At::Insert { target, .. } = self.at else { return };
        self.note(Note::Refused(Refused { entry, target: self.intent.targets[target], code: 0 }));
        self.at = At::Note { target };
    }

    /// The suspects are bad: they end in the dead letters.
    pub fn entries_are_bad(&mut self) {
        let At::Judge { target } = self.at else { return };
        for suspect in std::mem::take(&mut self.suspects) {
            self.note(Note::Refused(suspect.refused));
        }
        self.at = At::Note { target };
    }

    /// The table refuses whatever it is given, so no entry is to blame; or nobody knows yet. The first suspect is tried
    /// again.
    pub fn try_again(&mut self) {
        let At::Judge { target } = self.at else { return };
        if let Some(suspect) = self.suspects.first() {
            self.at = At::Insert { target, start: suspect.start };
        }
    }

    /// The table takes the rows of others. Each suspect is tried once more, and is bad if it is refused.
    pub fn table_accepts(&mut self) {
        let At::Judge { target } = self.at else { return };
        self.suspects.clear();
        self.refused_since_accepted = Some(0);
        self.at = self.insert_or_later(target);
    }

    /// Whether the target at hand accepts rows, as far as is known.
    const fn accepts(&self) -> bool {
        self.refused_since_accepted.is_some()
    }

    fn piece(&self, target: usize, start: u32) -> Option<Piece> {
        let pieces = self.intent.pieces(*self.intent.targets.get(target)?);
        pieces.into_iter().find(|piece| piece.entries.start == start)
    }

    /// Cuts a piece in two, or so that as many single entries as `probes` says stand alone. False when there is nothing
    /// to cut.
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
        // Every note is made of places of this batch, which are the only ones that are refused.
        if Arc::make_mut(&mut self.intent).note(note).is_err() {
            debug_assert!(false, "a note that its own batch refuses");
        }
    }

    /// The next piece that has any entry left in it, from that target on.
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
        if self.intent.set_aside.is_empty() { At::Commit } else { At::SetAside }
    }

    /// While the table accepts rows: the first. Otherwise a single entry, or else the largest piece, of which most is
    /// not known.
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
mod tests {
    use std::collections::BTreeMap;

    use model::entry_id::EntryId;
    use proptest::prelude::*;

    use super::intent::{Target, Verdict};
    use super::*;

    fn target(table: u8) -> Target {
        Target { table, version: 1 }
    }

    fn intent(entries: u64, tables: &[u8]) -> Intent {
        let entries = (1..=entries).map(|ms| EntryId::new(ms, 0)).collect();
        Intent { entries, targets: tables.iter().copied().map(target).collect(), ..Intent::default() }
    }

    /// What came of a delivery.
    #[derive(Default)]
    struct Outcome {
        done: Vec<String>,
        /// How often the rows of an entry were stored, by table and entry.
        stored: BTreeMap<(u8, u32), u32>,
        inserts: usize,
        broken: usize,
        last: Arc<Intent>,
    }

    /// Carries a batch out against a ClickHouse that refuses those rows. The table is judged to be broken as often as
    /// `broken` says.
    fn run(mut delivery: Delivery, bad: impl Fn(u8, u32, usize) -> bool, broken: usize) -> Outcome {
        let mut outcome = Outcome::default();
        while let Some(step) = delivery.step() {
            match step {
                Step::Insert(intent, piece) => {
                    outcome.inserts += 1;
                    let rows: Vec<usize> = intent.included(&piece).collect();
                    let table = piece.target.table;
                    if rows.iter().any(|row| bad(table, *row as u32, outcome.inserts)) {
                        delivery.refused(117);
                        continue;
                    }
                    for row in &rows {
                        *outcome.stored.entry((table, *row as u32)).or_default() += 1;
                    }
                    outcome.done.push(format!("{table}:{rows:?}"));
                }
                Step::Judge(..) if outcome.broken < broken => {
                    outcome.broken += 1;
                    delivery.try_again();
                    continue;
                }
                Step::Judge(..) => {
                    delivery.entries_are_bad();
                    continue;
                }
                Step::Commit(intent) => outcome.last = intent,
                Step::Announce(_) => outcome.done.push("announce".into()),
                Step::Note(intent, first) => {
                    assert!(first < intent.notes().len(), "a note of nothing");
                    outcome.done.push("note".into());
                }
                Step::SetAside(_) => outcome.done.push("set aside".into()),
            }
            delivery.done();
        }
        outcome
    }

    fn one_is_bad(table: u8, entry: u32) -> impl Fn(u8, u32, usize) -> bool {
        move |t, e, _| (t, e) == (table, entry)
    }

    #[test]
    fn a_batch_is_announced_inserted_and_committed() {
        let outcome = run(Delivery::new(intent(2, &[2, 3])), |_, _, _| false, 0);
        assert_eq!(outcome.done, ["announce", "2:[0, 1]", "3:[0, 1]"]);
        assert!(outcome.last.notes().is_empty());
    }

    #[test]
    fn only_the_bad_entry_is_left_out_and_is_not_billed() {
        let outcome = run(Delivery::found(intent(4, &[1, 2, 3])), one_is_bad(2, 2), 0);
        let wanted = ["1:[0, 1, 2, 3]", "note", "2:[0]", "2:[1]", "note", "2:[3]", "3:[0, 1, 3]"];
        assert_eq!(outcome.done, wanted);
        let refused: Vec<_> = outcome.last.refused().copied().collect();
        assert_eq!(refused, [Refused { entry: 2, target: target(2), code: 117 }]);
    }

    #[test]
    fn an_org_over_quota_is_in_no_table() {
        let mut one = intent(2, &[2]);
        one.set_aside = vec![(0, Verdict::Park)];
        assert_eq!(run(Delivery::found(one.clone()), |_, _, _| false, 0).done, ["2:[1]", "set aside"]);
        one.set_aside.push((1, Verdict::Drop));
        assert_eq!(run(Delivery::found(one), |_, _, _| false, 0).done, ["set aside"]);
    }

    #[test]
    fn a_piece_that_is_too_large_is_cut_down_to_one_entry_and_never_refused() {
        let mut delivery = Delivery::found(intent(2, &[2]));
        assert!(delivery.too_large());
        delivery.done();
        let Some(Step::Insert(intent, piece)) = delivery.step() else { panic!("{delivery:?}") };
        assert_eq!((piece.entries, intent.refused().count()), (0..1, 0));
        assert!(!delivery.too_large(), "one entry is tried for as long as it takes");
        assert!(matches!(delivery.step(), Some(Step::Insert(..))));
    }

    #[test]
    fn a_broken_table_is_found_with_few_inserts_and_blames_no_entry() {
        let mut delivery = Delivery::found(intent(8_192, &[2, 3]));
        let mut inserts = 0;
        for judgement in 0..5 {
            let suspects = loop {
                match delivery.step() {
                    Some(Step::Judge(_, suspects)) => break suspects,
                    Some(Step::Insert(..)) => {
                        inserts += 1;
                        delivery.refused(1);
                    }
                    _ => delivery.done(),
                }
            };
            assert_eq!(
                (suspects.len(), inserts),
                (PROBES, 1 + PROBES + judgement),
                "then one for each further attempt"
            );
            delivery.try_again();
        }
        // Mended: every entry is stored once, nobody is refused.
        let outcome = run(delivery, |_, _, _| false, 0);
        assert_eq!(outcome.last.refused().count(), 0);
        assert_eq!((outcome.stored.len(), outcome.stored.values().all(|times| *times == 1)), (2 * 8_192, true));
    }

    #[test]
    fn entries_without_rows_of_a_broken_table_do_not_make_it_look_sound() {
        let mut delivery = Delivery::found(intent(1_024, &[2]));
        let mut inserts = 0;
        for _ in 0..5 {
            let suspects = loop {
                match delivery.step() {
                    Some(Step::Judge(_, suspects)) => break suspects,
                    Some(Step::Insert(intent, piece)) => {
                        // Every second entry has rows of other tables only.
                        if intent.included(&piece).any(|entry| entry % 2 == 0) {
                            inserts += 1;
                            delivery.refused(1);
                        } else {
                            delivery.nothing_to_insert();
                        }
                    }
                    _ => delivery.done(),
                }
            };
            assert_eq!(suspects.len(), PROBES);
            delivery.try_again();
        }
        let Some(Step::Insert(intent, _)) = delivery.step() else { panic!("{delivery:?}") };
        assert_eq!(intent.refused().count(), 0, "no entry is to blame");
        assert!(inserts < 8 * PROBES, "{inserts} inserts");
    }

    #[test]
    fn a_table_that_breaks_in_the_middle_blames_few_entries() {
        // After the first bad entry was found the table takes nothing for a while.
        let breaks = |_: u8, entry: u32, insert: usize| entry == 17 || (20..60).contains(&insert);
        let outcome = run(Delivery::found(intent(1_024, &[2])), breaks, 100);
        assert!(outcome.broken > 0 && outcome.last.refused().count() <= 3, "{:?}", outcome.last.notes());
    }

    #[test]
    fn bad_entries_cost_inserts_by_their_number_and_the_logarithm_of_the_batch() {
        let count = 4_096_u32;
        for bad in [1_u32, 16, 256] {
            let every = count / bad;
            let outcome = run(Delivery::found(intent(count.into(), &[2])), |_, entry, _| entry % every == 0, 0);
            assert_eq!(outcome.last.refused().count() as u32, bad);
            let most = 2 * bad * (count.ilog2() + 2) + PROBES as u32 * 2;
            assert!(
                outcome.inserts as u32 <= most,
                "{bad} bad of {count}: {} inserts, at most {most}",
                outcome.inserts
            );
        }
    }

    proptest! {
        #[test]
        fn every_good_entry_is_stored_once_and_every_bad_one_refused(
            count in 1..40_u64,
            bad in proptest::collection::btree_set((2..4_u8, 0..40_u32), 0..20),
            broken in 0..3_usize,
        ) {
            let outcome = run(Delivery::found(intent(count, &[2, 3])), |table, entry, _| bad.contains(&(table, entry)), broken);
            for entry in 0..count as u32 {
                let first_bad = [2, 3].into_iter().find(|table| bad.contains(&(*table, entry)));
                let refused = outcome.last.refused().find(|refused| refused.entry == entry).map(|r| r.target.table);
                prop_assert_eq!(refused, first_bad);
                for table in [2, 3] {
                    let times = outcome.stored.get(&(table, entry)).copied().unwrap_or_default();
                    prop_assert_eq!(times, u32::from(first_bad.is_none_or(|first| table < first)));
                }
            }
        }
    }
}
