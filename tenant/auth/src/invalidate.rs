//! Announces that processes must look keys up again: they were revoked, or their org was frozen, moved or given another
//! plan.
//!
//! After the change is committed, three things happen in this order: a marker is put into the shared cache, which no
//! process overwrites; a counter is raised, which every process polls; a message is published, which most processes
//! receive at once. Because of the counter, a lost message does no harm.

use std::time::Duration;

use model::ids::OrgId;
use model::meter::period;
use redis::{Pipeline, RedisError};
use stores::keys::RedisKey;
use stores::redis::Redis;
use time::OffsetDateTime;

/// The marker in the shared cache for a changed record: ask Postgres, and do not write the answer here.
pub(crate) const ASK_POSTGRES: &[u8] = b"!";
/// How long the marker stays: longer than any look-up that began before the change.
pub const MARKER_TTL: Duration = Duration::from_secs(10);
/// The most keys in one message; if more have changed, the message names `*`, which means all keys.
pub const KEYS_PER_MESSAGE_MAX: usize = 500;
/// Stands in a message for all keys.
const ANY: &str = "*";

/// Announces changes of keys.
#[derive(Clone, Debug)]
pub struct Invalidator {
    redis: Redis,
}

impl Invalidator {
    /// An invalidator that announces over that Redis.
    pub const fn new(redis: Redis) -> Self {
        Self { redis }
    }

    /// Deletes the record of which monthly limits the org has exceeded this month, until the reconciler has run again.
    pub async fn limits_changed(&self, org: OrgId) -> Result<(), RedisError> {
        let now = i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos()).unwrap_or(i64::MAX);
        redis::cmd("DEL").arg(RedisKey::quota_over(org, period(now))).exec_async(&mut self.redis.clone()).await
    }

    /// Makes every process look these keys up again. Returns the number of the announcement.
    pub async fn announce(&self, public_ids: &[String]) -> Result<u64, RedisError> {
        let mut redis = self.redis.clone();
        let ttl_ms = u64::try_from(MARKER_TTL.as_millis()).unwrap_or(u64::MAX);
        // One command each: on a cluster, each key has its own slot.
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

/// The content of an announcement's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Announcement {
    /// The value of the counter after this announcement raised it.
    pub(crate) epoch: u64,
    /// The public ids of the keys; empty means any key.
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
    /// `None` for a text that is not in our format.
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
