//! Writes the sums of outcomes to Redis: one hash per org and hour, in which every process has fields of its own.
//!
//! A process writes its total for an hour so far, not the increase. So a write with an unknown result is simply
//! repeated, and the sum over all fields is exact. A killed process loses what it counted since its last flush.

use std::collections::BTreeMap;
use std::time::Duration;

use model::ids::OrgId;
use redis::RedisError;
use stores::keys::RedisKey;
use stores::redis::Redis;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use super::{Ledger, Outcome, Sum};

/// How often sums are written.
pub const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// How long an hour's sums are kept in Redis, in seconds.
pub const KEPT_S: i64 = 40 * 24 * 3600;

/// The sums written last, so that only changed ones are written again.
type Written = BTreeMap<Sum, u64>;
/// The changed sums, by the hash they belong to: one per org and hour.
type Changed = BTreeMap<(Option<OrgId>, i64), Vec<(Sum, u64)>>;

/// Writes the sums every [`FLUSH_EVERY`] until `stop`, and then once more.
pub async fn run(ledger: Ledger, redis: Redis, mut stop: watch::Receiver<bool>) {
    let process = Uuid::new_v4().simple().to_string();
    let mut written = Written::new();
    let mut ticks = tokio::time::interval(FLUSH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let last = tokio::select! {
            _ = ticks.tick() => false,
            _ = stop.wait_for(|stop| *stop) => true,
        };
        if let Err(error) = ledger.flush(&process, &mut written, &redis).await {
            tracing::warn!(%error, "the outcomes could not be written; they will be next time");
        }
        if last {
            return;
        }
    }
}

/// The field of an org's hash for an hour in which one writer, such as a process, sums up an outcome and its reason.
pub fn field(writer: &str, outcome: Outcome, reason: &str) -> String {
    format!("{writer}:{}:{reason}", outcome.as_str())
}

/// Whether a field of that hash sums up that outcome and reason, of any writer.
pub fn is_outcome(field: &str, outcome: Outcome, reason: &str) -> bool {
    let rest = field.strip_suffix(reason).and_then(|rest| rest.strip_suffix(':'));
    let rest = rest.and_then(|rest| rest.strip_suffix(outcome.as_str()));
    rest.is_some_and(|writer| writer.ends_with(':'))
}

impl Ledger {
    /// Writes the changed sums into the fields of that process.
    async fn flush(&self, process: &str, written: &mut Written, redis: &Redis) -> Result<(), RedisError> {
        let now = stores::clock::unix_hour();
        let mut changed = Changed::new();
        for (sum, count) in self.sums() {
            if written.get(&sum) != Some(&count) {
                changed.entry((sum.org, sum.hour)).or_default().push((sum, count));
            }
        }
        for ((org, hour), sums) in changed {
            let key = RedisKey::outcomes(org, hour);
            let mut pipe = redis::pipe();
            let set = pipe.cmd("HSET").arg(&key);
            for (Sum { outcome, reason, .. }, count) in &sums {
                set.arg(field(process, *outcome, reason)).arg(count);
            }
            set.ignore();
            pipe.cmd("EXPIRE").arg(&key).arg(KEPT_S).ignore();
            pipe.query_async::<()>(&mut redis.clone()).await?;
            written.extend(sums);
        }
        // An item counts in the hour in which it ends, so a past hour does not change any more.
        self.forget_before(now - 1);
        written.retain(|sum, _| sum.hour >= now - 1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_says_its_outcome() {
        let dropped = field("7/1-0", Outcome::OverQuota, "dropped");
        assert_eq!(dropped, "7/1-0:over_quota:dropped");
        assert!(is_outcome(&dropped, Outcome::OverQuota, "dropped"));
        for other in
            ["7:over_quota:parked", "7:dead_lettered:dropped", "7:not_over_quota:dropped", "over_quota:dropped"]
        {
            assert!(!is_outcome(other, Outcome::OverQuota, "dropped"), "{other}");
        }
    }
}
