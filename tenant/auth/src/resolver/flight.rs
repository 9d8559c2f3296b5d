//! One look-up at a time per key: requests that arrive meanwhile wait for its answer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

type Answer<V> = watch::Receiver<Option<V>>;

/// Runs at most one future per key, and at most `max` in all. A future runs to its end even when no request waits for
/// it any more, so it must be bounded in time.
pub(super) struct SingleFlight<V> {
    running: Arc<Mutex<HashMap<Box<str>, Answer<V>>>>,
    max: usize,
}

impl<V: Clone + Send + Sync + 'static> SingleFlight<V> {
    pub(super) fn new(max: usize) -> Self {
        Self { running: Arc::default(), max }
    }

    /// The running future for `key`, or that of `make`, started now. `None` when `max` run already.
    pub(super) fn join<F>(&self, key: &str, make: impl FnOnce() -> F) -> Option<Flight<V>>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut running = lock(&self.running);
        let answer = match running.get(key) {
            Some(answer) => answer.clone(),
            None if running.len() >= self.max => return None,
            None => {
                let (sender, answer) = watch::channel(None);
                running.insert(key.into(), answer.clone());
                let landing = Landing { running: Arc::clone(&self.running), key: key.into() };
                let future = make();
                tokio::spawn(async move {
                    let value = future.await;
                    // Leave the table first: a later request must start a new look-up.
                    drop(landing);
                    sender.send_replace(Some(value));
                });
                answer
            }
        };
        Some(Flight(answer))
    }
}

/// A running future, shared by all who asked for its key.
pub(super) struct Flight<V>(Answer<V>);

impl<V: Clone> Flight<V> {
    /// The result of the future; `None` when it panicked.
    pub(super) async fn answer(mut self) -> Option<V> {
        self.0.wait_for(Option::is_some).await.ok().and_then(|value| value.clone())
    }
}

/// Removes a flight from the table, also when it panics.
struct Landing<V> {
    running: Arc<Mutex<HashMap<Box<str>, Answer<V>>>>,
    key: Box<str>,
}

impl<V> Drop for Landing<V> {
    fn drop(&mut self) {
        lock(&self.running).remove(&self.key);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The table is consistent at every point where a panic could happen.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn concurrent_callers_share_one_run() {
        let flights = SingleFlight::new(2);
        let runs = Arc::new(AtomicU32::new(0));
        let ask = |key: &'static str| {
            let runs = Arc::clone(&runs);
            flights.join(key, move || async move { runs.fetch_add(1, Ordering::SeqCst) })
        };
        let waiting: Vec<_> = (0..100).map(|_| ask("a").unwrap()).collect();
        let other = ask("b").unwrap();
        assert!(ask("c").is_none(), "a third key at once is too much");
        for flight in waiting {
            assert_eq!(flight.answer().await, Some(0));
        }
        assert_eq!(other.answer().await, Some(1));
        assert_eq!(ask("a").unwrap().answer().await, Some(2), "the next one asks anew");
    }

    #[tokio::test]
    async fn a_panicking_run_does_not_block_the_next_caller() {
        let flights: SingleFlight<u32> = SingleFlight::new(1);
        assert_eq!(flights.join("a", || async { panic!("on purpose") }).unwrap().answer().await, None);
        assert_eq!(flights.join("a", || async { 7 }).unwrap().answer().await, Some(7));
    }
}
