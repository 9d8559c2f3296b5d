//! The arithmetic of the ledger, without I/O.

use std::collections::{BTreeMap, BTreeSet};

use model::ids::OrgId;
use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::HOURS_MAX;

/// Hours since the Unix epoch, in order; there may be gaps between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hours(Vec<i64>);

impl Hours {
    /// The `hours` hours that end with `last`, at least one and at most [`HOURS_MAX`].
    pub fn up_to(last: i64, hours: u32) -> Self {
        Self((last - i64::from(hours.clamp(1, HOURS_MAX)) + 1..=last).collect())
    }

    /// A set of single hours.
    pub fn of(hours: BTreeSet<i64>) -> Self {
        Self(hours.into_iter().collect())
    }

    /// Whether the set contains an hour.
    pub fn contains(&self, hour: i64) -> bool {
        self.0.binary_search(&hour).is_ok()
    }

    /// Iterates over the hours, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = i64> + Clone + '_ {
        self.0.iter().copied()
    }

    pub(super) fn as_slice(&self) -> &[i64] {
        &self.0
    }
}

/// A group of orgs that are counted together, so that all orgs can be balanced without counting each: 1 of
/// `Bucket::COUNT`, by the last bits of the org's id. In one bucket and hour, opposite imbalances of two orgs hide
/// each other; those of one org never do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bucket(pub(super) u16);

impl Bucket {
    /// The number of buckets.
    pub(super) const COUNT: u16 = 1_024;
}

impl From<OrgId> for Bucket {
    fn from(org: OrgId) -> Self {
        // Less than COUNT, which is a power of two.
        Self((org.0.as_u128() & u128::from(Self::COUNT - 1)) as u16)
    }
}

/// The key of a count: an org, or a bucket of orgs.
pub(super) trait Group: Copy + Ord + From<OrgId> {
    /// Whether this type is a bucket.
    const IS_BUCKET: bool;

    /// The bucket with that number; `None` if this type is not a bucket.
    fn of_bucket(number: u16) -> Option<Self>;

    /// The org; `None` if this type is a bucket.
    fn org(self) -> Option<OrgId>;
}

impl Group for OrgId {
    const IS_BUCKET: bool = false;

    fn of_bucket(_number: u16) -> Option<Self> {
        None
    }

    fn org(self) -> Option<Self> {
        Some(self)
    }
}

impl Group for Bucket {
    const IS_BUCKET: bool = true;

    fn of_bucket(number: u16) -> Option<Self> {
        Some(Self(number))
    }

    fn org(self) -> Option<OrgId> {
        None
    }
}

/// Number of items by group and hour.
pub(super) type Counts<G> = BTreeMap<(G, i64), u64>;

/// All counts, one of each kind.
#[derive(Debug)]
pub(super) struct Counted<G> {
    /// Answered with a 2xx, by the API's own count. Read before anything else.
    pub(super) answered: Counts<G>,
    /// Accepted into a stream, read before the places that follow.
    pub(super) before: Counts<G>,
    pub(super) in_flight: Counts<G>,
    pub(super) parked: Counts<G>,
    pub(super) over_quota: Counts<G>,
    pub(super) letters: Counts<G>,
    pub(super) dropped_letters: Counts<G>,
    pub(super) stored: Counts<G>,
    /// Accepted into a stream, read again after everything else.
    pub(super) after: Counts<G>,
    /// Whether all entries in flight were read.
    pub(super) is_complete: bool,
    /// Number of entries in flight that could not be read, so that their items are not counted.
    pub(super) unreadable: u64,
}

impl<G: Group> Counted<G> {
    /// No items anywhere, to add to.
    pub(super) const fn nothing() -> Self {
        Self {
            answered: Counts::new(),
            before: Counts::new(),
            in_flight: Counts::new(),
            parked: Counts::new(),
            over_quota: Counts::new(),
            letters: Counts::new(),
            dropped_letters: Counts::new(),
            stored: Counts::new(),
            after: Counts::new(),
            is_complete: true,
            unreadable: 0,
        }
    }

    /// All groups and hours that have any count, in order.
    pub(super) fn amounts(&self) -> impl Iterator<Item = ((G, i64), Amounts)> + '_ {
        let Self { answered, before, in_flight, parked, over_quota, letters, dropped_letters, stored, after, .. } =
            self;
        let all = [answered, before, in_flight, parked, over_quota, letters, dropped_letters, stored, after];
        let mut keys: Vec<(G, i64)> = all.iter().flat_map(|counts| counts.keys().copied()).collect();
        keys.sort_unstable();
        keys.dedup();
        keys.into_iter().map(|key| {
            let of = |counts: &Counts<G>| counts.get(&key).copied().unwrap_or_default();
            let mut amounts = Amounts {
                accepted: of(after),
                answered: of(answered),
                stored: of(stored),
                withheld: Withheld { parked: of(parked), dropped: of(over_quota) },
                dead_lettered: DeadLettered { held: of(letters), dropped: of(dropped_letters) },
                in_flight: of(in_flight),
                imbalance: 0,
            };
            amounts.imbalance = imbalance(of(before), &amounts, self.is_complete);
            (key, amounts)
        })
    }
}

/// Accepted items that are not billed, because the org is over its quota, or because they are repeated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Withheld {
    /// Parked until they are released or dropped.
    pub parked: u64,
    /// Dropped, or not billed because they are repeated.
    pub dropped: u64,
}

/// Items that could not be stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DeadLettered {
    /// Kept among the dead letters.
    pub held: u64,
    /// Dropped by an operator.
    pub dropped: u64,
}

/// The amounts of items that were received in one hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Amounts {
    /// Appended to a stream, as counted by Redis.
    pub accepted: u64,
    /// Answered with a 2xx, as counted by the API. Less than `accepted` when an API process was killed, or an answer
    /// was lost.
    pub answered: u64,
    /// Billed, and so stored in every table.
    pub stored: u64,
    /// Parked, dropped over quota, or repeated.
    pub withheld: Withheld,
    /// Kept among the dead letters, or dropped from there.
    pub dead_lettered: DeadLettered,
    /// In entries of a stream.
    pub in_flight: u64,
    /// Positive: so many items are missing. Negative: there are so many too many. Items that moved during the count do
    /// not contribute.
    pub imbalance: i64,
}

/// The amounts of the items of an org that were received in one hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The org that sent the items.
    pub org_id: OrgId,
    /// Hours since the Unix epoch.
    #[serde(serialize_with = "as_time")]
    pub hour: i64,
    /// The number of items in each place.
    #[serde(flatten)]
    pub amounts: Amounts,
}

impl Row {
    /// Whether the imbalance is 0.
    pub const fn is_balanced(&self) -> bool {
        self.amounts.imbalance == 0
    }
}

/// The rows of a balance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Balance {
    /// One row per org and hour with any count, sorted by org and hour.
    pub rows: Vec<Row>,
    /// Whether `rows` has all of them. If not, there were more than [`super::ROWS_MAX`], and only orgs that do not
    /// balance are listed.
    pub is_whole: bool,
    /// Whether all entries in flight were read. If not, `in_flight` is a lower bound, and no item is reported as
    /// missing.
    pub is_complete: bool,
    /// Number of entries in flight and dead letters that could not be read, so that their items are not counted.
    pub unreadable: u64,
}

impl Balance {
    /// The sum of the absolute values of all imbalances.
    pub fn imbalance(&self) -> u64 {
        self.rows.iter().map(|row| row.amounts.imbalance.unsigned_abs()).sum()
    }

    pub(super) fn of(counted: &Counted<OrgId>) -> Self {
        let rows = counted.amounts().map(|((org_id, hour), amounts)| Row { org_id, hour, amounts });
        let (is_complete, unreadable) = (counted.is_complete, counted.unreadable);
        Self { rows: rows.collect(), is_whole: true, is_complete, unreadable }
    }
}

/// The imbalance, regardless of how items moved while they were counted.
///
/// Places are read in the order in which items pass through them, so an item that was accepted `before` is found at
/// least once, unless it is lost: a shortfall means missing items. An item that moved meanwhile may be found twice; so
/// may an item whose rows are stored while its entry is not deleted yet. In both cases one of the two finds is in
/// flight, so only an excess without the items in flight is an imbalance.
///
/// What the API has answered was in a stream before, so it was accepted, even if Redis has lost both the entry and its
/// count.
fn imbalance(before: u64, row: &Amounts, is_complete: bool) -> i64 {
    let at_rest =
        [row.stored, row.withheld.parked, row.withheld.dropped, row.dead_lettered.held, row.dead_lettered.dropped];
    let at_rest = at_rest.into_iter().fold(0, u64::saturating_add);
    let missing = before.max(row.answered).saturating_sub(at_rest.saturating_add(row.in_flight));
    let too_much = at_rest.saturating_sub(row.accepted.max(row.answered));
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

    fn one(n: u64) -> Counts<OrgId> {
        Counts::from([(KEY, n)])
    }

    fn balanced(counted: &Counted<OrgId>) -> Amounts {
        let balance = Balance::of(counted);
        let [row] = balance.rows[..] else { panic!("{balance:?}") };
        row.amounts
    }

    #[test]
    fn an_imbalance_is_positive_for_lost_items_and_negative_for_extra_ones() {
        let counted = || Counted {
            before: one(100),
            after: one(100),
            stored: one(50),
            in_flight: one(20),
            parked: one(9),
            over_quota: one(8),
            letters: one(7),
            dropped_letters: one(6),
            ..Counted::nothing()
        };
        assert_eq!(balanced(&counted()).imbalance, 0);
        assert_eq!(balanced(&Counted { stored: one(47), ..counted() }).imbalance, 3);
        assert_eq!(balanced(&Counted { in_flight: one(19), ..counted() }).imbalance, 1);
        assert_eq!(balanced(&Counted { letters: Counts::<OrgId>::new(), ..counted() }).imbalance, 7);
        assert_eq!(
            balanced(&Counted { stored: one(71), ..counted() }).imbalance,
            -1,
            "more than a batch that is not deleted yet"
        );
        assert_eq!(
            balanced(&Counted { stored: one(47), is_complete: false, ..counted() }).imbalance,
            0,
            "perhaps in flight"
        );
        let nobody = Counted { stored: one(4), ..Counted::nothing() };
        assert_eq!((balanced(&nobody).imbalance, balanced(&nobody).accepted), (-4, 0));
    }

    #[test]
    fn items_the_api_acknowledged_count_as_accepted_whatever_redis_says() {
        let counted = |accepted, answered, stored| Counted {
            before: one(accepted),
            after: one(accepted),
            answered: one(answered),
            stored: one(stored),
            ..Counted::nothing()
        };
        assert_eq!(balanced(&counted(70, 100, 70)).imbalance, 30, "entries were lost with their count");
        assert_eq!(balanced(&counted(0, 100, 100)).imbalance, 0, "the count was lost, and no item");
        assert_eq!(balanced(&counted(100, 60, 100)).imbalance, 0, "an API was killed before it wrote its count down");
        assert_eq!(balanced(&counted(0, 0, 100)).imbalance, -100);
    }

    #[test]
    fn orgs_of_a_bucket_are_found_by_the_last_bits_of_their_ids() {
        let bucket = |n: u128| Bucket::from(OrgId(Uuid::from_u128(n)));
        assert_eq!([bucket(0), bucket(1_023), bucket(1_024), bucket(5_121)].map(|bucket| bucket.0), [0, 1_023, 0, 1]);
    }

    #[test]
    fn hours_are_bounded() {
        let hours = Hours::up_to(500_000, 3);
        assert_eq!(hours.iter().collect::<Vec<_>>(), [499_998, 499_999, 500_000]);
        assert_eq!([499_997, 499_998, 500_000, 500_001].map(|hour| hours.contains(hour)), [false, true, true, false]);
        assert_eq!(Hours::up_to(9, 0).iter().count(), 1);
        assert_eq!(Hours::up_to(500_000, u32::MAX).iter().count(), HOURS_MAX as usize);
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
        /// Where it may go next by itself. Actions of an operator are not included: a replay, a release, a drop.
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

    /// Items move at every moment of a reading. There is no imbalance unless items were lost, and all of those are
    /// found once nothing moves.
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
        let mut counted = Counted::nothing();
        counted.before = one(count(&mut items, &everywhere) + lost);
        counted.in_flight = one(count(&mut items, &[P::InFlight, P::StoredNotDeleted]));
        counted.parked = one(count(&mut items, &[P::Parked]));
        counted.letters = one(count(&mut items, &[P::Letter]));
        counted.over_quota = one(count(&mut items, &[P::OverQuota]));
        counted.dropped_letters = one(count(&mut items, &[P::DroppedLetter]));
        counted.stored = one(count(&mut items, &[P::StoredNotDeleted, P::Stored]) + doubled);
        counted.after = one(count(&mut items, &everywhere) + lost);
        balanced(&counted).imbalance
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
        fn items_that_move_during_the_count_are_no_imbalance(items in places(), moves in proptest::collection::vec(any::<(usize, u8)>(), 0..24)) {
            prop_assert_eq!(read(items, 0, 0, moves.into_iter()), 0);
        }

        #[test]
        fn lost_or_doubled_items_are_an_imbalance_once_nothing_moves(mut items in places(), lost in 0_u64..9, doubled in 0_u64..9) {
            items.retain(|place| !matches!(place, Place::InFlight | Place::StoredNotDeleted));
            items.push(Place::Stored);
            let imbalance = lost.cast_signed() - doubled.cast_signed();
            prop_assert_eq!(read(items, lost, doubled, std::iter::empty()), imbalance);
        }

        #[test]
        fn a_loss_is_never_reported_as_a_surplus(items in places(), lost in 0_u64..9, moves in proptest::collection::vec(any::<(usize, u8)>(), 0..24)) {
            prop_assert!((0..=lost.cast_signed()).contains(&read(items, lost, 0, moves.into_iter())));
        }
    }
}
