//! The arithmetic of the ledger.

use std::collections::BTreeMap;

use schema::ids::OrgId;
use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::HOURS_MAX;

/// Hours since the Unix epoch, from `first` to `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The first.
    pub first: i64,
    /// The last, which is one of them.
    pub last: i64,
}

impl Window {
    /// So many hours up to that one, at least one and at most [`HOURS_MAX`].
    pub fn up_to(last: i64, hours: u32) -> Self {
        Self { first: last - i64::from(hours.clamp(1, HOURS_MAX)) + 1, last }
    }

    /// Whether an hour is one of them.
    pub const fn holds(&self, hour: i64) -> bool {
        self.first <= hour && hour <= self.last
    }

    /// All of them, in order.
    pub fn hours(&self) -> impl Iterator<Item = i64> + Clone {
        self.first..=self.last
    }
}

/// What was counted of each org's hour.
pub(super) type Counts = BTreeMap<(OrgId, i64), u64>;

/// Everything that was counted, one count of each kind.
#[derive(Debug, Default)]
pub(super) struct Counted {
    /// Accepted before anything else was looked at.
    pub(super) before: Counts,
    pub(super) in_flight: Counts,
    pub(super) parked: Counts,
    pub(super) over_quota: Counts,
    pub(super) letters: Counts,
    pub(super) dropped_letters: Counts,
    pub(super) stored: Counts,
    /// Accepted when everything else had been looked at.
    pub(super) after: Counts,
    /// Whether all that is in flight was seen.
    pub(super) is_complete: bool,
    /// Entries in flight of which it is not known how many items they hold.
    pub(super) unreadable: u64,
}

/// Set aside because the org is over its quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SetAside {
    /// Kept until the quota is raised.
    pub parked: u64,
    /// Not kept.
    pub dropped: u64,
}

/// Could not be stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DeadLettered {
    /// Kept among the dead letters.
    pub held: u64,
    /// Thrown away by an operator.
    pub dropped: u64,
}

/// What became of the items of an org that were received in an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Whose.
    pub org_id: OrgId,
    /// Hours since the Unix epoch.
    #[serde(serialize_with = "as_time")]
    pub hour: i64,
    /// Appended to a stream.
    pub accepted: u64,
    /// Billed, so in every table.
    pub stored: u64,
    /// Set aside.
    pub set_aside: SetAside,
    /// Dead letters.
    pub dead_lettered: DeadLettered,
    /// In a stream.
    pub in_flight: u64,
    /// Above zero, so many are missing; below zero, so many are there that nobody sent. What moved while it was counted is neither.
    pub residue: i64,
}

impl Row {
    /// Whether nothing is missing and nothing too much.
    pub const fn is_balanced(&self) -> bool {
        self.residue == 0
    }
}

/// The rows of a question.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Balance {
    /// One per org and hour of which anything is known, in order of org and hour.
    pub rows: Vec<Row>,
    /// Whether all that is in flight was seen. Otherwise `in_flight` is a lower bound, and nothing is called missing.
    pub is_complete: bool,
    /// Entries in flight, and dead letters, of which it is not known how many items they hold.
    pub unreadable: u64,
}

impl Balance {
    /// The sum of all residues, whichever way.
    pub fn residue(&self) -> u64 {
        self.rows.iter().map(|row| row.residue.unsigned_abs()).sum()
    }

    pub(super) fn of(counted: &Counted) -> Self {
        let Counted { before, in_flight, parked, over_quota, letters, dropped_letters, stored, after, .. } = counted;
        let all = [before, in_flight, parked, over_quota, letters, dropped_letters, stored, after];
        let mut keys: Vec<(OrgId, i64)> = all.iter().flat_map(|counts| counts.keys().copied()).collect();
        keys.sort_unstable();
        keys.dedup();
        let rows = keys.into_iter().map(|key| {
            let of = |counts: &Counts| counts.get(&key).copied().unwrap_or_default();
            let mut row = Row {
                org_id: key.0,
                hour: key.1,
                accepted: of(after),
                stored: of(stored),
                set_aside: SetAside { parked: of(parked), dropped: of(over_quota) },
                dead_lettered: DeadLettered { held: of(letters), dropped: of(dropped_letters) },
                in_flight: of(in_flight),
                residue: 0,
            };
            row.residue = residue(of(before), &row, counted.is_complete);
            row
        });
        Self { rows: rows.collect(), is_complete: counted.is_complete, unreadable: counted.unreadable }
    }
}

/// What does not add up, however the items moved while they were counted.
///
/// Places were looked at in the order in which items pass through them, so an item that was accepted `before` is found at least
/// once, unless it is nowhere: what is short is missing. An item that moved meanwhile may be found twice; so may one whose rows are
/// stored while its entry is not deleted yet. Either way one of the two is in flight, and what is too much without those is.
fn residue(before: u64, row: &Row, is_complete: bool) -> i64 {
    let at_rest =
        [row.stored, row.set_aside.parked, row.set_aside.dropped, row.dead_lettered.held, row.dead_lettered.dropped];
    let at_rest = at_rest.into_iter().fold(0, u64::saturating_add);
    let missing = before.saturating_sub(at_rest.saturating_add(row.in_flight));
    let too_much = at_rest.saturating_sub(row.accepted);
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    match (missing, too_much) {
        (0, 0) => 0,
        (0, n) => -signed(n),
        (n, _) if is_complete => signed(n),
        _ => 0,
    }
}

fn as_time<S: Serializer>(hour: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    let at = OffsetDateTime::from_unix_timestamp(hour.saturating_mul(3600)).ok();
    let text = at.and_then(|at| at.format(&Rfc3339).ok());
    serializer.serialize_str(&text.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    const KEY: (OrgId, i64) = (OrgId(Uuid::from_u128(7)), 500_000);

    fn one(n: u64) -> Counts {
        Counts::from([(KEY, n)])
    }

    fn balanced(counted: &Counted) -> Row {
        let balance = Balance::of(counted);
        let [row] = balance.rows[..] else { panic!("{balance:?}") };
        row
    }

    #[test]
    fn what_is_nowhere_is_missing_and_what_nobody_sent_is_too_much() {
        let counted = || Counted {
            before: one(100),
            after: one(100),
            stored: one(50),
            in_flight: one(20),
            parked: one(9),
            over_quota: one(8),
            letters: one(7),
            dropped_letters: one(6),
            is_complete: true,
            unreadable: 0,
        };
        assert_eq!(balanced(&counted()).residue, 0);
        assert_eq!(balanced(&Counted { stored: one(47), ..counted() }).residue, 3);
        assert_eq!(balanced(&Counted { in_flight: one(19), ..counted() }).residue, 1);
        assert_eq!(balanced(&Counted { letters: Counts::new(), ..counted() }).residue, 7);
        assert_eq!(
            balanced(&Counted { stored: one(71), ..counted() }).residue,
            -1,
            "more than a batch that is not deleted yet"
        );
        assert_eq!(
            balanced(&Counted { stored: one(47), is_complete: false, ..counted() }).residue,
            0,
            "perhaps in flight"
        );
        let nobody = Counted { stored: one(4), is_complete: true, ..Counted::default() };
        assert_eq!((balanced(&nobody).residue, balanced(&nobody).accepted), (-4, 0));
    }

    #[test]
    fn a_window_is_bounded() {
        let window = Window::up_to(500_000, 3);
        assert_eq!(window.hours().collect::<Vec<_>>(), [499_998, 499_999, 500_000]);
        assert_eq!([499_997, 499_998, 500_000, 500_001].map(|hour| window.holds(hour)), [false, true, true, false]);
        assert_eq!(Window::up_to(9, 0).hours().count(), 1);
        assert_eq!(Window::up_to(500_000, u32::MAX).hours().count(), HOURS_MAX as usize);
    }

    /// Where an item is; in the order in which places are read.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Place {
        Nowhere,
        InFlight,
        StoredNotDeleted,
        Parked,
        OverQuota,
        Letter,
        DroppedLetter,
        Stored,
    }

    impl Place {
        /// Where it may go next by itself. What an operator does is not among it: a replay, a release, a drop.
        fn next(self, choice: u8) -> Self {
            match (self, choice % 5) {
                (Self::Nowhere, _) => Self::InFlight,
                (Self::InFlight, 0) => Self::Parked,
                (Self::InFlight, 1) => Self::OverQuota,
                (Self::InFlight, 2) => Self::Letter,
                (Self::InFlight, _) => Self::StoredNotDeleted,
                (Self::StoredNotDeleted, _) => Self::Stored,
                (at, _) => at,
            }
        }
    }

    /// Items move at every moment of a reading: never a residue unless some were lost, and all that were when nothing moves.
    fn read(mut items: Vec<Place>, lost: u64, doubled: u64, mut moves: impl Iterator<Item = (usize, u8)>) -> i64 {
        let mut go = |items: &mut Vec<Place>| {
            for (at, choice) in moves.by_ref().take(3) {
                let at = at % items.len();
                items[at] = items[at].next(choice);
            }
        };
        let mut count = |items: &mut Vec<Place>, of: &[Place]| {
            go(items);
            items.iter().filter(|place| of.contains(place)).count() as u64
        };
        use Place as P;
        let everywhere =
            [P::InFlight, P::StoredNotDeleted, P::Parked, P::OverQuota, P::Letter, P::DroppedLetter, P::Stored];
        let mut counted = Counted { is_complete: true, ..Counted::default() };
        counted.before = one(count(&mut items, &everywhere) + lost);
        counted.in_flight = one(count(&mut items, &[P::InFlight, P::StoredNotDeleted]));
        counted.parked = one(count(&mut items, &[P::Parked]));
        counted.letters = one(count(&mut items, &[P::Letter]));
        counted.over_quota = one(count(&mut items, &[P::OverQuota]));
        counted.dropped_letters = one(count(&mut items, &[P::DroppedLetter]));
        counted.stored = one(count(&mut items, &[P::StoredNotDeleted, P::Stored]) + doubled);
        counted.after = one(count(&mut items, &everywhere) + lost);
        balanced(&counted).residue
    }

    fn places() -> impl Strategy<Value = Vec<Place>> {
        use Place as P;
        let any = [
            P::Nowhere,
            P::InFlight,
            P::StoredNotDeleted,
            P::Parked,
            P::OverQuota,
            P::Letter,
            P::DroppedLetter,
            P::Stored,
        ];
        proptest::collection::vec(proptest::sample::select(any.to_vec()), 1..30)
    }

    proptest! {
        #[test]
        fn what_moves_while_it_is_counted_is_no_residue(items in places(), moves in proptest::collection::vec(any::<(usize, u8)>(), 0..24)) {
            prop_assert_eq!(read(items, 0, 0, moves.into_iter()), 0);
        }

        #[test]
        fn what_is_lost_or_doubled_is_seen_when_it_has_come_to_rest(mut items in places(), lost in 0_u64..9, doubled in 0_u64..9) {
            items.retain(|place| !matches!(place, Place::InFlight | Place::StoredNotDeleted));
            items.push(Place::Stored);
            let residue = lost.cast_signed() - doubled.cast_signed();
            prop_assert_eq!(read(items, lost, doubled, std::iter::empty()), residue);
        }

        #[test]
        fn a_loss_is_never_called_too_much(items in places(), lost in 0_u64..9, moves in proptest::collection::vec(any::<(usize, u8)>(), 0..24)) {
            prop_assert!((0..=lost.cast_signed()).contains(&read(items, lost, 0, moves.into_iter())));
        }
    }
}
