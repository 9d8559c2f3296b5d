//! Realistic spans: a GenAI span is about 1.3 kB, with 11 attributes and two texts of 200 to 600 bytes. Every span
//! differs, or a column store would compress them unrealistically well.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

const MODELS: [&str; 6] =
    ["gpt-4o-mini", "gpt-4o", "claude-sonnet-4", "claude-haiku-4", "gemini-2.5-pro", "llama-4-70b"];
const WORDS: [&str; 24] = [
    "weather",
    "Paris",
    "the",
    "invoice",
    "summary",
    "of",
    "vector",
    "and",
    "customer",
    "please",
    "answer",
    "in",
    "latency",
    "token",
    "to",
    "document",
    "retrieval",
    "with",
    "context",
    "schedule",
    "a",
    "policy",
    "meeting",
    "translate",
];
/// Spans of one trace; the first is its root.
const TRACE_SPANS: usize = 5;

/// Makes requests; the same seed makes the same spans.
#[derive(Debug)]
pub struct Corpus {
    rng: StdRng,
    is_small: bool,
}

/// An OTLP request and which spans are in it.
#[derive(Clone, Debug)]
pub struct Request {
    /// The `ExportTraceServiceRequest` in protobuf.
    pub body: Vec<u8>,
    /// The ids of its spans, in the order in which it has them.
    pub span_ids: Vec<[u8; 8]>,
}

impl Corpus {
    /// A corpus of its own.
    pub fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), is_small: false }
    }

    /// A corpus of HTTP requests, of about 300 bytes each: what figures of others are often quoted for.
    pub fn small(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), is_small: true }
    }

    /// A request of `n` spans that began at `now` (Unix nanoseconds) or shortly before.
    pub fn request(&mut self, n: usize, now: u64) -> Request {
        let message = self.message(n, now);
        let spans = &message.resource_spans[0].scope_spans[0].spans;
        let span_ids = spans.iter().filter_map(|span| span.span_id.as_slice().try_into().ok()).collect();
        Request { body: message.encode_to_vec(), span_ids }
    }

    /// The same, not yet encoded.
    pub fn message(&mut self, n: usize, now: u64) -> ExportTraceServiceRequest {
        let mut spans = Vec::with_capacity(n);
        let (mut trace_id, mut root_id) = (Vec::new(), Vec::new());
        for i in 0..n {
            if i % TRACE_SPANS == 0 {
                trace_id = self.rng.random::<[u8; 16]>().to_vec();
                root_id.clear();
            }
            let span = if self.is_small {
                self.small_span(&trace_id, &root_id, now)
            } else {
                self.span(&trace_id, &root_id, now)
            };
            if root_id.is_empty() {
                root_id.clone_from(&span.span_id);
            }
            spans.push(span);
        }
        let resource = [
            ("service.name", "checkout-assistant"),
            ("telemetry.sdk.name", "opentelemetry"),
            ("telemetry.sdk.language", "python"),
            ("telemetry.sdk.version", "1.45.2"),
        ];
        ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(Resource {
                    attributes: resource.iter().map(|(k, v)| text(k, (*v).to_owned())).collect(),
                    ..Default::default()
                }),
                scope_spans: vec![ScopeSpans {
                    scope: Some(InstrumentationScope {
                        name: "genai.instrumentation".into(),
                        version: "2.1.0".into(),
                        ..Default::default()
                    }),
                    spans,
                    ..Default::default()
                }],
                ..Default::default()
            }],
        }
    }

    fn small_span(&mut self, trace_id: &[u8], root_id: &[u8], now: u64) -> Span {
        let rng = &mut self.rng;
        let number: u32 = rng.random_range(1_000_000..10_000_000);
        let (status, port) =
            (*[200, 200, 200, 201, 404, 500].choose(rng).unwrap_or(&200), rng.random_range(1_024..65_000));
        let end = now.saturating_sub(rng.random_range(0..1_000_000_000));
        Span {
            trace_id: trace_id.to_vec(),
            span_id: rng.random::<[u8; 8]>().to_vec(),
            parent_span_id: root_id.to_vec(),
            name: "GET /v1/orders/{id}".into(),
            kind: 2,
            start_time_unix_nano: end.saturating_sub(rng.random_range(100_000..400_000_000)),
            end_time_unix_nano: end,
            attributes: vec![
                text("http.request.method", "GET".into()),
                text("http.route", "/v1/orders/{id}".into()),
                text("url.path", format!("/v1/orders/{number}")),
                value("http.response.status_code", any_value::Value::IntValue(status)),
                text("server.address", "shop.example.com".into()),
                text("client.address", format!("10.{}.{}.{}", port % 256, number % 256, port / 256)),
                value("client.port", any_value::Value::IntValue(port)),
            ],
            status: Some(Status::default()),
            ..Default::default()
        }
    }

    fn span(&mut self, trace_id: &[u8], root_id: &[u8], now: u64) -> Span {
        let rng = &mut self.rng;
        let model = *MODELS.choose(rng).unwrap_or(&MODELS[0]);
        let (tokens_in, tokens_out) = (rng.random_range(20..4_000), rng.random_range(5..900));
        let (question, answer) = (words(rng), words(rng));
        let input = format!(r#"[{{"role":"user","parts":[{{"type":"text","content":"{question}"}}]}}]"#);
        let output = format!(r#"[{{"role":"assistant","parts":[{{"type":"text","content":"{answer}"}}]}}]"#);
        let end = now.saturating_sub(rng.random_range(0..1_000_000_000));
        Span {
            trace_id: trace_id.to_vec(),
            span_id: rng.random::<[u8; 8]>().to_vec(),
            parent_span_id: root_id.to_vec(),
            name: format!("chat {model}"),
            kind: 3,
            start_time_unix_nano: end.saturating_sub(rng.random_range(1_000_000..4_000_000_000)),
            end_time_unix_nano: end,
            attributes: vec![
                text("gen_ai.operation.name", "chat".into()),
                text("gen_ai.provider.name", "openai".into()),
                text("gen_ai.request.model", model.into()),
                text("gen_ai.response.model", format!("{model}-2026-08-01")),
                value("gen_ai.request.temperature", any_value::Value::DoubleValue(0.7)),
                value("gen_ai.usage.input_tokens", any_value::Value::IntValue(tokens_in)),
                value("gen_ai.usage.output_tokens", any_value::Value::IntValue(tokens_out)),
                text("gen_ai.conversation.id", format!("conv-{}", rng.random_range(0..5_000))),
                text("user.id", format!("user-{}", rng.random_range(0..800))),
                text("gen_ai.input.messages", input),
                text("gen_ai.output.messages", output),
            ],
            status: Some(Status::default()),
            ..Default::default()
        }
    }
}

fn words(rng: &mut StdRng) -> String {
    // With the JSON around it, 200 to 600 bytes.
    let length = rng.random_range(135..530);
    let mut text = format!("{:016x}", rng.random::<u64>());
    while text.len() < length {
        text.push(' ');
        text.push_str(WORDS.choose(rng).unwrap_or(&""));
    }
    text
}

/// An attribute that is a text.
pub fn text(key: &str, text: String) -> KeyValue {
    value(key, any_value::Value::StringValue(text))
}

fn value(key: &str, value: any_value::Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_of_the_size_that_figures_are_quoted_for() {
        let request = Corpus::new(1).request(1_000, 1_795_241_935_570_826_453);
        let bytes = request.body.len() / request.span_ids.len();
        assert!((1_150..1_400).contains(&bytes), "{bytes} bytes per span");
        let request = Corpus::small(1).request(1_000, 1_795_241_935_570_826_453);
        let bytes = request.body.len() / request.span_ids.len();
        assert!((260..360).contains(&bytes), "{bytes} bytes per small span");
    }
}
