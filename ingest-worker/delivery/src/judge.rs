//! Decides whether refused entries are bad, or the table that refuses them is broken.
//!
//! A broken table (a setting, a missing column, a constraint that an operator added) also refuses good rows. If each
//! refused entry counted as bad, everything that arrives would end in the dead letters. So the judge remembers, per
//! table and for all shards of a worker, which entries were refused alone, until the table accepts anything.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use model::entry_id::EntryId;
use model::ids::OrgId;
use model::shard::Shard;

use super::intent::Target;

/// When entries of several orgs were refused, this many refused entries mean that the table is to blame.
pub const SEVERAL_ORGS_MIN: usize = 3;
/// When entries of only one org were refused, this many refused entries mean that the table is to blame.
pub const ONE_ORG_MIN: usize = 24;
/// How long fewer refused entries than that are tried again, while the table accepts nothing else, before they count as
/// bad. In that time inserts of other shards show whether the table accepts anything.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// The most refused entries that are remembered of a table. More would prove nothing more.
const REMEMBERED_MAX: usize = 256;

/// An entry that was refused when it was inserted alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusedAlone {
    /// The shard and the entry's id. An entry that is refused again is no more evidence.
    pub entry: (Shard, EntryId),
    /// The org of the entry; `None` when the entry is not in the stream any more.
    pub org: Option<OrgId>,
    /// The number of ClickHouse's error, such as 53 for `TYPE_MISMATCH`.
    pub code: u32,
}

/// Whether the entries or the table are to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blame {
    /// The entries: they become dead letters.
    Entries,
    /// The table: no entry is given up, and the insert is tried again until an operator repairs the table.
    Table,
    /// Not known yet: the insert is tried again.
    Undecided,
    /// The table has accepted rows since the entries were refused. So an entry that is refused from now on is bad.
    TableAccepts,
}

/// The entries that were refused since a table last accepted rows. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Judge(Arc<Mutex<HashMap<Target, Known>>>);

#[derive(Debug, Default)]
struct Known {
    accepted: Option<Instant>,
    refused: HashMap<(Shard, EntryId), RefusedAlone>,
}

impl Judge {
    /// Remembers that a table has accepted rows just now.
    pub fn accepted(&self, target: Target) {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *tables.entry(target).or_default() = Known { accepted: Some(Instant::now()), refused: HashMap::new() };
    }

    /// Judges entries that were refused alone while the table accepted nothing of their batch. `since` is when the
    /// first of them was judged first.
    pub fn judge(&self, target: Target, suspects: &[RefusedAlone], since: Instant) -> Blame {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = tables.entry(target).or_default();
        if known.accepted.is_some_and(|accepted| accepted > since) {
            return Blame::TableAccepts;
        }
        for suspect in suspects {
            if known.refused.len() < REMEMBERED_MAX {
                known.refused.insert(suspect.entry, *suspect);
            }
        }
        let Some(code) = suspects.first().map(|refused| refused.code) else { return Blame::Entries };
        let alike = || known.refused.values().filter(|refused| refused.code == code);
        let orgs = alike().map(|refused| refused.org).collect::<HashSet<_>>().len();
        if alike().count() >= if orgs > 1 { SEVERAL_ORGS_MIN } else { ONE_ORG_MIN } {
            return Blame::Table;
        }
        if since.elapsed() < PATIENCE { Blame::Undecided } else { Blame::Entries }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const SPAN: Target = Target { table: 2, version: 1 };

    fn refused(entry: u64, org: u128, code: u32) -> RefusedAlone {
        let entry = (Shard::FIRST, EntryId::new(entry, 0));
        RefusedAlone { entry, org: Some(OrgId(Uuid::from_u128(org))), code }
    }

    fn now() -> Instant {
        Instant::now()
    }

    #[test]
    fn the_table_is_blamed_when_entries_of_several_orgs_are_refused_alike() {
        let judge = Judge::default();
        assert_eq!(
            judge.judge(SPAN, &[refused(1, 1, 7), refused(2, 2, 7)], now()),
            Blame::Undecided,
            "two may be chance"
        );
        assert_eq!(judge.judge(SPAN, &[refused(2, 2, 7)], now()), Blame::Undecided, "the same entry again");
        assert_eq!(judge.judge(SPAN, &[refused(3, 1, 8)], now()), Blame::Undecided, "another code");
        assert_eq!(
            judge.judge(Target { table: 3, ..SPAN }, &[refused(3, 1, 7)], now()),
            Blame::Undecided,
            "another table"
        );
        assert_eq!(judge.judge(SPAN, &[refused(4, 1, 7)], now()), Blame::Table);
    }

    #[test]
    fn the_table_is_blamed_when_many_entries_of_one_org_are_refused() {
        let judge = Judge::default();
        let all: Vec<_> = (0..ONE_ORG_MIN as u64).map(|entry| refused(entry, 1, 7)).collect();
        assert_eq!(judge.judge(SPAN, &all[1..], now()), Blame::Undecided);
        assert_eq!(judge.judge(SPAN, &all[..1], now()), Blame::Table);
    }

    #[test]
    fn few_refused_entries_are_blamed_after_a_wait_or_once_the_table_accepts_others() {
        let judge = Judge::default();
        let (suspect, since) = ([refused(1, 1, 7)], now());
        let long_ago = since.checked_sub(PATIENCE).unwrap();
        assert_eq!(judge.judge(SPAN, &suspect, since), Blame::Undecided);
        assert_eq!(judge.judge(SPAN, &suspect, long_ago), Blame::Entries);
        judge.accepted(SPAN);
        assert_eq!(judge.judge(SPAN, &suspect, since), Blame::TableAccepts);
        assert_eq!(judge.judge(SPAN, &suspect, now()), Blame::Undecided, "refused after it accepted something");
    }
}
