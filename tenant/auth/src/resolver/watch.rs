//! Learns of changed keys: every process subscribes to announcements, and polls their number in case one was lost.

use std::collections::BTreeSet;
use std::time::Duration;

use metrics::counter;
use redis::RedisError;
use stores::keys::RedisKey;
use stores::redis::{Redis, Subscription};
use stores::secret::SecretUrl;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::Resolver;
use crate::invalidate::Announcement;

/// How often the number of announcements is polled. A lost announcement takes effect at the second poll after it.
pub const POLL_EVERY: Duration = Duration::from_secs(1);
/// The pause before subscribing is tried again.
const LISTEN_AGAIN: Duration = Duration::from_millis(250);
/// The most announcements received ahead of a poll. Beyond it, the poll distrusts every entry.
const RECEIVED_MAX: usize = 10_000;

/// Keeps a resolver up to date until `stop`.
pub async fn watch(resolver: Resolver, url: SecretUrl, redis: Redis, mut stop: watch::Receiver<bool>) {
    let received = tokio::sync::Mutex::new(ReceivedAnnouncements::default());
    let listening = async {
        loop {
            if let Err(error) = listen(&resolver, &url, &received).await {
                tracing::warn!(%error, "announcements of changed keys are not received; they are polled for");
            }
            tokio::time::sleep(LISTEN_AGAIN).await;
        }
    };
    let polling = async {
        let mut ticks = tokio::time::interval(POLL_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let epoch: Result<Option<u64>, RedisError> =
                redis::cmd("GET").arg(RedisKey::api_key_epoch()).query_async(&mut redis.clone()).await;
            // While Redis is away no change can be announced; entries expire by themselves.
            let Ok(epoch) = epoch else { continue };
            if received.lock().await.missed(epoch.unwrap_or(0)) {
                counter!("tracebility_key_announcements_missed_total").increment(1);
                resolver.distrust_all();
            }
        }
    };
    tokio::select! {
        () = listening => {}
        () = polling => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

async fn listen(
    resolver: &Resolver,
    url: &SecretUrl,
    received: &tokio::sync::Mutex<ReceivedAnnouncements>,
) -> Result<(), RedisError> {
    let mut subscription = Subscription::open(url, &RedisKey::api_key_invalidate()).await?;
    while let Some(text) = subscription.next().await {
        let Some(announcement) = Announcement::parse(&text) else { continue };
        if announcement.keys.is_empty() {
            resolver.distrust_all();
        }
        announcement.keys.iter().for_each(|key| resolver.forget(key));
        received.lock().await.record(announcement.epoch);
    }
    Ok(())
}

/// Which announcements have arrived, and whether any is missing.
#[derive(Debug, Default)]
struct ReceivedAnnouncements {
    /// All announcements up to this number are processed; `None` before the first poll.
    all_to: Option<u64>,
    /// Announcements with a higher number that have arrived.
    beyond: BTreeSet<u64>,
    /// The number at which the last poll found some missing: they may have been on their way.
    late: Option<u64>,
}

impl ReceivedAnnouncements {
    fn record(&mut self, epoch: u64) {
        if self.beyond.len() < RECEIVED_MAX {
            self.beyond.insert(epoch);
        }
    }

    /// Whether announcements are missing, given their present number. Those since the last poll may still arrive until
    /// the next one.
    fn missed(&mut self, now: u64) -> bool {
        let Some(mut all_to) = self.all_to else {
            // Before the first poll the cache was empty, so earlier announcements concern no entry.
            self.all_to = Some(now);
            return false;
        };
        while self.beyond.remove(&(all_to + 1)) {
            all_to += 1;
        }
        self.all_to = Some(all_to);
        // A smaller number than before: Redis has lost its data, and perhaps an announcement with it.
        let missed = now < all_to || self.late.is_some_and(|late| all_to < late);
        if missed {
            self.all_to = Some(now);
            self.beyond.retain(|epoch| *epoch > now);
            self.late = None;
        } else {
            self.late = (all_to < now).then_some(now);
        }
        missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_not_received_by_the_second_poll_counts_as_missed() {
        let mut received = ReceivedAnnouncements::default();
        assert!(!received.missed(5), "what was announced before the start means nothing here");
        received.record(6);
        assert!(!received.missed(6));
        assert!(!received.missed(8), "7 and 8 may be under way");
        received.record(8);
        received.record(7);
        assert!(!received.missed(9), "9 may be");
        received.record(10);
        assert!(received.missed(10), "9 was not received");
        assert!(!received.missed(10));
    }

    #[test]
    fn a_redis_that_lost_its_epoch_is_noticed() {
        let mut received = ReceivedAnnouncements::default();
        assert!(!received.missed(100));
        assert!(received.missed(0));
        assert!(!received.missed(1), "may be under way");
        received.record(1);
        assert!(!received.missed(1));
    }
}
