//! Reading all counts, in an order in which nothing that moves is missed: what is accepted first and once more in the end, and in
//! between every place in the order in which items pass through them.

use schema::ids::OrgId;

use super::balance::{Counted, Counts};
use super::transit::Transit;
use super::{Balance, LedgerError, Window};
use crate::clickhouse::Records;
use crate::keys::RedisKey;
use crate::outcome::{DROPPED, Outcome, is_outcome};
use crate::redis::Redis;
use crate::shard::Shard;

/// Orgs and hours of one balance.
pub const ROWS_MAX: usize = 100_000;

/// Whose items are balanced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Every org's.
    Everyone,
    /// That org's.
    Org(OrgId),
}

impl Whose {
    pub(super) fn holds(self, org: OrgId) -> bool {
        match self {
            Self::Everyone => true,
            Self::Org(one) => one == org,
        }
    }
}

/// The counts of a deployment. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Books {
    redis: Redis,
    records: Records,
}

impl Books {
    /// Those in that Redis and that ClickHouse.
    pub const fn new(redis: Redis, records: Records) -> Self {
        Self { redis, records }
    }

    /// What became of everything that was received in those hours.
    pub async fn balance(&self, whose: Whose, window: Window) -> Result<Balance, LedgerError> {
        let before = self.by_shard(whose, window, RedisKey::shard_accepted).await?;
        let mut transit = Transit { redis: &self.redis, whose, window, is_complete: true, unreadable: 0 };
        let in_flight = transit.in_flight().await?;
        let (mut parked, mut over_quota) = (Counts::new(), Counts::new());
        let mut orgs: Vec<OrgId> = before.keys().map(|(org, _)| *org).collect();
        orgs.dedup();
        for org in orgs {
            transit.parked(org, &mut parked).await?;
            let hours = before.range((org, i64::MIN)..=(org, i64::MAX)).map(|((_, hour), _)| *hour);
            self.dropped(org, hours.collect(), &mut over_quota).await?;
        }
        let letters = transit.letters().await?;
        let (is_complete, unreadable) = (transit.is_complete, transit.unreadable);
        let dropped_letters = self.by_shard(whose, window, RedisKey::shard_dlq_dropped).await?;
        let stored = self.stored(whose, window).await?;
        let after = self.by_shard(whose, window, RedisKey::shard_accepted).await?;
        Ok(Balance::of(&Counted {
            before,
            in_flight,
            parked,
            over_quota,
            letters,
            dropped_letters,
            stored,
            after,
            is_complete,
            unreadable,
        }))
    }

    /// What is counted per shard and hour in hashes by org. All hours of a shard are in one slot.
    async fn by_shard(
        &self,
        whose: Whose,
        window: Window,
        key: fn(Shard, i64) -> RedisKey,
    ) -> Result<Counts, LedgerError> {
        let mut counts = Counts::new();
        let mut add = |org, hour, items: i64| *counts.entry((org, hour)).or_default() += items.max(0).unsigned_abs();
        for shard in Shard::all() {
            let mut pipe = redis::pipe();
            match whose {
                Whose::Org(org) => {
                    window.hours().for_each(|hour| {
                        pipe.cmd("HGET").arg(key(shard, hour)).arg(org.to_string());
                    });
                    let found: Vec<Option<i64>> = pipe.query_async(&mut self.redis.clone()).await?;
                    let found = window.hours().zip(found).filter_map(|(hour, items)| Some((hour, items?)));
                    found.for_each(|(hour, items)| add(org, hour, items));
                }
                Whose::Everyone => {
                    window.hours().for_each(|hour| {
                        pipe.cmd("HGETALL").arg(key(shard, hour));
                    });
                    let found: Vec<Vec<(String, i64)>> = pipe.query_async(&mut self.redis.clone()).await?;
                    for (hour, orgs) in window.hours().zip(found) {
                        for (org, items) in orgs {
                            // A field that is no org's is nobody's count.
                            let Ok(org) = org.parse() else { continue };
                            add(org, hour, items);
                        }
                    }
                }
            }
        }
        bounded(counts)
    }

    /// What a worker dropped because the org is over its quota: it writes that into the org's outcomes before it deletes the entry.
    async fn dropped(&self, org: OrgId, hours: Vec<i64>, counts: &mut Counts) -> Result<(), LedgerError> {
        let mut pipe = redis::pipe();
        for hour in &hours {
            pipe.cmd("HGETALL").arg(RedisKey::outcomes(Some(org), *hour));
        }
        let found: Vec<Vec<(String, u64)>> = pipe.query_async(&mut self.redis.clone()).await?;
        for (hour, outcomes) in hours.into_iter().zip(found) {
            let dropped = outcomes.iter().filter(|(field, _)| is_outcome(field, Outcome::OverQuota, DROPPED));
            *counts.entry((org, hour)).or_default() += dropped.map(|(_, items)| items).sum::<u64>();
        }
        Ok(())
    }

    async fn stored(&self, whose: Whose, window: Window) -> Result<Counts, LedgerError> {
        let org = match whose {
            Whose::Everyone => None,
            Whose::Org(org) => Some(org),
        };
        let limit = u32::try_from(ROWS_MAX).unwrap_or(u32::MAX).saturating_add(1);
        let rows = self.records.stored_by_hour(org, window.first, window.last, limit).await?;
        bounded(rows.into_iter().map(|row| ((row.org_id, row.hour), row.items)).collect())
    }
}

fn bounded(mut counts: Counts) -> Result<Counts, LedgerError> {
    counts.retain(|_, items| *items > 0);
    if counts.len() > ROWS_MAX { Err(LedgerError::TooMany) } else { Ok(counts) }
}
