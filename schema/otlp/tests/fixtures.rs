//! Compares what we read from requests of real SDKs with what a reference normaliser extracts from them.
//!
//! `fixtures/otlp/<name>.bin` is the body of a request. `<name>.json` has its headers and, as `expect`, the spans. This
//! test states how the reference differs from us: it counts the attributes of flattened messages where we rebuild the
//! messages, it reads no messages from events, and it names a model and a provider only where they are useful to show.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use model::trace::{Attribute, Kind, Origin, Span, Status, Value};
use otlp::{Sink, SpanError, decode_json, decode_protobuf, semantics};
use serde_json::{Value as Json, json};

/// Interprets the spans of a decoder, and writes them down in the reference's form.
#[derive(Default)]
struct Found(Vec<Json>);

impl<'a> Sink<'a> for Found {
    fn origin(&mut self) {}

    fn span(&mut self, origin: &Origin<'a>, span: &mut Span<'a>) {
        let sent = span.attributes.clone();
        semantics::interpret(span);
        nothing_is_lost(&sent, span);
        self.0.push(described(origin, span));
    }

    fn reject(&mut self, _: &Span<'a>, error: SpanError) {
        panic!("rejected: {error}");
    }
}

fn nothing_is_lost(sent: &[Attribute<'_>], span: &Span<'_>) {
    for attribute in sent {
        let moved =
            |key: &str, text: &str| attribute.key == key && attribute.value == Value::Str(text.to_owned().into());
        let llm = &span.llm;
        assert!(
            // Compared as text, because a NaN is not equal to itself.
            span.attributes.iter().any(|kept| format!("{kept:?}") == format!("{attribute:?}"))
                || moved(&llm.inputs_attribute, &llm.inputs)
                || moved(&llm.outputs_attribute, &llm.outputs),
            "{} is lost",
            attribute.key
        );
    }
}

fn described(origin: &Origin<'_>, span: &Span<'_>) -> Json {
    let id = |id: uuid::Uuid, from: usize| id.simple().to_string()[from..].to_owned();
    let llm = &span.llm;
    let mut all = json!({
        "trace_id": id(span.run_id, 0),
        "span_id": id(span.span_id, 16),
        "name": span.name,
        "kind": llm.kind.as_str(),
        "start_time_unix_nano": span.start_time.to_string(),
        "end_time_unix_nano": span.end_time.to_string(),
        "status": if span.status == Status::Error { "error" } else { "ok" },
        "scope": origin.scope_name,
        "service_name": origin.service_name,
        "session_id": llm.session_id,
        "user_id": llm.user_id,
        "model": llm.model,
        "response_model": llm.response_model,
        "provider": llm.provider,
        "inputs_raw": llm.inputs,
        "outputs_raw": llm.outputs,
        "error_message": llm.error_message,
        "error_type": llm.error_kind,
    });
    if !span.parent_span_id.is_nil() {
        all["parent_span_id"] = id(span.parent_span_id, 16).into();
    }
    if !llm.tags.is_empty() {
        all["tags"] = json!(llm.tags);
    }
    if !span.events.is_empty() {
        all["event_names"] = span.events.iter().map(|event| &*event.name).collect();
    }
    if !span.links.is_empty() {
        all["links"] = span.links.len().into();
    }
    // The tool's name has no column: it stays in its attribute.
    let tool = ["gen_ai.tool.name", "tool.name", "ai.toolCall.name"]
        .iter()
        .find_map(|name| span.attributes.iter().find(|attribute| attribute.key == *name));
    if let Some(Attribute { value: Value::Str(name), .. }) = tool {
        all["tool_name"] = json!(name);
    }
    if let Some(cost) = llm.cost_usd_e8 {
        all["cost_total"] = json!(cost as f64 / 1e8);
    }
    let tokens = llm.tokens;
    let counts = [
        ("input", tokens.prompt),
        ("output", tokens.completion),
        ("total", tokens.total),
        ("cache_read", tokens.cached),
        ("reasoning", tokens.reasoning),
    ];
    let counts: BTreeMap<_, _> = counts.into_iter().filter(|(_, n)| n.is_some_and(|n| n > 0)).collect();
    if !counts.is_empty() {
        all["tokens"] = json!(counts);
    }
    let fields = all.as_object_mut().unwrap();
    fields.retain(|_, value| *value != "");
    all
}

/// Removes the fields that the reference expresses in another way, after comparing them.
fn compare(name: &str, mut found: Json, mut expected: Json) {
    let (ours, theirs) = (found.as_object_mut().unwrap(), expected.as_object_mut().unwrap());
    // Only the request can name the project: see `sdks::captured`.
    theirs.remove("project");
    // The reference has models and providers only on model calls, and the answering model only if it was named.
    let calls_a_model = [Kind::Llm, Kind::Embedding].iter().any(|kind| ours["kind"] == kind.as_str());
    for key in ["model", "provider", "response_model"] {
        if !calls_a_model && !theirs.contains_key(key) {
            ours.remove(key);
        }
    }
    let flattened = theirs.remove("flattened_message_keys").is_some();
    for key in ["inputs_raw", "outputs_raw"] {
        let from_list = flattened && ours.get(key).is_some_and(|v| v.as_str().unwrap().starts_with("[{"));
        let from_events = !theirs.contains_key(key) && ours.get("event_names").is_some();
        let from_documents = !theirs.contains_key(key) && ours["kind"] == "retriever";
        if ours.contains_key(key) && (from_list || from_events || from_documents) {
            let json: Json = serde_json::from_str(ours[key].as_str().unwrap()).unwrap();
            assert!(json.is_array(), "{name}: {json}");
            ours.remove(key);
            theirs.remove(key);
        }
    }
    let keys = found.as_object().unwrap().keys().chain(expected.as_object().unwrap().keys());
    let differ: std::collections::BTreeSet<_> = keys.filter(|key| found[*key] != expected[*key]).collect();
    let differ: Vec<_> = differ.iter().map(|key| format!("{key}: {} for {}", found[*key], expected[*key])).collect();
    assert!(differ.is_empty(), "{name}, {}:\n{}", found["name"], differ.join("\n"));
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/otlp")
}

/// The body as the decoder gets it: without its gRPC frame, and decompressed.
fn body(name: &str, request: &Json) -> Vec<u8> {
    let mut bytes = std::fs::read(fixtures().join(name)).unwrap();
    let header = |name: &str| {
        let headers = request["headers"].as_array().unwrap();
        let found = headers.iter().find(|h| h[0].as_str().unwrap().eq_ignore_ascii_case(name));
        found.map_or("", |h| h[1].as_str().unwrap())
    };
    let mut compressed = header("content-encoding") == "gzip";
    if header("content-type") == "application/grpc" {
        compressed = bytes[0] == 1;
        bytes.drain(..5);
    }
    if compressed {
        let mut plain = Vec::new();
        #[allow(clippy::disallowed_methods)] // our own file
        flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut plain).unwrap();
        bytes = plain;
    }
    bytes
}

#[test]
fn captured_requests_are_understood() {
    let mut requests = 0;
    for entry in std::fs::read_dir(fixtures()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        requests += 1;
        let request: Json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let name = request["name"].as_str().unwrap();
        let body = body(request["body_file"].as_str().unwrap(), &request);
        let mut found = Found::default();
        if body[0] == b'{' {
            decode_json(&body, &mut found).unwrap();
        } else {
            decode_protobuf(&body, &mut found).unwrap();
        }
        let expected = request["expect"]["spans"].as_array().unwrap();
        assert_eq!(found.0.len(), expected.len(), "{name}");
        for (found, expected) in found.0.into_iter().zip(expected) {
            compare(name, found, expected.clone());
        }
    }
    assert_eq!(requests, 15);
}
