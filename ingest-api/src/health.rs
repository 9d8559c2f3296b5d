//! Liveness, readiness and metrics, the same on every listener.

use auth::envelope_key::EnvelopeKeys;
use http::StatusCode;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;
use stores::redis::readiness::{Readiness, Ready};

use crate::answer::{Answer, answer};

/// A question about the state of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Whether the process runs.
    Alive,
    /// Whether the process can take requests. It cannot while Redis is away or would not keep acknowledged data, and
    /// not before Postgres has answered once.
    Ready,
    /// The metrics that the process has collected.
    Metrics,
}

impl Probe {
    /// The probe with that path; `None` if there is none.
    pub fn of(path: &str) -> Option<Self> {
        [Probe::Alive, Probe::Ready, Probe::Metrics].into_iter().find(|probe| probe.path() == path)
    }

    /// The path that answers this probe.
    pub const fn path(self) -> &'static str {
        match self {
            Probe::Alive => "/healthz",
            Probe::Ready => "/readyz",
            Probe::Metrics => "/metrics",
        }
    }
}

/// The parts that probes are answered from.
#[derive(Clone)]
pub struct Health {
    /// Readiness of the Redis to which requests are appended.
    pub redis: Readiness,
    /// The keys that envelopes are sealed with.
    pub envelope_keys: EnvelopeKeys,
    /// Renders the metrics of this process.
    pub metrics: PrometheusHandle,
}

impl Health {
    /// Whether the process can take requests.
    pub async fn is_ready(&self) -> bool {
        self.ready().await.is_ok()
    }

    /// Whether the process can take requests; if not, the reason as an error.
    async fn ready(&self) -> Result<Ready, String> {
        let ready = self.redis.check().await.map_err(|error| error.to_string())?;
        match self.envelope_keys.get() {
            Some(_key) => Ok(ready),
            None => Err("postgres: the envelope key could not be read yet".to_owned()),
        }
    }

    /// Answers a probe: 200 if it succeeds, 503 if the process cannot take requests.
    pub async fn answer(&self, probe: Probe) -> Answer {
        match probe {
            Probe::Alive => answer(StatusCode::OK, "application/json", json!({"alive": true}).to_string().into_bytes()),
            Probe::Ready => match self.ready().await {
                Ok(ready) => {
                    let warnings: Vec<_> = ready.warnings.iter().map(|warning| warning.text()).collect();
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
