//! Liveness, readiness and metrics: the same on every listener.

use http::StatusCode;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;

use crate::routes::{Answer, answer};
use tenant::redis::readiness::Readiness;

/// A question about this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Does it run?
    Alive,
    /// Can it take requests? No while Redis is away or would not keep what is acknowledged.
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

/// What probes are answered from.
#[derive(Clone)]
pub struct Health {
    /// What readiness depends on.
    pub redis: Readiness,
    /// What was counted.
    pub metrics: PrometheusHandle,
}

impl Health {
    /// Whether requests can be taken.
    pub async fn is_ready(&self) -> bool {
        self.redis.check().await.is_ok()
    }

    /// Answers a probe.
    pub async fn answer(&self, probe: Probe) -> Answer {
        match probe {
            Probe::Alive => answer(StatusCode::OK, "application/json", json!({"alive": true}).to_string().into_bytes()),
            Probe::Ready => match self.redis.check().await {
                Ok(fit) => {
                    let warnings: Vec<_> = fit.warnings.iter().map(|warning| warning.text()).collect();
                    let body = json!({"ready": true, "ack": self.redis.policy().class, "warnings": warnings});
                    answer(StatusCode::OK, "application/json", body.to_string().into_bytes())
                }
                Err(error) => {
                    let body = json!({"ready": false, "reason": error.to_string()});
                    answer(StatusCode::SERVICE_UNAVAILABLE, "application/json", body.to_string().into_bytes())
                }
            },
            Probe::Metrics => answer(StatusCode::OK, "text/plain; version=0.0.4", self.metrics.render().into_bytes()),
        }
    }
}
