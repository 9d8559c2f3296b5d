//! The imbalances that the watch has stored in Redis, for display.

use std::collections::BTreeMap;

use model::ids::OrgId;
use redis::RedisError;
use serde::Serialize;
use stores::keys::RedisKey;
use stores::redis::Redis;

/// An imbalance that the watch has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Imbalance {
    /// When it was first seen, in seconds since the Unix epoch.
    pub since_s: i64,
    /// Its size when it was last seen, in items.
    pub items: i64,
    /// Its size when the alarm was raised, in items; 0 if there was none.
    pub alarmed: i64,
}

/// The stored imbalances, by org and hour.
pub type Imbalances = BTreeMap<(OrgId, i64), Imbalance>;

/// The imbalances that the watch has seen, by org and hour.
pub async fn imbalances(redis: &Redis) -> Result<Imbalances, RedisError> {
    let mut all = redis::cmd("HGETALL");
    let all: Vec<(String, String)> = all.arg(RedisKey::ledger_imbalances()).query_async(&mut redis.clone()).await?;
    let read = |(of, imbalance): (String, String)| {
        let (org, hour) = of.split_once(':')?;
        let mut numbers = imbalance.split(':').map(|n| n.parse().ok());
        let (since_s, items, alarmed) = (numbers.next()??, numbers.next()??, numbers.next()??);
        Some(((org.parse().ok()?, hour.parse().ok()?), Imbalance { since_s, items, alarmed }))
    };
    // An entry in another release's format is skipped; the watch finds the imbalance again.
    Ok(all.into_iter().filter_map(read).collect())
}
