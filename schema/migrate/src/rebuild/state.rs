//! Decides the next step of a rebuild from the tables that exist.
//!
//! Nothing is remembered between two runs: whatever a killed run left behind is a state like any other.

use std::fmt;

use crate::Direction;

/// The layout of the table with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// No table has the name.
    Absent,
    /// A table from before tenancy: its rows have a project and no org.
    Old,
    /// A table of today: its rows have an org.
    New,
}

/// What exists under the three names of a table: `t`, `t_v2` and `t_v1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tables {
    /// `t`: the table that all services read and write.
    pub(super) live: Layout,
    /// `t_v2`: the table that `up` fills.
    pub(super) next: Layout,
    /// `t_v1`: the table that `up` leaves behind, and that `down` goes back to.
    pub(super) kept: Layout,
}

/// One of the two tables beside the live one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alternate {
    /// `t_v2`, which [`Tables::next`] tells of.
    Next,
    /// `t_v1`, which [`Tables::kept`] tells of.
    Kept,
}

/// A step of a rebuild.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Copy every row of the live table into that one, prove it, and exchange the two.
    Fill(Alternate),
    /// Rename `t_v2` to `t_v1`.
    Keep,
    /// Drop that table, after every row of it was found in the live one.
    Drop(Alternate),
    /// The rebuild is finished.
    Done,
}

/// The next step; `None` if no run of this program leaves such tables behind.
pub(super) const fn next_action(direction: Direction, tables: Tables) -> Option<Action> {
    use Action::{Done, Drop, Fill, Keep};
    use Alternate::{Kept, Next};
    use Layout::{Absent, New, Old};
    let Tables { live, next, kept } = tables;
    Some(match direction {
        Direction::Up => match (live, next, kept) {
            (Old, New, Absent) => Fill(Next),
            // A `down` was stopped after its exchange, or before it dropped the table that running its file again had
            // made.
            (Old, New, New | Old) => Drop(Kept),
            // A `down` was stopped after its file had made the empty table.
            (New, Old, Old) => Drop(Kept),
            (New, Old, Absent) => Keep,
            // Running the file again made this table, and it is empty.
            (New, New, Absent | Old) => Drop(Next),
            (New, Absent, Absent | Old) => Done,
            _ => return None,
        },
        Direction::Down => match (live, next, kept) {
            (New, Absent, Old) => Fill(Kept),
            // An `up` was stopped between exchange and rename; the file of `down` made the empty table.
            (New, Old, Old) => Drop(Kept),
            (New, Old, Absent) => Keep,
            // A stopped `up` had made this table, and perhaps copied some rows into it.
            (New | Old, New, _) => Drop(Next),
            // The table with orgs, after the exchange; or an empty table that running the file again made.
            (Old, Absent, New | Old) => Drop(Kept),
            (Old, Absent, Absent) => Done,
            _ => return None,
        },
    })
}

impl fmt::Display for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |found| match found {
            Layout::Absent => "absent",
            Layout::Old => "without org_id",
            Layout::New => "with org_id",
        };
        write!(f, "the table is {}, its _v2 {}, its _v1 {}", word(self.live), word(self.next), word(self.kept))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The tables after the statements of the file before REBUILD, which make a table if it is missing.
    fn run_file(direction: Direction, mut tables: Tables) -> Tables {
        match direction {
            Direction::Up if tables.next == Layout::Absent => tables.next = Layout::New,
            Direction::Down if tables.kept == Layout::Absent => tables.kept = Layout::Old,
            _ => {}
        }
        tables
    }

    /// The tables at each moment at which an action can be stopped; the last element is after the action.
    fn stops(action: Action, tables: Tables) -> Vec<Tables> {
        let done = match action {
            Action::Fill(Alternate::Next) => Tables { live: tables.next, next: tables.live, ..tables },
            Action::Fill(Alternate::Kept) => Tables { live: tables.kept, kept: tables.live, ..tables },
            Action::Keep => Tables { kept: tables.next, next: Layout::Absent, ..tables },
            Action::Drop(Alternate::Next) => Tables { next: Layout::Absent, ..tables },
            Action::Drop(Alternate::Kept) => Tables { kept: Layout::Absent, ..tables },
            Action::Done => tables,
        };
        vec![tables, done]
    }

    const START: Tables = Tables { live: Layout::Old, next: Layout::Absent, kept: Layout::Absent };
    const END: Tables = Tables { live: Layout::New, next: Layout::Absent, kept: Layout::Old };

    /// Every state that any sequence of runs, up or down, each stopped anywhere, can leave behind.
    fn reachable() -> BTreeSet<String> {
        let (mut seen, mut todo) = (BTreeSet::new(), vec![START, Tables { kept: Layout::Absent, ..END }]);
        while let Some(tables) = todo.pop() {
            if !seen.insert(format!("{tables:?}")) {
                continue;
            }
            for direction in [Direction::Up, Direction::Down] {
                let mut now = run_file(direction, tables);
                todo.push(now);
                for _ in 0..STEPS_MAX {
                    let action = next_action(direction, now);
                    let action = action.unwrap_or_else(|| panic!("{direction:?} is stuck: {now}"));
                    todo.extend(stops(action, now));
                    now = stops(action, now)[1];
                    if action == Action::Done {
                        break;
                    }
                }
                let wanted = match direction {
                    Direction::Up => now.live == Layout::New && now.next == Layout::Absent && now.kept != Layout::New,
                    Direction::Down => now == START,
                };
                assert!(wanted, "{direction:?} from {tables} ends in {now}");
            }
        }
        seen
    }

    const STEPS_MAX: usize = 6;

    #[test]
    fn a_rebuild_converges_wherever_an_earlier_run_was_stopped() {
        let states = reachable();
        assert!(states.len() >= 10, "{states:#?}");
    }

    #[test]
    fn a_rebuild_fills_the_new_table_and_keeps_the_old_one() {
        let mut tables = run_file(Direction::Up, START);
        let mut actions = Vec::new();
        while actions.last() != Some(&Action::Done) {
            let action = next_action(Direction::Up, tables).unwrap();
            tables = stops(action, tables)[1];
            actions.push(action);
        }
        assert_eq!(actions, [Action::Fill(Alternate::Next), Action::Keep, Action::Done]);
        assert_eq!(tables, END);
    }

    #[test]
    fn table_states_that_no_run_leaves_behind_are_not_touched() {
        use Layout::{Absent, New, Old};
        for (live, next, kept) in [(Absent, New, Absent), (Old, Absent, Absent), (Old, Old, Absent), (New, Old, New)] {
            assert_eq!(next_action(Direction::Up, Tables { live, next, kept }), None);
        }
        for (live, next, kept) in [(Absent, Absent, Old), (New, Absent, New), (New, Absent, Absent)] {
            assert_eq!(next_action(Direction::Down, Tables { live, next, kept }), None);
        }
    }
}
