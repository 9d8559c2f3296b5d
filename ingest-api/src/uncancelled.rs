//! Finishes what a client does not wait for any more.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

/// A future that always comes to its end. hyper drops the future of a request when its client goes away; then this one
/// goes on as a task of its own. As long as the client waits there is no task, which would cost a wake-up of another
/// thread.
pub(crate) struct Uncancelled<F>(Option<Pin<Box<F>>>)
where
    F: Future<Output: Send> + Send + 'static;

impl<F: Future<Output: Send> + Send + 'static> Uncancelled<F> {
    /// Nothing happens before the first poll. To be awaited within a tokio runtime.
    pub(crate) fn new(future: F) -> Self {
        Self(Some(Box::pin(future)))
    }
}

impl<F: Future<Output: Send> + Send + 'static> Future for Uncancelled<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // Out of its place while it is polled: a future that panics must not be polled again.
        let Some(mut future) = self.0.take() else { return Poll::Pending };
        let polled = future.as_mut().poll(context);
        if polled.is_pending() {
            self.0 = Some(future);
        }
        polled
    }
}

impl<F: Future<Output: Send> + Send + 'static> Drop for Uncancelled<F> {
    fn drop(&mut self) {
        // Without a runtime the process is ending.
        if let (Some(future), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            drop(runtime.spawn(future));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_dropped_future_goes_on() {
        let (go_on, may_go_on) = oneshot::channel::<()>();
        let (ended, has_ended) = oneshot::channel();
        let future = Uncancelled::new(async {
            may_go_on.await.unwrap();
            ended.send(7).unwrap();
        });
        let cancelled = tokio::time::timeout(Duration::from_millis(1), future).await;
        assert!(cancelled.is_err(), "it waits");
        go_on.send(()).unwrap();
        assert_eq!(has_ended.await.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_future_that_ended_or_panicked_is_not_polled_again() {
        assert_eq!(Uncancelled::new(async { 7 }).await, 7);
        let panics = tokio::spawn(Uncancelled::new(async { panic!("once") }));
        assert!(panics.await.is_err_and(|error: tokio::task::JoinError| error.is_panic()));
    }
}
