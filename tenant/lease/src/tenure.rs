//! The right to work on one shard, until it ends.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::shard::Shard;
use tokio::sync::watch;

/// What a lease says at present.
#[derive(Clone, Copy, Debug)]
pub(super) struct Term {
    /// When it ends, unless it is renewed.
    pub(super) until: Instant,
    /// False once the shard is to be given up.
    pub(super) wanted: bool,
}

/// The right to work on a shard until it ends. Cheap to clone.
///
/// It saves effort, and is no proof: a process can be stopped between asking [`Tenure::holds`] and what it does then,
/// and where a whole machine sleeps its clock may sleep too. What makes a late owner harmless is that Redis takes
/// nothing from an epoch that is over, and ClickHouse no token twice.
#[derive(Clone)]
pub struct Tenure {
    shard: Shard,
    owner: Arc<str>,
    epoch: u64,
    crashes: u32,
    term: watch::Receiver<Term>,
}

impl Tenure {
    pub(super) fn new(shard: Shard, owner: Arc<str>, epoch: u64, crashes: u32, term: watch::Receiver<Term>) -> Self {
        Self { shard, owner, epoch, crashes, term }
    }

    /// Which shard.
    pub const fn shard(&self) -> Shard {
        self.shard
    }

    /// The fencing epoch: larger than that of every tenure of this shard before.
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How many tenures in a row before this one ended by a crash, with work left to do.
    pub const fn crashes(&self) -> u32 {
        self.crashes
    }

    /// Whose it is: a name that no other life of a process has.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// Whether the lease still runs. When it does not, nothing may be sent any more. A process that stood still knows
    /// at once, because the clock has gone on.
    pub fn holds(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// How long it runs, unless it is renewed.
    pub fn remaining(&self) -> Duration {
        self.term.borrow().until.saturating_duration_since(Instant::now())
    }

    /// Whether the shard is to be kept. When not, finish what is under way and return.
    pub fn is_wanted(&self) -> bool {
        self.term.borrow().wanted
    }

    /// Resolves when the shard is to be given up or the lease has run out.
    pub async fn ended(&self) {
        let mut changes = self.term.clone();
        loop {
            let Term { until, wanted } = *changes.borrow_and_update();
            if !wanted || until <= Instant::now() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep_until(until.into()) => {}
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    }
}

impl fmt::Debug for Tenure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tenure")
            .field("shard", &self.shard)
            .field("owner", &self.owner)
            .field("epoch", &self.epoch)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenure(term: Term) -> (watch::Sender<Term>, Tenure) {
        let (sender, receiver) = watch::channel(term);
        (sender, Tenure::new(Shard::new(3).unwrap(), "me".into(), 7, 0, receiver))
    }

    #[tokio::test]
    async fn it_ends_when_it_is_not_renewed_or_not_wanted() {
        let now = Instant::now();
        let (sender, short) = tenure(Term { until: now, wanted: true });
        assert!(!short.holds() && short.is_wanted());
        short.ended().await;

        sender.send_replace(Term { until: now + Duration::from_secs(60), wanted: true });
        assert!(short.holds() && short.remaining() > Duration::from_secs(30));
        let ended = tokio::spawn({
            let short = short.clone();
            async move { short.ended().await }
        });
        sender.send_replace(Term { until: now + Duration::from_secs(90), wanted: true });
        tokio::task::yield_now().await;
        assert!(!ended.is_finished(), "it was renewed");
        sender.send_replace(Term { until: now + Duration::from_secs(90), wanted: false });
        ended.await.unwrap();
        assert!(short.holds() && !short.is_wanted(), "there is time to finish");

        drop(sender);
        short.ended().await;
    }
}
