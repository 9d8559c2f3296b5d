//! The steps of a delivery, against a ClickHouse that is a function.

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

/// The result of one delivery in a test.
#[derive(Default)]
struct Outcome {
    done: Vec<String>,
    /// How often each entry's rows were stored, by table and entry.
    stored: BTreeMap<(u8, u32), u32>,
    inserts: usize,
    broken: usize,
    last: Arc<Intent>,
}

/// Delivers a batch to a model of ClickHouse that refuses the rows for which `bad` is true. `broken` says how many
/// times the table is judged to be broken.
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
            Step::Withhold(_) => outcome.done.push("withheld".into()),
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
fn entries_of_an_org_over_quota_are_inserted_nowhere() {
    let mut one = intent(2, &[2]);
    one.withheld = vec![(0, Verdict::Park)];
    assert_eq!(run(Delivery::found(one.clone()), |_, _, _| false, 0).done, ["2:[1]", "withheld"]);
    one.withheld.push((1, Verdict::Drop));
    assert_eq!(run(Delivery::found(one), |_, _, _| false, 0).done, ["withheld"]);
}

#[test]
fn a_too_large_piece_is_split_down_to_one_entry_and_never_refused() {
    let mut delivery = Delivery::found(intent(2, &[2]));
    assert!(delivery.too_large());
    delivery.done();
    let Some(Step::Insert(intent, piece)) = delivery.step() else { panic!("{delivery:?}") };
    assert_eq!((piece.entries, intent.refused().count()), (0..1, 0));
    assert!(!delivery.too_large(), "one entry is tried for as long as it takes");
    assert!(matches!(delivery.step(), Some(Step::Insert(..))));
}

#[test]
fn a_broken_table_is_detected_in_few_inserts_and_no_entry_is_blamed() {
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
        assert_eq!((suspects.len(), inserts), (PROBES, 1 + PROBES + judgement), "then one for each further attempt");
        delivery.try_again();
    }
    // After the repair every entry is stored once, and none is refused.
    let outcome = run(delivery, |_, _, _| false, 0);
    assert_eq!(outcome.last.refused().count(), 0);
    assert_eq!((outcome.stored.len(), outcome.stored.values().all(|times| *times == 1)), (2 * 8_192, true));
}

#[test]
fn entries_without_rows_do_not_make_a_broken_table_look_healthy() {
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
fn few_entries_are_blamed_when_a_table_breaks_mid_delivery() {
    // After the first bad entry was found the table takes nothing for a while.
    let breaks = |_: u8, entry: u32, insert: usize| entry == 17 || (20..60).contains(&insert);
    let outcome = run(Delivery::found(intent(1_024, &[2])), breaks, 100);
    assert!(outcome.broken > 0 && outcome.last.refused().count() <= 3, "{:?}", outcome.last.notes());
}

#[test]
fn each_bad_entry_costs_inserts_logarithmic_in_the_batch_size() {
    let count = 4_096_u32;
    for bad in [1_u32, 16, 256] {
        let every = count / bad;
        let outcome = run(Delivery::found(intent(count.into(), &[2])), |_, entry, _| entry % every == 0, 0);
        assert_eq!(outcome.last.refused().count() as u32, bad);
        let most = 2 * bad * (count.ilog2() + 2) + PROBES as u32 * 2;
        assert!(outcome.inserts as u32 <= most, "{bad} bad of {count}: {} inserts, at most {most}", outcome.inserts);
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
