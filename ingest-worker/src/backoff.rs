//! Waiting longer and longer, and never in step with others.

use std::time::Duration;

use tokio::sync::watch;

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);
/// Pauses that are still taken after the worker was told to stop: a store that hiccups just then gets a second chance.
const PAUSES_WHEN_STOPPING: u32 = 5;

/// Exponential backoff with jitter.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    pauses_when_stopping: u32,
}

/// The worker is stopping and enough was tried.
#[derive(Debug)]
pub(crate) struct GaveUp;

impl Backoff {
    /// Begins with the shortest pause.
    pub(crate) fn new() -> Self {
        Self { next: FIRST, pauses_when_stopping: 0 }
    }

    /// Waits. Once `stop` is true, only a few times more.
    pub(crate) async fn pause(&mut self, stop: &mut watch::Receiver<bool>) -> Result<(), GaveUp> {
        if *stop.borrow() {
            self.pauses_when_stopping += 1;
            if self.pauses_when_stopping > PAUSES_WHEN_STOPPING {
                return Err(GaveUp);
            }
        }
        let pause = self.next.mul_f64(rand::random_range(0.5..1.0));
        self.next = (self.next * 2).min(LONGEST);
        if *stop.borrow() {
            tokio::time::sleep(pause).await;
        } else {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = stop.wait_for(|stop| *stop) => self.next = FIRST,
            }
        }
        Ok(())
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}
