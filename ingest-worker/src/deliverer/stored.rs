//! Looks in ClickHouse whether rows of a piece are stored already.

use std::collections::{BTreeMap, BTreeSet};

use delivery::intent::{Intent, Piece};
use model::ids::OrgId;
use model::meter::period;
use model::shard::Waiting;
use wire::tables::Table;

use super::entries::Unreadable;
use super::{Deliverer, LeaseLost};
use crate::backoff::Backoff;

/// How many entries are read at a time to find one of each month.
const LOOK_ENTRIES: usize = 16;
/// The largest difference, in ms, between the time in an entry's id and the time at which its request was received.
const RECEIVED_WITHIN_MS: u64 = 86_400_000;

/// The calendar months of a piece whose rows are stored, and those whose rows are not. All rows of a month are one
/// part, so they are stored together or not at all.
#[derive(Debug, Default)]
pub(super) struct Months {
    pub(super) stored: Vec<u32>,
    pub(super) missing: Vec<u32>,
    /// Whether the piece has months without an envelope that can be looked for. Then only the token can tell.
    is_unknown: bool,
}

impl Months {
    /// Whether all rows are certainly stored.
    pub(super) fn are_stored(&self) -> bool {
        self.missing.is_empty() && !self.is_unknown
    }
}

impl Deliverer {
    /// Checks by one envelope of each month whether rows of a piece are stored. Envelopes without a content id cannot
    /// be used for it: those from before tenancy, and those that were replayed or released, have the same receipt time
    /// as other rows that are stored already.
    pub(super) async fn find_stored(
        &self,
        intent: &Intent,
        piece: &Piece,
        table: &'static Table,
    ) -> Result<Result<Months, Unreadable>, LeaseLost> {
        let mut probes: BTreeMap<u32, (OrgId, i64)> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let entries: Vec<usize> = intent.included(piece).collect();
        let is_one_month = is_of_one_month(entries.iter().map(|entry| intent.entries[*entry].ms()));
        for some in entries.chunks(LOOK_ENTRIES) {
            let read = self.each_entry(intent, some, |envelope| {
                let (org, received_at) = (envelope.header.org_id, envelope.header.received_at);
                if envelope.sections.iter().any(|section| section.table == table) {
                    seen.insert(period(received_at));
                    if !envelope.header.content_id.is_none() {
                        probes.entry(period(received_at)).or_insert((org, received_at));
                    }
                }
            });
            if let Err(unreadable) = read.await? {
                return Ok(Err(unreadable));
            }
            if is_one_month && !probes.is_empty() {
                break;
            }
        }
        let is_unknown = seen.iter().any(|month| !probes.contains_key(month));
        let (mut months, mut backoff) = (Months { is_unknown, ..Months::default() }, Backoff::new());
        for (month, (org, received_at)) in probes {
            loop {
                match self.records.has_rows(table.name, org, received_at).await {
                    Ok(true) => months.stored.push(month),
                    Ok(false) => months.missing.push(month),
                    Err(error) => {
                        let shard = self.stream.shard().number();
                        tracing::warn!(shard, %error, "could not look whether rows are stored; trying again");
                        self.wait(Waiting::ClickHouse, &mut backoff).await?;
                        continue;
                    }
                }
                break;
            }
        }
        Ok(Ok(months))
    }
}

/// Whether entries appended at these times, in ms since the Unix epoch, were certainly received in one calendar month.
fn is_of_one_month(appended_ms: impl Iterator<Item = u64> + Clone) -> bool {
    let month = |ms: u64| period(i64::try_from(ms.saturating_mul(1_000_000)).unwrap_or(i64::MAX));
    let earliest = appended_ms.clone().min().map(|ms| month(ms.saturating_sub(RECEIVED_WITHIN_MS)));
    earliest == appended_ms.max().map(|ms| month(ms.saturating_add(RECEIVED_WITHIN_MS)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_near_a_month_boundary_count_as_of_two_months() {
        const NOV_15: u64 = 1_794_700_800_000;
        const DEC_1: u64 = 1_796_083_200_000;
        assert!(is_of_one_month([NOV_15, NOV_15 + 1].into_iter()));
        assert!(!is_of_one_month([NOV_15, DEC_1 + 1].into_iter()));
        assert!(!is_of_one_month([DEC_1 - 1].into_iter()), "it may have been received later, by another clock");
        assert!(is_of_one_month([DEC_1 + 2 * RECEIVED_WITHIN_MS].into_iter()));
    }
}
