//! Liveness, readiness and metrics: the same on every listener.

use std::sync::OnceLock;

use http::StatusCode;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use redis::aio::ConnectionManager;
use serde_json::json;

use crate::metrics::LATENCY_BUCKETS_SECONDS;
use crate::routes::{Answer, answer};

/// A question about this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Does it run?
    Alive,
    /// Can it take requests? No while Redis is away or could evict what was acknowledged.
    Ready,
    /// What has it counted?
    Metrics,
}

impl Probe {
    /// The probe at a path.
    pub fn of(path: &str) -> Option<Self> {
        [Probe::Alive, Probe::Ready, Probe::Metrics].into_iter().find(|probe| probe.path() == path)
    }

    /// The path of a probe.
    pub const fn path(self) -> &'static str {
        match self {
            Probe::Alive => "/healthz",
            Probe::Ready => "/readyz",
            Probe::Metrics => "/metrics",
        }
    }
}

/// Answers a probe.
pub async fn answer_probe(probe: Probe, redis: &ConnectionManager) -> Answer {
    match probe {
        Probe::Alive => answer(StatusCode::OK, "application/json", json!({"alive": true}).to_string().into_bytes()),
        Probe::Ready => match tenant::redis::preflight(redis).await {
            Ok(()) => answer(StatusCode::OK, "application/json", json!({"ready": true}).to_string().into_bytes()),
            Err(error) => {
                let body = json!({"ready": false, "reason": error.to_string()});
                answer(StatusCode::SERVICE_UNAVAILABLE, "application/json", body.to_string().into_bytes())
            }
        },
        Probe::Metrics => {
            let text = HANDLE.get().map(PrometheusHandle::render).unwrap_or_default();
            answer(StatusCode::OK, "text/plain; version=0.0.4", text.into_bytes())
        }
    }
}

static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();

/// Why metrics cannot be collected.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum MetricsError {
    #[error("the histogram buckets are wrong: {0}")]
    Buckets(#[from] metrics_exporter_prometheus::BuildError),
    #[error("metrics are collected elsewhere already")]
    Installed,
}

/// Begins to collect metrics. Once per process.
pub fn collect_metrics() -> Result<(), MetricsError> {
    let recorder = PrometheusBuilder::new().set_buckets(&LATENCY_BUCKETS_SECONDS)?.build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|_| MetricsError::Installed)?;
    HANDLE.set(handle).map_err(|_| MetricsError::Installed)
}
