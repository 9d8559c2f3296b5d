//! Liveness, readiness and metrics: the same on every listener.

use http::StatusCode;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;

use crate::answer::{Answer, answer};
use auth::envelope_key::EnvelopeKeys;
use stores::redis::readiness::{Fit, Readiness};

/// A question about this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Does it run?
    Alive,
    /// Can it take requests? No while Redis is away or would not keep what is acknowledged, and not before Postgres has
    /// answered once.
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
    /// Where requests are appended.
    pub redis: Readiness,
    /// What envelopes are written with.
    pub envelope_keys: EnvelopeKeys,
    /// What was counted.
    pub metrics: PrometheusHandle,
}

impl Health {
    /// Whether requests can be taken.
    pub async fn is_ready(&self) -> bool {
        self.ready().await.is_ok()
    }

    /// Whether requests can be taken; if not, why.
    async fn ready(&self) -> Result<Fit, String> {
        let fit = self.redis.check().await.map_err(|error| error.to_string())?;
        match self.envelope_keys.get() {
            Some(_key) => Ok(fit),
            None => Err("postgres: the envelope key could not be read yet".to_owned()),
        }
    }

    /// Answers a probe.
    pub async fn answer(&self, probe: Probe) -> Answer {
        match probe {
            Probe::Alive => answer(StatusCode::OK, "application/json", json!({"alive": true}).to_string().into_bytes()),
            Probe::Ready => match self.ready().await {
                Ok(fit) => {
                    let warnings: Vec<_> = fit.warnings.iter().map(|warning| warning.text()).collect();
                    let body = json!({"ready": true, "ack": self.redis.policy().class, "warnings": warnings});
                    answer(StatusCode::OK, "application/json", body.to_string().into_bytes())
                }
                Err(reason) => {
                    let body = json!({"ready": false, "reason": reason});
                    answer(StatusCode::SERVICE_UNAVAILABLE, "application/json", body.to_string().into_bytes())
                }
            },
            Probe::Metrics => answer(StatusCode::OK, "text/plain; version=0.0.4", self.metrics.render().into_bytes()),
        }
    }
}
