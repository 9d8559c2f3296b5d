//! How much memory a small body may take: JSON of many tiny values must not cost a large multiple of its bytes.
//!
//! This test binary has one test, because the test measures the peak memory of the process.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use ingest_api::body::Budget;
use ingest_api::decoder::Decoder;
use model::ids::{ApiKeyId, EnvelopeId, OrgId, ProjectId, WorkspaceId};
use otlp::encoding::Encoding;
use otlp::untraced;
use otlp::untraced::Signal;
use uuid::Uuid;
use wire::envelope::{ContentId, Header};

const MIB: usize = 1 << 20;
/// Size of each body, in bytes.
const BODY_BYTES: usize = 32 * MIB;
/// Most bytes of memory beyond what the process had before: the body, one repaired copy of it, and the named limits.
const GROWTH_MAX: usize = 5 * BODY_BYTES;

fn peak_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().unwrap() * 1024
}

fn filled(before: &str, item: &str, after: &str) -> String {
    let mut body = String::with_capacity(BODY_BYTES + 1024);
    body.push_str(before);
    while body.len() < BODY_BYTES {
        body.push_str(item);
        body.push(',');
    }
    body.pop();
    body.push_str(after);
    body
}

#[test]
fn memory_stays_small_for_json_of_many_tiny_values() {
    let nil = Uuid::nil();
    let header = |source| Header {
        envelope_id: EnvelopeId(nil),
        org_id: OrgId(nil),
        workspace_id: WorkspaceId(nil),
        project_id: ProjectId(nil),
        api_key_id: ApiKeyId(nil),
        content_id: ContentId::NONE,
        received_at: 0,
        source,
    };
    let before = peak_bytes();
    let ids = r#""traceId":"0102030405060708090a0b0c0d0e0f10","spanId":"0102030405060708","name":"n""#;
    let span = format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{{ids}"#);
    let value = |inside: &str| format!(r#"{span},"attributes":[{{"key":"k","value":{inside}"#);
    let run = r#"{"runs":[{"run_id":"0190b7a4-0000-7000-8000-000000000001","name":"n","kind":"llm","start_time":"2026-01-02T03:04:05Z""#;
    let otlp = &Decoder::OtlpJson(String::new());
    let native = &Decoder::Native;
    for (decoder, before_items, item, after) in [
        (otlp, r#"{"resourceSpans":["#, "{}", "]}"),
        (otlp, r#"{"resourceSpans":[{"scopeSpans":["#, "{}", "]}]}"),
        (otlp, r#"{"resourceSpans":[{"scopeSpans":[{"spans":["#, "7", "]}]}]}"),
        (otlp, r#"{"resourceSpans":[{"resource":{"attributes":["#, "{}", "]}}]}"),
        (otlp, &format!(r#"{span},"events":["#), "{}", "]}]}]}]}"),
        (otlp, &value(r#"{"arrayValue":{"values":["#), "{}", "]}}}]}]}]}]}"),
        (otlp, &value(r#"{"kvlistValue":{"values":["#), "{}", "]}}}]}]}]}]}"),
        (native, r#"{"runs":["#, "7", "]}"),
        (native, &format!(r#"{run},"spans":["#), "7", "]}]}"),
        (native, &format!(r#"{run},"tags":["#), r#""""#, "]}]}"),
        (native, &format!(r#"{run},"metadata":{{"#), r#""":1"#, "}}]}"),
        (native, &format!(r#"{run},"inputs":["#), "{}", "]}]}"),
        (native, "{", r#""":1"#, "}"),
    ] {
        let body = filled(before_items, item, after);
        let budget = Budget::new(BODY_BYTES, BODY_BYTES);
        let done =
            decoder.decode(&header(decoder.source()), body.as_bytes(), &budget).map(|(counts, _)| counts.accepted());
        let grown = peak_bytes() - before;
        assert!(grown < GROWTH_MAX, "{grown} bytes for {before_items}{item}: {done:?}");
    }
    for item in [r#"{"scopeLogs":[{}]}"#, "{}"] {
        let body = filled(r#"{"resourceLogs":["#, item, "]}");
        untraced::count(Signal::Logs, Encoding::Json, body.as_bytes()).unwrap();
        let grown = peak_bytes() - before;
        assert!(grown < GROWTH_MAX, "{grown} bytes for logs of {item}");
    }
}
