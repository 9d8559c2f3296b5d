//! Tasks beside the shards that go on after a panic.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::metrics;

/// How long after a panic a task is started again.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Runs a future in a task of its own, and starts it again after a panic. Returns when the future returns. Dropping
/// this aborts the task.
pub(crate) async fn persist<F>(name: &'static str, begin: impl Fn() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    persist_after(AGAIN_AFTER, name, begin).await;
}

async fn persist_after<F>(again_after: Duration, name: &'static str, begin: impl Fn() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        let mut task = JoinSet::new();
        task.spawn(begin());
        match task.join_next().await {
            Some(Err(error)) if error.is_panic() => {
                tracing::error!(task = name, %error, again_in = ?again_after, "a task has crashed; beginning it anew");
                metrics::task_panicked(name);
                tokio::time::sleep(again_after).await;
            }
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_panicking_task_is_restarted_until_it_ends() {
        let times = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&times);
        persist_after(Duration::ZERO, "test", move || {
            let times = Arc::clone(&counted);
            async move { assert!(times.fetch_add(1, Ordering::Relaxed) >= 2, "on purpose") }
        })
        .await;
        assert_eq!(times.load(Ordering::Relaxed), 3);
    }
}
