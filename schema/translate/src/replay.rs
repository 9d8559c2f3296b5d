//! Calls in the form in which a replayer finds and recognises them: rows of `replay_capture`.
//!
//! A call is recognised by a hash of everything that decides its answer. The same call has the same hash however often
//! it is sent and in whatever order its maps are written. The same call in another convention may have another hash.

use std::sync::LazyLock;

use foldhash::fast::FixedState;
use hashbrown::HashSet;
use model::trace::{Attribute, Kind, Llm, ReplayCapture, Run, Span, UnixNanos, Value};
use uuid::Uuid;
use wire::tables::framed_hash_128;

use super::canonical::Canonical;
use super::json_text;

/// Attributes that are parameters of a call, by the names of the conventions.
const PARAMETERS: &[&str] = &[
    // OpenTelemetry; with the names of tools, because a span's name need not say which tool it is.
    "gen_ai.output.type",
    "gen_ai.system_instructions",
    "gen_ai.tool.definitions",
    "gen_ai.tool.name",
    // OpenInference.
    "llm.invocation_parameters",
    "tool.name",
    // OpenLLMetry.
    "llm.chat.stop_sequences",
    "llm.frequency_penalty",
    "llm.presence_penalty",
    "llm.top_k",
    // AI SDK.
    "ai.prompt.toolChoice",
    "ai.prompt.tools",
    "ai.toolCall.name",
    // Langfuse, Pydantic AI.
    "langfuse.observation.model.parameters",
    "model_request_parameters",
    // LangSmith; of its metadata, which children inherit, only members that mean nothing else.
    "langsmith.extra.invocation_params",
    "langsmith.extra.options",
    "ls_max_tokens",
    "ls_stop",
    // Our own batches have no convention; these are the names that providers use.
    "invocation_params",
    "parameters",
    "tool_choice",
    "tools",
];

/// Prefixes of attributes that are parameters as well.
const PARAMETER_PREFIXES: [&str; 6] = [
    "ai.settings.",
    "gen_ai.openai.request.",
    "gen_ai.request.",
    "llm.request.functions.",
    "llm.tools.",
    "openai.request.",
];

/// Exceptions to these prefixes: the first three have columns, and retries do not change the call.
const NO_PARAMETERS: [&str; 4] =
    ["gen_ai.request.model", "gen_ai.request.temperature", "ai.settings.temperature", "ai.settings.maxRetries"];

static BY_NAME: LazyLock<HashSet<&'static str, FixedState>> = LazyLock::new(|| PARAMETERS.iter().copied().collect());

/// Builds captures, in buffers that are reused.
#[derive(Debug, Default)]
pub struct Capturer {
    parameters: Canonical,
    inputs: Canonical,
}

/// The fields of a call that differ between a run and a span.
struct Place<'s> {
    run_id: Uuid,
    span_id: Uuid,
    parent_span_id: Uuid,
    name: &'s str,
    times: (UnixNanos, UnixNanos),
}

impl Capturer {
    /// The call of a span, if it can be replayed.
    pub fn of_span<'s>(&'s mut self, span: &'s Span<'_>) -> Option<ReplayCapture<'s>> {
        let Span { run_id, span_id, parent_span_id, ref name, start_time, end_time, .. } = *span;
        let place = Place { run_id, span_id, parent_span_id, name, times: (start_time, end_time) };
        self.capture(place, &span.llm, &span.attributes)
    }

    /// The call of one write of a run, if it can be replayed.
    pub fn of_run<'s>(&'s mut self, run: &'s Run<'_>) -> Option<ReplayCapture<'s>> {
        let Run { run_id, parent_run_id, ref name, start_time, end_time, .. } = *run;
        let times = (start_time, end_time);
        let place = Place { run_id, span_id: Uuid::nil(), parent_span_id: parent_run_id, name, times };
        self.capture(place, &run.llm, &run.attributes)
    }

    fn capture<'s>(
        &'s mut self,
        place: Place<'s>,
        llm: &'s Llm<'_>,
        attributes: &[Attribute<'_>],
    ) -> Option<ReplayCapture<'s>> {
        // The name of a tool decides what the call does; the name of a model call can be anything.
        let called = match llm.kind {
            Kind::Llm => "",
            Kind::Tool | Kind::Retriever => place.name,
            _ => return None,
        };
        if llm.inputs.is_empty() {
            return None;
        }
        let Self { parameters, inputs } = self;
        write_parameters(parameters, llm.temperature, attributes);
        inputs.clear();
        let asked = if inputs.container(&llm.inputs) { inputs.text() } else { &llm.inputs };
        let decides = [llm.kind.as_str(), called, &llm.model, &llm.provider, parameters.text(), asked];
        Some(ReplayCapture {
            run_id: place.run_id,
            span_id: place.span_id,
            parent_span_id: place.parent_span_id,
            kind: llm.kind,
            name: place.name,
            model: &llm.model,
            provider: &llm.provider,
            start_time: place.times.0,
            end_time: place.times.1,
            content_hash: framed_hash_128(&decides.map(str::as_bytes)),
            parameters: parameters.text(),
        })
    }
}

fn write_parameters(json: &mut Canonical, temperature: Option<f64>, attributes: &[Attribute<'_>]) {
    json.clear();
    json.object(|object| {
        if let Some(temperature) = temperature {
            object.member(
                |out| out.push_str("\"temperature\""),
                |value| value.plain(|out| json_text::double(temperature, out)),
            );
        }
        for Attribute { key, value } in attributes.iter().filter(|a| is_parameter(&a.key)) {
            object.member(|out| json_text::string(key, out), |out| write_value(out, value));
        }
    });
}

/// A text that is an object or array is written as that: tools and invocation parameters are sent as texts.
fn write_value(json: &mut Canonical, value: &Value<'_>) {
    let written = match value {
        Value::Str(text) | Value::Array(text) | Value::Map(text) => json.container(text),
        _ => false,
    };
    if !written {
        json.plain(|out| json_text::value(value, out));
    }
}

fn is_parameter(name: &str) -> bool {
    BY_NAME.contains(name)
        || (matches!(name.as_bytes().first(), Some(b'a' | b'g' | b'l' | b'o'))
            && PARAMETER_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
            && !NO_PARAMETERS.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(key: &'static str, value: &'static str) -> Attribute<'static> {
        Attribute { key: key.into(), value: Value::Str(value.into()) }
    }

    fn call() -> Span<'static> {
        Span {
            span_id: Uuid::from_u128(2),
            name: "chat".into(),
            llm: Llm {
                kind: Kind::Llm,
                model: "m".into(),
                provider: "p".into(),
                temperature: Some(0.5),
                inputs: r#"[{"role":"user","content":"hi"}]"#.into(),
                ..Llm::default()
            },
            attributes: vec![
                text("gen_ai.tool.definitions", r#"[{"name":"t","type":"function"}]"#),
                Attribute { key: "gen_ai.request.max_tokens".into(), value: Value::Int(7) },
                text("gen_ai.request.model", "m"),
                text("user.id", "u"),
            ],
            ..Span::default()
        }
    }

    fn hash(span: &Span<'_>) -> [u8; 16] {
        Capturer::default().of_span(span).unwrap().content_hash
    }

    #[test]
    fn captured_parameters_are_the_request_attributes_other_than_inputs() {
        let (span, mut capturer) = (call(), Capturer::default());
        let capture = capturer.of_span(&span).unwrap();
        assert_eq!(
            capture.parameters,
            r#"{"gen_ai.request.max_tokens":7,"gen_ai.tool.definitions":[{"name":"t","type":"function"}],"temperature":0.5}"#
        );
    }

    #[test]
    fn the_same_call_has_the_same_hash() {
        let (first, mut second) = (call(), call());
        second.attributes.reverse();
        second.attributes[3] = text("gen_ai.tool.definitions", r#"[ {"type":"function", "name":"t"} ]"#);
        second.llm.inputs = r#"[{"content":"hi","role":"user"}]"#.into();
        // These fields do not decide the answer.
        second.span_id = Uuid::from_u128(3);
        second.name = "another name".into();
        second.end_time = 9;
        second.llm.outputs = "hello".into();
        second.llm.user_id = "v".into();
        assert_eq!(hash(&first), hash(&second));
    }

    #[test]
    fn every_field_that_affects_the_answer_changes_the_hash() {
        type Change = fn(&mut Span<'static>);
        let changes: [(&str, Change); 8] = [
            ("kind", |s| s.llm.kind = Kind::Tool),
            ("model", |s| s.llm.model = "n".into()),
            ("provider", |s| s.llm.provider = "q".into()),
            ("model and provider", |s| (s.llm.model, s.llm.provider) = ("mp".into(), "".into())),
            ("temperature", |s| s.llm.temperature = None),
            ("parameter", |s| s.attributes[1].value = Value::Int(8)),
            ("tools", |s| s.attributes[0] = text("gen_ai.tool.definitions", r#"[{"name":"u","type":"function"}]"#)),
            ("inputs", |s| s.llm.inputs = r#"[{"role":"user","content":"ho"}]"#.into()),
        ];
        let mut hashes = vec![("", hash(&call()))];
        for (what, change) in changes {
            let mut span = call();
            change(&mut span);
            hashes.push((what, hash(&span)));
        }
        for (i, (what, hash)) in hashes.iter().enumerate() {
            for (other, before) in &hashes[..i] {
                assert_ne!(hash, before, "{what:?} and {other:?}");
            }
        }
    }

    #[test]
    fn a_tool_is_known_by_its_name() {
        let named = |name: &'static str| {
            let mut span = call();
            (span.llm.kind, span.name) = (Kind::Tool, name.into());
            hash(&span)
        };
        assert_ne!(named("add"), named("multiply"));
    }

    #[test]
    fn only_calls_with_inputs_are_captured() {
        for (kind, _) in Kind::ALL {
            let mut span = call();
            span.llm.kind = kind;
            let wanted = matches!(kind, Kind::Llm | Kind::Tool | Kind::Retriever);
            assert_eq!(Capturer::default().of_span(&span).is_some(), wanted, "{kind:?}");
            span.llm.inputs = "".into();
            assert!(Capturer::default().of_span(&span).is_none(), "{kind:?} without inputs");
        }
    }

    #[test]
    fn a_run_is_captured_as_its_span_would_be() {
        let span = call();
        let run = Run {
            run_id: span.run_id,
            llm: span.llm.clone(),
            attributes: span.attributes.clone(),
            name: "run".into(),
            ..Run::default()
        };
        let mut capturer = Capturer::default();
        let of_run = capturer.of_run(&run).unwrap();
        assert_eq!((of_run.span_id, of_run.name, of_run.content_hash), (Uuid::nil(), "run", hash(&span)));
    }
}
