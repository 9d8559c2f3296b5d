//! Reads all counts in an order that misses no moving item: first what was answered and accepted, then every place in
//! the order in which items pass through them, and at the end what was accepted once more.
//!
//! A large deployment has too many orgs to count each: orgs are counted in buckets, and only the orgs of a bucket that
//! does not balance are counted one by one.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt, TryStreamExt, stream};
use model::ids::OrgId;
use model::shard::Shard;
use outcomes::{DROPPED, Outcome, is_outcome};
use stores::clickhouse::{Records, Tally, TallyOf};
use stores::keys::RedisKey;
use stores::redis::Redis;

use super::balance::{Bucket, Counted, Counts, Group};
use super::filter::{Filter, Scope};
use super::transit::Transit;
use super::{Balance, Hours, LedgerError};

/// The most orgs and hours in one balance.
pub const ROWS_MAX: usize = 100_000;
/// The most orgs for which one balance reads parked and dropped items. Each takes two requests to Redis.
pub const WITHHELD_ORGS_MAX: usize = 5_000;
/// How many orgs are read at the same time.
const ASKED_AT_A_TIME: usize = 16;
/// The most buckets that one check counts org by org.
pub(super) const DRILLED_MAX: usize = 32;
/// The most fields of a hash that one command reads.
const PAGE_FIELDS: usize = 500;

/// The result of a check of all orgs.
#[derive(Debug, Default)]
pub struct Check {
    /// Buckets and hours that do not balance, with the size of the imbalance in items.
    pub imbalances: BTreeMap<(Bucket, i64), i64>,
    /// Buckets that were counted org by org.
    pub drilled: BTreeSet<Bucket>,
    /// The balance of their orgs, for the hours that do not balance.
    pub balance: Balance,
    /// The hours that were counted org by org.
    pub drilled_hours: BTreeSet<i64>,
    /// Whether all entries in flight were read.
    pub is_complete: bool,
    /// Number of entries in flight that could not be read, so that their items are not counted.
    pub unreadable: u64,
}

/// Reads the counts of a deployment. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LedgerReader {
    redis: Redis,
    records: Records,
}

impl LedgerReader {
    /// Reads from that Redis and that ClickHouse.
    pub const fn new(redis: Redis, records: Records) -> Self {
        Self { redis, records }
    }

    /// The amounts of all items received in those hours. If there are more than [`ROWS_MAX`] orgs and hours, only some
    /// that do not balance.
    pub async fn balance(&self, scope: Scope, hours: &Hours) -> Result<Balance, LedgerError> {
        let filter = match scope {
            Scope::Everyone => Filter::Everyone,
            Scope::Org(org) => Filter::Org(org),
        };
        match self.count::<OrgId>(filter, hours).await {
            Ok(counted) => Ok(Balance::of(&counted)),
            Err(LedgerError::TooMany) => {
                let check = self.check(hours, &BTreeSet::new(), 0).await?;
                let mut rows = check.balance.rows;
                rows.retain(|row| !row.is_balanced());
                let (is_complete, unreadable) = (check.is_complete, check.unreadable);
                Ok(Balance { rows, is_whole: false, is_complete, unreadable })
            }
            Err(other) => Err(other),
        }
    }

    /// Balances the buckets of all orgs, and then the orgs of buckets that do not balance or are in `known`, at most
    /// `DRILLED_MAX` buckets. The number of the check (`turn`) rotates through them.
    pub async fn check(
        &self,
        hours: &Hours,
        known: &BTreeSet<(Bucket, i64)>,
        turn: usize,
    ) -> Result<Check, LedgerError> {
        let counted = self.count::<Bucket>(Filter::Everyone, hours).await?;
        let off = counted.amounts().filter(|(_, amounts)| amounts.imbalance != 0);
        let imbalances: BTreeMap<_, _> = off.map(|(of, amounts)| (of, amounts.imbalance)).collect();
        let mut all: Vec<Bucket> = imbalances.keys().chain(known).map(|(bucket, _)| *bucket).collect();
        all.sort_unstable();
        all.dedup();
        // Start where the last check ended.
        let begin = if all.is_empty() { 0 } else { turn.wrapping_mul(DRILLED_MAX) % all.len() };
        all.rotate_left(begin);
        let drilled: BTreeSet<Bucket> = all.into_iter().take(DRILLED_MAX).collect();
        let suspects = imbalances.keys().chain(known).filter(|(bucket, _)| drilled.contains(bucket));
        let drilled_hours: BTreeSet<i64> =
            suspects.map(|(_, hour)| *hour).filter(|hour| hours.contains(*hour)).collect();
        let mut check = Check {
            imbalances,
            drilled,
            drilled_hours,
            balance: Balance::default(),
            is_complete: counted.is_complete,
            unreadable: counted.unreadable,
        };
        while !check.drilled_hours.is_empty() {
            let filter = Filter::Buckets(&check.drilled);
            match self.count::<OrgId>(filter, &Hours::of(check.drilled_hours.clone())).await {
                Ok(counted) => {
                    check.is_complete &= counted.is_complete;
                    check.balance = Balance::of(&counted);
                    break;
                }
                // Try fewer buckets, as long as there are several.
                Err(LedgerError::TooMany) if check.drilled.len() > 1 => {
                    let half = check.drilled.len() / 2;
                    check.drilled = check.drilled.into_iter().take(half).collect();
                }
                Err(other) => return Err(other),
            }
        }
        Ok(check)
    }

    async fn count<G: Group>(&self, filter: Filter<'_>, hours: &Hours) -> Result<Counted<G>, LedgerError> {
        let mut counted = Counted::nothing();
        counted.answered = self.tallied(Tally::Answered, filter, hours).await?;
        counted.before = self.by_shard(filter, hours, RedisKey::shard_accepted).await?;
        let mut transit = Transit::new(&self.redis, filter, hours);
        counted.in_flight = transit.in_flight().await?;
        counted.letters = transit.letters().await?;
        (counted.is_complete, counted.unreadable) = (transit.is_complete, transit.unreadable);
        counted.dropped_letters = self.by_shard(filter, hours, RedisKey::shard_dlq_dropped).await?;
        counted.stored = self.tallied(Tally::Stored, filter, hours).await?;
        self.count_withheld(filter, hours, &mut counted).await?;
        counted.after = self.by_shard(filter, hours, RedisKey::shard_accepted).await?;
        Ok(counted)
    }

    /// Counts that are hashes by org, per shard and hour; they are read page by page. All hours of a shard are in one
    /// slot.
    async fn by_shard<G: Group>(
        &self,
        filter: Filter<'_>,
        hours: &Hours,
        key: fn(Shard, i64) -> RedisKey,
    ) -> Result<Counts<G>, LedgerError> {
        let mut counts = Counts::new();
        for shard in Shard::all() {
            if let Filter::Org(org) = filter {
                let mut pipe = redis::pipe();
                hours.iter().for_each(|hour| {
                    pipe.cmd("HGET").arg(key(shard, hour)).arg(org.to_string());
                });
                let found: Vec<Option<i64>> = pipe.query_async(&mut self.redis.clone()).await?;
                for (hour, items) in hours.iter().zip(found) {
                    add(&mut counts, G::from(org), hour, items.unwrap_or_default());
                }
                continue;
            }
            for ((org, hour), items) in self.pages(shard, hours, key).await? {
                if filter.contains(org) {
                    add(&mut counts, G::from(org), hour, items);
                }
            }
            bounded(&counts)?;
        }
        Ok(counts)
    }

    /// All fields of a shard's hashes. A field that exists from the beginning is found, and one found twice counts
    /// once.
    async fn pages(
        &self,
        shard: Shard,
        hours: &Hours,
        key: fn(Shard, i64) -> RedisKey,
    ) -> Result<BTreeMap<(OrgId, i64), i64>, LedgerError> {
        let mut found = BTreeMap::new();
        let mut open: Vec<(i64, String)> = hours.iter().map(|hour| (hour, "0".to_owned())).collect();
        while !open.is_empty() {
            let mut pipe = redis::pipe();
            for (hour, cursor) in &open {
                pipe.cmd("HSCAN").arg(key(shard, *hour)).arg(cursor).arg("COUNT").arg(PAGE_FIELDS);
            }
            let pages: Vec<(String, Vec<(String, i64)>)> = pipe.query_async(&mut self.redis.clone()).await?;
            for ((hour, cursor), (next, fields)) in open.iter_mut().zip(pages) {
                // Skip a field that is not an org's id.
                let orgs = fields.into_iter().filter_map(|(org, items)| Some((org.parse().ok()?, items)));
                found.extend(orgs.map(|(org, items)| ((org, *hour), items)));
                *cursor = next;
            }
            open.retain(|(_, cursor)| cursor != "0");
        }
        Ok(found)
    }

    /// Parked and dropped items. Which orgs have any is noted by shard and hour; orgs with missing items are read as
    /// well, because a worker of an older release may have noted nothing.
    async fn count_withheld<G: Group>(
        &self,
        filter: Filter<'_>,
        hours: &Hours,
        counted: &mut Counted<G>,
    ) -> Result<(), LedgerError> {
        let mut orgs = BTreeSet::new();
        if let Filter::Org(org) = filter {
            orgs.insert(org);
        } else {
            self.orgs_with_withheld(filter, hours, &mut orgs).await?;
            let short = counted.amounts().filter(|(_, amounts)| amounts.imbalance > 0);
            orgs.extend(short.filter_map(|((group, _), _)| group.org()));
        }
        if orgs.len() > WITHHELD_ORGS_MAX {
            counted.is_complete = false;
        }
        let counts = stream::iter(orgs.into_iter().take(WITHHELD_ORGS_MAX)).map(|org| async move {
            let (mut transit, mut parked) = (Transit::new(&self.redis, filter, hours), Counts::<G>::new());
            transit.parked(org, &mut parked).await?;
            let dropped = self.dropped(org, hours).await?;
            Ok::<_, LedgerError>((org, transit.is_complete, transit.unreadable, parked, dropped))
        });
        let mut counts = counts.buffer_unordered(ASKED_AT_A_TIME);
        while let Some((org, is_complete, unreadable, parked, dropped)) = counts.try_next().await? {
            counted.is_complete &= is_complete;
            counted.unreadable += unreadable;
            for ((group, hour), items) in parked {
                *counted.parked.entry((group, hour)).or_default() += items;
            }
            for (hour, items) in dropped.into_iter().filter(|(_, items)| *items > 0) {
                *counted.over_quota.entry((G::from(org), hour)).or_default() += items;
            }
        }
        Ok(())
    }

    /// The orgs noted as having parked or dropped items; it stops soon after [`WITHHELD_ORGS_MAX`].
    async fn orgs_with_withheld(
        &self,
        filter: Filter<'_>,
        hours: &Hours,
        orgs: &mut BTreeSet<OrgId>,
    ) -> Result<(), LedgerError> {
        for shard in Shard::all() {
            let mut open: Vec<(i64, String)> = hours.iter().map(|hour| (hour, "0".to_owned())).collect();
            while !open.is_empty() && orgs.len() <= WITHHELD_ORGS_MAX {
                let mut pipe = redis::pipe();
                for (hour, cursor) in &open {
                    pipe.cmd("SSCAN")
                        .arg(RedisKey::shard_aside(shard, *hour))
                        .arg(cursor)
                        .arg("COUNT")
                        .arg(PAGE_FIELDS);
                }
                let pages: Vec<(String, Vec<String>)> = pipe.query_async(&mut self.redis.clone()).await?;
                for ((_, cursor), (next, members)) in open.iter_mut().zip(pages) {
                    orgs.extend(members.iter().filter_map(|org| org.parse().ok()).filter(|org| filter.contains(*org)));
                    *cursor = next;
                }
                open.retain(|(_, cursor)| cursor != "0");
            }
        }
        Ok(())
    }

    /// Items that a worker dropped because the org is over its quota, or did not bill because they are repeated: it
    /// writes that into the org's outcomes before it deletes the entry.
    async fn dropped(&self, org: OrgId, hours: &Hours) -> Result<Vec<(i64, u64)>, LedgerError> {
        let mut open: Vec<(i64, String)> = hours.iter().map(|hour| (hour, "0".to_owned())).collect();
        let mut found = BTreeMap::<(i64, String), u64>::new();
        while !open.is_empty() {
            let mut pipe = redis::pipe();
            for (hour, cursor) in &open {
                pipe.cmd("HSCAN").arg(RedisKey::outcomes(Some(org), *hour)).arg(cursor).arg("COUNT").arg(PAGE_FIELDS);
            }
            let pages: Vec<(String, Vec<(String, u64)>)> = pipe.query_async(&mut self.redis.clone()).await?;
            for ((hour, cursor), (next, fields)) in open.iter_mut().zip(pages) {
                let is_dropped = |field: &str| {
                    [Outcome::OverQuota, Outcome::Repeated].iter().any(|why| is_outcome(field, *why, DROPPED))
                };
                let dropped = fields.into_iter().filter(|(field, _)| is_dropped(field));
                found.extend(dropped.map(|(field, items)| ((*hour, field), items)));
                *cursor = next;
            }
            open.retain(|(_, cursor)| cursor != "0");
        }
        Ok(found.into_iter().map(|((hour, _), items)| (hour, items)).collect())
    }

    /// The sums by hour from ClickHouse.
    async fn tallied<G: Group>(
        &self,
        tally: Tally,
        filter: Filter<'_>,
        hours: &Hours,
    ) -> Result<Counts<G>, LedgerError> {
        let mut counts = Counts::new();
        let numbers: Vec<u16>;
        let of = match filter {
            Filter::Everyone if G::IS_BUCKET => {
                let rows = self.records.tally_buckets(tally, hours.as_slice()).await?;
                let rows =
                    rows.into_iter().filter_map(|(bucket, hour, items)| Some((G::of_bucket(bucket)?, hour, items)));
                counts.extend(rows.map(|(group, hour, items)| ((group, hour), items)));
                return Ok(counts);
            }
            Filter::Everyone => TallyOf::Everyone,
            Filter::Org(org) => TallyOf::Org(org),
            Filter::Buckets(buckets) => {
                numbers = buckets.iter().map(|bucket| bucket.0).collect();
                TallyOf::Buckets(&numbers)
            }
        };
        let limit = u32::try_from(ROWS_MAX).unwrap_or(u32::MAX).saturating_add(1);
        for row in self.records.tally_orgs(tally, of, hours.as_slice(), limit).await? {
            *counts.entry((G::from(row.org_id), row.hour)).or_default() += row.items;
        }
        bounded(&counts)?;
        Ok(counts)
    }
}

fn add<G: Group>(counts: &mut Counts<G>, group: G, hour: i64, items: i64) {
    if items > 0 {
        *counts.entry((group, hour)).or_default() += items.unsigned_abs();
    }
}

fn bounded<G>(counts: &Counts<G>) -> Result<(), LedgerError> {
    if counts.len() > ROWS_MAX { Err(LedgerError::TooMany) } else { Ok(()) }
}
