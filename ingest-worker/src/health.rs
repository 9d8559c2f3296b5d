//! The worker's listener for `/healthz`, `/readyz` and `/metrics`.

use std::convert::Infallible;
use std::sync::Arc;

use auth::envelope_key::EnvelopeKeys;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;
use stores::clickhouse::Inserter;
use stores::redis::readiness::Readiness;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Most connections served at the same time.
const CONNECTIONS_MAX: usize = 64;

/// What `/readyz` checks and `/metrics` shows.
#[derive(Clone)]
pub struct Health {
    /// Readiness of Redis, from which entries are read.
    pub redis: Readiness,
    /// The connection to ClickHouse, into which rows are inserted.
    pub inserter: Inserter,
    /// The keys that entries are checked with; `None` if this worker reads no shards.
    pub envelope_keys: Option<EnvelopeKeys>,
    /// Renders the metrics of this process.
    pub metrics: PrometheusHandle,
}

/// Serves until the process ends.
pub async fn serve(listener: TcpListener, health: Health) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else { continue };
        let health = health.clone();
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| answer(health.clone(), request));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection broke");
            }
            drop(permit);
        });
    }
}

async fn answer(health: Health, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = service::http_path::normal(request.uri().path());
    let (status, body) = match (request.method(), &*path) {
        (&Method::GET, "/healthz") => (StatusCode::OK, json!({"alive": true}).to_string()),
        (&Method::GET, "/metrics") => (StatusCode::OK, health.metrics.render()),
        (&Method::GET, "/readyz") => readiness(&health).await,
        _ => (StatusCode::NOT_FOUND, json!({"paths": ["/healthz", "/readyz", "/metrics"]}).to_string()),
    };
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    Ok(answer)
}

async fn readiness(health: &Health) -> (StatusCode, String) {
    let redis = health.redis.check().await.map_err(|e| e.to_string());
    let clickhouse = health.inserter.ping().await.map_err(|e| e.to_string());
    let key = match &health.envelope_keys {
        Some(keys) if keys.get().is_none() => Err("postgres: the envelope key could not be read yet".to_owned()),
        _ => Ok(()),
    };
    match redis.and_then(|fit| clickhouse.and(key).map(|()| fit)) {
        Ok(fit) => {
            let warnings: Vec<_> = fit.warnings.iter().map(|warning| warning.text()).collect();
            (StatusCode::OK, json!({"ready": true, "warnings": warnings}).to_string())
        }
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, json!({"ready": false, "reason": reason}).to_string()),
    }
}
