//! The signals that are not stored: logs and metrics. Their items are counted, so that the answer can say how many were
//! rejected.
//!
//! Exporters of all signals are often configured with one endpoint. A 404 would make them log errors, and an empty
//! success would be wrong. So the answer is a `partial_success` that rejects every item, and no exporter sends these
//! items again.
//!
//! Source: opentelemetry-proto 1.x, `collector/logs/v1`, `collector/metrics/v1`, `logs/v1`, `metrics/v1`.

use std::marker::PhantomData;

use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use translate::lenient::without_bom;

use super::encoding::Encoding;
use super::wire_format::{Malformed, Message, Value as Wire};

/// The reason that the answer gives for every item.
pub const REASON: &str = "only traces are stored here; stop exporting this signal to this endpoint";

/// A signal other than traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Logs; its items are log records.
    Logs,
    /// Metrics; its items are data points.
    Metrics,
}

impl Signal {
    /// Name of the field with the number of rejected items in a JSON answer.
    pub(super) const fn rejected_name(self) -> &'static str {
        match self {
            Signal::Logs => "rejectedLogRecords",
            Signal::Metrics => "rejectedDataPoints",
        }
    }
}

/// Number of items in a request. The error says why the body is not such a request.
pub fn count(signal: Signal, encoding: Encoding, body: &[u8]) -> Result<u64, String> {
    match encoding {
        Encoding::Protobuf => count_protobuf(signal, body).map_err(|e| e.to_string()),
        Encoding::Json => count_json(without_bom(body)).map_err(|e| format!("malformed JSON: {e}")),
    }
}

fn count_protobuf(signal: Signal, body: &[u8]) -> Result<u64, Malformed> {
    // Field numbers: resources, scopes, records; or resources, scopes, metrics, one of five kinds of data, points.
    const RECORDS: &[&[u32]] = &[&[1], &[2], &[2]];
    const DATA_POINTS: &[&[u32]] = &[&[1], &[2], &[2], &[5, 7, 9, 10, 11], &[1]];
    let path = match signal {
        Signal::Logs => RECORDS,
        Signal::Metrics => DATA_POINTS,
    };
    count_at(Message::new(body), path)
}

/// Number of messages at the end of a path. Each step of the path lists the field numbers to descend into.
fn count_at(message: Message<'_>, path: &[&[u32]]) -> Result<u64, Malformed> {
    let Some((step, rest)) = path.split_first() else { return Ok(1) };
    let mut count = 0;
    let mut fields = message.fields();
    while let Some((number, value)) = fields.next_field()? {
        if step.contains(&number) {
            let Wire::Message(message) = value else { return fields.wrong_type() };
            count += count_at(message, rest)?;
        }
    }
    Ok(count)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    #[serde(default, alias = "resource_logs", alias = "resourceMetrics", alias = "resource_metrics")]
    resource_logs: Count<Resource>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Resource {
    #[serde(default, alias = "scope_logs", alias = "scopeMetrics", alias = "scope_metrics")]
    scope_logs: Count<Scope>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Scope {
    #[serde(default, alias = "log_records")]
    log_records: Count<IgnoredAny>,
    #[serde(default)]
    metrics: Count<Metric>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metric {
    #[serde(default, alias = "sum", alias = "histogram", alias = "summary")]
    #[serde(alias = "exponentialHistogram", alias = "exponential_histogram")]
    gauge: Data,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    #[serde(default, alias = "data_points")]
    data_points: Count<IgnoredAny>,
}

/// A message that contains items, or is an item.
trait Items {
    fn items(&self) -> u64;
}

impl Items for IgnoredAny {
    fn items(&self) -> u64 {
        1
    }
}

impl Items for Metric {
    fn items(&self) -> u64 {
        self.gauge.data_points.0
    }
}

impl Items for Scope {
    fn items(&self) -> u64 {
        self.log_records.0 + self.metrics.0
    }
}

impl Items for Resource {
    fn items(&self) -> u64 {
        self.scope_logs.0
    }
}

/// Number of items in a list. Each element is dropped after it is counted.
struct Count<T>(u64, PhantomData<T>);

impl<T> Default for Count<T> {
    fn default() -> Self {
        Self(0, PhantomData)
    }
}

impl<'de, T: Deserialize<'de> + Items> Deserialize<'de> for Count<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self::default())
    }
}

impl<'de, T: Deserialize<'de> + Items> Visitor<'de> for Count<T> {
    type Value = Self;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list")
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Self, A::Error> {
        while let Some(thing) = seq.next_element::<T>()? {
            self.0 += thing.items();
        }
        Ok(self)
    }
}
fn count_json(body: &[u8]) -> Result<u64, serde_json::Error> {
    serde_json::from_slice::<Request>(body).map(|request| request.resource_logs.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_counted_in_both_encodings() {
        // Two resources; the second has a scope with a gauge of two points and a sum of one point.
        let metric = [0x2a, 0x04, 0x0a, 0x00, 0x0a, 0x00];
        let sum = [0x3a, 0x02, 0x0a, 0x00];
        let wrap = |field: u8, inner: &[u8]| [&[field, inner.len() as u8], inner].concat();
        let scope = [wrap(0x12, &metric), wrap(0x12, &sum)].concat();
        let metrics = [wrap(0x0a, &[]), wrap(0x0a, &wrap(0x12, &scope))].concat();
        assert_eq!(count(Signal::Metrics, Encoding::Protobuf, &metrics), Ok(3));
        let logs = wrap(0x0a, &wrap(0x12, &[wrap(0x12, &[]), wrap(0x12, &[])].concat()));
        assert_eq!(count(Signal::Logs, Encoding::Protobuf, &logs), Ok(2));
        let json = r#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"m","gauge":{"dataPoints":[{},{"x":1}]}},
            {"sum":{"dataPoints":[{}],"isMonotonic":true}},{"name":"none"}]}]}]}"#;
        assert_eq!(count(Signal::Metrics, Encoding::Json, json.as_bytes()), Ok(3));
        let json = r#"{"resource_logs":[{"resource":{},"scopeLogs":[{"logRecords":[{"body":{}},{}]}]}]}"#;
        assert_eq!(count(Signal::Logs, Encoding::Json, json.as_bytes()), Ok(2));
        for nothing in ["{}", r#"{"resourceLogs":null}"#, r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":null}]}]}"#] {
            assert_eq!(count(Signal::Logs, Encoding::Json, nothing.as_bytes()), Ok(0));
        }
    }

    #[test]
    fn an_undecodable_request_is_malformed() {
        for (encoding, body) in [(Encoding::Protobuf, &[0x0a, 0x05, 0x00][..]), (Encoding::Json, b"{\"resourceLogs\":")]
        {
            assert!(count(Signal::Logs, encoding, body).is_err());
        }
    }
}
