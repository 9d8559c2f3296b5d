//! Waiting longer and longer, and never in step with others.

use std::time::Duration;

use lease::Tenure;

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);
/// Pauses that are still taken after the shard was to be given up: a store that hiccups just then gets a second chance.
const PAUSES_WHEN_ENDING: u32 = 5;

/// Exponential backoff with jitter.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    pauses_when_ending: u32,
}

/// The shard is to be given up and enough was tried.
#[derive(Debug)]
pub(crate) struct GaveUp;

impl Backoff {
    /// Begins with the shortest pause.
    pub(crate) fn new() -> Self {
        Self { next: FIRST, pauses_when_ending: 0 }
    }

    /// Waits. Once the shard is to be given up, only a few times more.
    pub(crate) async fn pause(&mut self, tenure: &Tenure) -> Result<(), GaveUp> {
        let pause = self.next.mul_f64(rand::random_range(0.5..1.0));
        self.next = (self.next * 2).min(LONGEST);
        if tenure.is_wanted() {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = tenure.ended() => self.next = FIRST,
            }
            return Ok(());
        }
        self.pauses_when_ending += 1;
        if self.pauses_when_ending > PAUSES_WHEN_ENDING {
            return Err(GaveUp);
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }
}
