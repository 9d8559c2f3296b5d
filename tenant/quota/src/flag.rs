//! The flag of an org in a month, as the reconciler's script writes it: `span_ingested!,span_bytes park`.
//!
//! It names the meters that are at their limit or over it. One that is over has an exclamation mark, and then the org's
//! policy follows.

use model::ids::OrgId;
use redis::RedisError;

use model::org::OverQuota;
use stores::keys::RedisKey;
use stores::redis::Redis;

/// What becomes of accepted data of an org: `None` for one that is within its limits.
pub type Flag = Option<OverQuota>;

/// Reads the flag of an org in a month `YYYYMM`.
pub async fn read(redis: &Redis, org: OrgId, period: u32) -> Result<Flag, RedisError> {
    let key = RedisKey::quota_over(org, period);
    let text: Option<String> = redis::cmd("GET").arg(key).query_async(&mut redis.clone()).await?;
    Ok(text.as_deref().and_then(parse))
}

/// A policy that this release does not know keeps the data.
fn parse(flag: &str) -> Flag {
    let (meters, policy) = flag.split_once(' ')?;
    meters.contains('!').then(|| policy.parse().unwrap_or(OverQuota::Park))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_over_is_set_aside() {
        for (flag, wanted) in [
            ("", None),
            ("span_ingested", None),
            ("span_ingested,span_bytes", None),
            ("span_ingested! park", Some(OverQuota::Park)),
            ("span_ingested,span_bytes! drop", Some(OverQuota::Drop)),
            ("span_ingested! of a later release", Some(OverQuota::Park)),
        ] {
            assert_eq!(parse(flag), wanted, "{flag}");
        }
    }
}
