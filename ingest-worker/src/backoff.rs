//! Pauses that grow, with jitter so that workers do not retry in step.

use std::time::Duration;

use lease::LeaseGuard;

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);
/// How many more pauses there are once the shard is to be given up, so that a store with a short outage gets another
/// try.
const PAUSES_WHEN_ENDING: u32 = 5;

/// Exponential backoff with jitter.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    pauses_when_ending: u32,
}

/// The shard is to be given up, and the last retries are used up.
#[derive(Debug)]
pub(crate) struct GaveUp;

impl Backoff {
    /// Begins with the shortest pause.
    pub(crate) fn new() -> Self {
        Self { next: FIRST, pauses_when_ending: 0 }
    }

    /// Waits for the next pause. Fails once the shard is to be given up and [`PAUSES_WHEN_ENDING`] pauses have passed.
    pub(crate) async fn pause(&mut self, guard: &LeaseGuard) -> Result<(), GaveUp> {
        let pause = self.next.mul_f64(rand::random_range(0.5..1.0));
        self.next = (self.next * 2).min(LONGEST);
        if guard.is_wanted() {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = guard.ended() => self.next = FIRST,
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
