//! The flag of an org in a month, as the reconciler's script writes it: `span_ingested!,span_bytes park`.
//!
//! It names the meters that have reached or exceeded their limit. An exceeded one has an exclamation mark; if there is
//! any, the org's policy follows.

use model::ids::OrgId;
use model::org::OverQuota;
use redis::RedisError;
use stores::keys::RedisKey;
use stores::redis::Redis;

/// What happens to accepted data of an org: `None` if it is within its limits.
pub type Flag = Option<OverQuota>;

/// Reads the flag of an org in a month `YYYYMM`.
pub async fn read(redis: &Redis, org: OrgId, period: u32) -> Result<Flag, RedisError> {
    let key = RedisKey::quota_over(org, period);
    let text: Option<String> = redis::cmd("GET").arg(key).query_async(&mut redis.clone()).await?;
    Ok(text.as_deref().and_then(parse))
}

/// An unknown policy, written by another release: keep the data.
fn parse(flag: &str) -> Flag {
    let (meters, policy) = flag.split_once(' ')?;
    meters.contains('!').then(|| policy.parse().unwrap_or(OverQuota::Park))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_org_over_its_limit_is_parked_or_dropped() {
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
