//! Accepts connections, serves them, and closes them at the end.

use std::convert::Infallible;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

/// How long a client may take to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Most requests under way on one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;
/// HTTP/2 flow-control windows, in bytes: the default of 64 KiB would stall every larger body.
const WINDOW_BYTES: u32 = 1 << 20;
/// New connections per second and listener; also the most at once. Further ones wait in the kernel's queue, because a
/// handshake costs a client little and the server much.
const CONNECTIONS_PER_SECOND: NonZeroU32 = NonZeroU32::new(2_000).unwrap();
const CONNECTIONS_BURST: NonZeroU32 = NonZeroU32::new(4_000).unwrap();
/// Pause after a failed accept (usually: no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves a listener until `stop` is true, then lets requests under way finish, at most for `drain_max`.
pub async fn serve<F, A, B>(
    listener: TcpListener,
    connections_max: usize,
    drain_max: Duration,
    mut stop: watch::Receiver<bool>,
    handler: F,
) where
    F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
    B: Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let connections = Arc::new(Semaphore::new(connections_max));
    let rate = RateLimiter::direct(Quota::per_second(CONNECTIONS_PER_SECOND).allow_burst(CONNECTIONS_BURST));
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = accept(&listener, &connections, &rate) => accepted,
        };
        let Some((stream, permit)) = accepted else { continue };
        let service = hyper::service::service_fn(handler.clone());
        let connection = builder().serve_connection(TokioIo::new(stream), service).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection broke");
            }
            drop(permit);
        });
    }
    drop(listener);
    if tokio::time::timeout(drain_max, graceful.shutdown()).await.is_err() {
        tracing::warn!(seconds = drain_max.as_secs_f32(), "drain timeout reached; some requests were still under way");
    }
}

/// Waits until another connection is allowed, then for a connection. `None` if accepting failed.
async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
    rate: &DefaultDirectRateLimiter,
) -> Option<(tokio::net::TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(connections).acquire_owned().await.ok()?;
    rate.until_ready().await;
    match listener.accept().await {
        Ok((stream, _)) => {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "TCP_NODELAY could not be set");
            }
            Some((stream, permit))
        }
        Err(error) => {
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(4 * WINDOW_BYTES);
    builder
}
