//! The corpus in JSON: as OTLP and as a batch of our own.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Sent;
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// The request in protobuf's JSON mapping.
pub(crate) fn otlp_json(message: &ExportTraceServiceRequest) -> Vec<u8> {
    let groups = message.resource_spans.iter().map(|group| {
        let attributes = group.resource.iter().flat_map(|resource| &resource.attributes);
        let scopes = group.scope_spans.iter().map(|scoped| {
            let (name, version) = scoped.scope.as_ref().map_or(("", ""), |scope| (&scope.name, &scope.version));
            let spans = scoped.spans.iter().map(otlp_span);
            json!({"scope": {"name": name, "version": version}, "spans": spans.collect::<Vec<_>>()})
        });
        json!({
            "resource": {"attributes": attributes.map(key_value).collect::<Vec<_>>()},
            "scopeSpans": scopes.collect::<Vec<_>>(),
        })
    });
    json!({"resourceSpans": groups.collect::<Vec<_>>()}).to_string().into_bytes()
}

fn otlp_span(span: &Span) -> Value {
    json!({
        "traceId": hex(&span.trace_id),
        "spanId": hex(&span.span_id),
        "parentSpanId": hex(&span.parent_span_id),
        "name": span.name,
        "kind": span.kind,
        "startTimeUnixNano": span.start_time_unix_nano.to_string(),
        "endTimeUnixNano": span.end_time_unix_nano.to_string(),
        "attributes": span.attributes.iter().map(key_value).collect::<Vec<_>>(),
        "status": {},
    })
}

fn key_value(attribute: &KeyValue) -> Value {
    let value = match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Sent::StringValue(text)) => json!({"stringValue": text}),
        Some(Sent::IntValue(number)) => json!({"intValue": number.to_string()}),
        Some(Sent::DoubleValue(number)) => json!({"doubleValue": number}),
        // The corpus has no others.
        _ => Value::Null,
    };
    json!({"key": attribute.key, "value": value})
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The request's spans as loose spans of our own protocol, with the same texts and counts.
pub(crate) fn native(message: &ExportTraceServiceRequest) -> Vec<u8> {
    let spans = message.resource_spans.iter().flat_map(|group| &group.scope_spans).flat_map(|scoped| &scoped.spans);
    let spans: Vec<_> = spans.map(native_span).collect();
    json!({"schema_version": 1, "sdk": "python", "sdk_version": "1.45.2", "spans": spans}).to_string().into_bytes()
}

fn native_span(span: &Span) -> Value {
    let mut members = Map::new();
    let mut attributes = Map::new();
    for attribute in &span.attributes {
        let value = match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
            Some(Sent::StringValue(text)) => json!(text),
            Some(Sent::IntValue(number)) => json!(number),
            Some(Sent::DoubleValue(number)) => json!(number),
            _ => Value::Null,
        };
        match field(&attribute.key) {
            Some(field) => _ = members.insert(field.to_owned(), value),
            None => _ = attributes.insert(attribute.key.clone(), value),
        }
    }
    let id = |bytes: &[u8]| {
        let mut id = [0; 16];
        id.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        Uuid::from_bytes(id).to_string()
    };
    members.insert("span_id".to_owned(), json!(id(&span.span_id)));
    members.insert("run_id".to_owned(), json!(id(&span.trace_id)));
    if !span.parent_span_id.is_empty() {
        members.insert("parent_span_id".to_owned(), json!(id(&span.parent_span_id)));
    }
    members.insert("name".to_owned(), json!(span.name));
    members.insert("kind".to_owned(), json!("llm"));
    members.insert("start_time".to_owned(), json!(time(span.start_time_unix_nano)));
    members.insert("end_time".to_owned(), json!(time(span.end_time_unix_nano)));
    members.insert("attributes".to_owned(), Value::Object(attributes));
    Value::Object(members)
}

/// The field of our own protocol for what the corpus has as an attribute, if it has one.
fn field(key: &str) -> Option<&'static str> {
    Some(match key {
        "gen_ai.request.model" => "model",
        "gen_ai.request.temperature" => "temperature",
        "gen_ai.usage.input_tokens" => "prompt_tokens",
        "gen_ai.usage.output_tokens" => "completion_tokens",
        "gen_ai.conversation.id" => "session_id",
        "user.id" => "user_id",
        "gen_ai.input.messages" => "inputs",
        "gen_ai.output.messages" => "outputs",
        _ => return None,
    })
}

/// A time of the day that all spans of the corpus are from, as text.
fn time(unix_nanos: u64) -> String {
    let (seconds, nanos) = (unix_nanos / 1_000_000_000 % 86_400, unix_nanos % 1_000_000_000);
    format!("2026-11-21T{:02}:{:02}:{:02}.{nanos:09}Z", seconds / 3600, seconds / 60 % 60, seconds % 60)
}
