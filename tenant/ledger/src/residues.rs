//! What the watch remembers of imbalances, for whoever wants to show them.

use std::collections::BTreeMap;

use model::ids::OrgId;
use redis::RedisError;
use serde::Serialize;
use stores::keys::RedisKey;
use stores::redis::Redis;

/// A residue that was seen, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Residue {
    /// When it was first seen, in seconds since the Unix epoch.
    pub since_s: i64,
    /// How much it was when it was seen last.
    pub items: i64,
    /// How much it was when the alarm was raised; 0 if it was not.
    pub told: i64,
}

/// What is remembered, by org and hour.
pub type Residues = BTreeMap<(OrgId, i64), Residue>;

/// The residues that the watch has seen, by org and hour.
pub async fn residues(redis: &Redis) -> Result<Residues, RedisError> {
    let mut all = redis::cmd("HGETALL");
    let all: Vec<(String, String)> = all.arg(RedisKey::ledger_residues()).query_async(&mut redis.clone()).await?;
    let read = |(of, residue): (String, String)| {
        let (org, hour) = of.split_once(':')?;
        let mut numbers = residue.split(':').map(|n| n.parse().ok());
        let (since_s, items, told) = (numbers.next()??, numbers.next()??, numbers.next()??);
        Some(((org.parse().ok()?, hour.parse().ok()?), Residue { since_s, items, told }))
    };
    // What another release wrote is seen again.
    Ok(all.into_iter().filter_map(read).collect())
}
