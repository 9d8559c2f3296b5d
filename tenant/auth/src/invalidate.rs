//! Announcing that keys must be looked up anew: revoked, frozen, moved, given another plan.
//!
//! Three things, in this order, after the change is committed: a marker in the shared cache, which nobody writes over;
//! a counter, which every process polls; a message, which most hear at once. The counter is what makes a lost message
//! harmless.

use std::time::Duration;

use redis::{Pipeline, RedisError};

use model::ids::OrgId;
use model::meter::period;
use time::OffsetDateTime;

use stores::keys::RedisKey;
use stores::redis::Redis;

/// What stands in the shared cache for a record that has changed: ask Postgres, and leave nothing here.
pub(crate) const ASK_POSTGRES: &[u8] = b"!";
/// How long it stands: longer than any look-up that began before the change.
pub const MARKER_TTL: Duration = Duration::from_secs(10);
/// The most keys that a message names; of more, it says "any".
pub const KEYS_PER_MESSAGE_MAX: usize = 500;
/// What a message names instead of too many keys.
const ANY: &str = "*";

/// Announces changes of keys.
#[derive(Clone, Debug)]
pub struct Invalidator {
    redis: Redis,
}

impl Invalidator {
    /// Announces over that Redis.
    pub const fn new(redis: Redis) -> Self {
        Self { redis }
    }

    /// What is said about an org that is over its limits in this month is forgotten, until the reconciler has looked
    /// again.
    pub async fn limits_changed(&self, org: OrgId) -> Result<(), RedisError> {
        let now = i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos()).unwrap_or(i64::MAX);
        redis::cmd("DEL").arg(RedisKey::quota_over(org, period(now))).exec_async(&mut self.redis.clone()).await
    }

    /// Every process looks these keys up anew. Says the number of the announcement.
    pub async fn announce(&self, public_ids: &[String]) -> Result<u64, RedisError> {
        let mut redis = self.redis.clone();
        let ttl_ms = u64::try_from(MARKER_TTL.as_millis()).unwrap_or(u64::MAX);
        // One by one: on a cluster, each key has its own slot.
        for public_id in public_ids {
            let mut mark = redis::cmd("SET");
            mark.arg(RedisKey::api_key(public_id)).arg(ASK_POSTGRES).arg("PX").arg(ttl_ms);
            mark.exec_async(&mut redis).await?;
        }
        let mut count = Pipeline::new();
        count.incr(RedisKey::api_key_epoch(), 1);
        let (epoch,): (u64,) = count.query_async(&mut redis).await?;
        let message = Announcement { epoch, keys: public_ids.to_vec() }.to_string();
        redis::cmd("PUBLISH").arg(RedisKey::api_key_invalidate()).arg(message).exec_async(&mut redis).await?;
        Ok(epoch)
    }
}

/// What is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Announcement {
    /// What the counter was raised to.
    pub(crate) epoch: u64,
    /// The public ids of the keys; none means any key.
    pub(crate) keys: Vec<String>,
}

impl std::fmt::Display for Announcement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.epoch)?;
        if self.keys.is_empty() || self.keys.len() > KEYS_PER_MESSAGE_MAX {
            return write!(f, " {ANY}");
        }
        self.keys.iter().try_for_each(|key| write!(f, " {key}"))
    }
}

impl Announcement {
    /// `None` for what none of ours has published.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (epoch, keys) = text.split_once(' ')?;
        let keys = if keys == ANY { Vec::new() } else { keys.split(' ').map(str::to_owned).collect() };
        Some(Self { epoch: epoch.parse().ok()?, keys })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_read_back() {
        for keys in [vec![], vec!["a".to_owned()], vec!["a".to_owned(), "b".to_owned()]] {
            let announcement = Announcement { epoch: 7, keys };
            assert_eq!(Announcement::parse(&announcement.to_string()), Some(announcement));
        }
        let many = Announcement { epoch: 8, keys: vec!["a".to_owned(); KEYS_PER_MESSAGE_MAX + 1] };
        assert_eq!(Announcement::parse(&many.to_string()), Some(Announcement { epoch: 8, keys: vec![] }));
        for junk in ["", "7", "x *", "-1 a"] {
            assert_eq!(Announcement::parse(junk), None, "{junk}");
        }
    }
}
