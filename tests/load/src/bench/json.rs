//! The corpus in other protocols: OTLP in JSON, and LangSmith's multipart bodies.

use std::fmt::Write as _;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

/// Between the parts of a multipart body; no text of the corpus contains it.
pub(super) const BOUNDARY: &str = "1b6b5c8e2f5d4d0c";

/// A request as OTLP/JSON: ids in hexadecimal, 64-bit integers as strings.
pub(super) fn otlp(message: &ExportTraceServiceRequest) -> Value {
    let resources = message.resource_spans.iter().map(|of_resource| {
        let scopes = of_resource.scope_spans.iter().map(|of_scope| {
            let scope = of_scope.scope.as_ref().map(|scope| json!({ "name": scope.name, "version": scope.version }));
            json!({ "scope": scope, "spans": of_scope.spans.iter().map(span).collect::<Vec<_>>() })
        });
        let scopes: Vec<Value> = scopes.collect();
        let resource = of_resource.resource.as_ref().map(|resource| attributes(&resource.attributes));
        json!({ "resource": { "attributes": resource }, "scopeSpans": scopes })
    });
    let resources: Vec<Value> = resources.collect();
    json!({ "resourceSpans": resources })
}

fn span(span: &Span) -> Value {
    json!({
        "traceId": hex(&span.trace_id), "spanId": hex(&span.span_id), "parentSpanId": hex(&span.parent_span_id),
        "name": span.name, "kind": span.kind, "startTimeUnixNano": span.start_time_unix_nano.to_string(),
        "endTimeUnixNano": span.end_time_unix_nano.to_string(), "status": {},
        "attributes": attributes(&span.attributes),
    })
}

fn attributes(attributes: &[KeyValue]) -> Vec<Value> {
    let value = |attribute: &KeyValue| match attribute.value.as_ref().and_then(|any| any.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => json!({ "stringValue": text }),
        Some(any_value::Value::IntValue(number)) => json!({ "intValue": number.to_string() }),
        Some(any_value::Value::DoubleValue(number)) => json!({ "doubleValue": number }),
        // The corpus has no others.
        _ => json!({}),
    };
    attributes.iter().map(|attribute| json!({ "key": attribute.key, "value": value(attribute) })).collect()
}

/// The spans of a request as whole runs, each in a part of its own with its inputs and outputs in two others; and the
/// id of the last.
pub(super) fn multipart(message: &ExportTraceServiceRequest) -> (Vec<u8>, String) {
    let (mut body, mut last) = (String::new(), String::new());
    let spans = message.resource_spans.iter().flat_map(|r| &r.scope_spans).flat_map(|s| &s.spans);
    for span in spans {
        let id = run_id(&span.trace_id, &span.span_id);
        let (mut metadata, mut inputs, mut outputs) = (Map::new(), json!({}), json!({}));
        for attribute in attributes(&span.attributes) {
            let (key, value) = (attribute["key"].as_str().unwrap_or_default(), attribute["value"].clone());
            let value = value.as_object().and_then(|value| value.values().next()).cloned().unwrap_or_default();
            match key {
                "gen_ai.input.messages" => inputs = json!({ "messages": value }),
                "gen_ai.output.messages" => outputs = json!({ "messages": value }),
                key => _ = metadata.insert(key.to_owned(), value),
            }
        }
        let mut run = json!({
            "id": id, "trace_id": id_of_trace(&span.trace_id), "name": span.name, "run_type": "llm",
            "start_time": time(span.start_time_unix_nano), "end_time": time(span.end_time_unix_nano),
            "session_name": "bench", "extra": { "metadata": metadata, "runtime": { "sdk": "langsmith-py" } },
        });
        if !span.parent_span_id.is_empty() {
            run["parent_run_id"] = json!(run_id(&span.trace_id, &span.parent_span_id));
        }
        for (field, content) in [("", run), (".inputs", inputs), (".outputs", outputs)] {
            _ = write!(
                body,
                "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"post.{id}{field}\"\r\n\
                 Content-Type: application/json\r\n\r\n{content}\r\n"
            );
        }
        last = id.to_string();
    }
    _ = write!(body, "--{BOUNDARY}--\r\n");
    (body.into_bytes(), last)
}

/// An id of a run, out of those of a span.
fn run_id(trace_id: &[u8], span_id: &[u8]) -> Uuid {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(span_id.iter().chain(trace_id)) {
        *to = *from;
    }
    Uuid::from_bytes(bytes)
}

fn id_of_trace(trace_id: &[u8]) -> Uuid {
    Uuid::from_slice(trace_id).unwrap_or_default()
}

fn time(nanos: u64) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(nanos)).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    time.format(&Rfc3339).unwrap_or_default()
}

/// Bytes in lower case.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::Corpus;

    #[test]
    fn a_request_in_json_has_the_ids_and_attributes_of_the_corpus() {
        let message = Corpus::new(1).message(2, 1_795_241_935_570_826_453);
        let json = otlp(&message);
        let spans = &json["resourceSpans"][0]["scopeSpans"][0]["spans"];
        let sent = &message.resource_spans[0].scope_spans[0].spans[1];
        assert_eq!(spans[1]["spanId"], hex(&sent.span_id));
        assert_eq!(spans[1]["attributes"].as_array().unwrap().len(), 11);
        assert!(spans[1]["attributes"][5]["value"]["intValue"].is_string());
    }

    #[test]
    fn a_multipart_body_has_three_parts_for_each_run() {
        let message = Corpus::new(1).message(7, 1_795_241_935_570_826_453);
        let (body, last) = multipart(&message);
        let body = String::from_utf8(body).unwrap();
        assert_eq!(body.matches(&format!("--{BOUNDARY}\r\n")).count(), 21);
        assert_eq!(body.matches(&format!("name=\"post.{last}")).count(), 3);
        assert!(body.ends_with(&format!("\r\n--{BOUNDARY}--\r\n")));
    }
}
