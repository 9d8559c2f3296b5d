//! The hash by which a replayer recognises a call: column `content_hash` of `span` and `run`.
//!
//! It is over everything that decides the call's answer. The same call has the same hash however often it is sent and
//! in whatever order its maps are written. The same call in another convention may have another hash.

use std::sync::LazyLock;

use foldhash::fast::FixedState;
use hashbrown::HashSet;
use model::trace::{Attribute, Kind, Llm, Value};
use xxhash_rust::xxh3::xxh3_128;

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

/// The hash of a call that cannot be replayed, or of what is no call.
const NOT_REPLAYABLE: [u8; 16] = [0; 16];

/// Computes the hashes of calls, in buffers that are reused.
#[derive(Debug, Default)]
pub struct CallHasher {
    parameters: Canonical,
    inputs: Canonical,
}

impl CallHasher {
    /// The hash of a run or span; zeros if it cannot be replayed: it is no call, or its inputs are not known.
    ///
    /// XXH3 can be made to collide on purpose, but only by the org whose own calls would then be taken for each other.
    pub fn hash(&mut self, name: &str, llm: &Llm<'_>, attributes: &[Attribute<'_>]) -> [u8; 16] {
        // The name of a tool decides what the call does; the name of a model call can be anything.
        let called = match llm.kind {
            Kind::Llm => "",
            Kind::Tool | Kind::Retriever => name,
            _ => return NOT_REPLAYABLE,
        };
        if llm.inputs.is_empty() {
            return NOT_REPLAYABLE;
        }
        let Self { parameters, inputs } = self;
        write_parameters(parameters, llm.temperature, attributes);
        inputs.clear();
        let asked = if inputs.container(&llm.inputs) { inputs.text() } else { &llm.inputs };
        let parts = [llm.kind.as_str(), called, &llm.model, &llm.provider, parameters.text(), asked];
        // The hash of the parts' hashes, so that nothing is copied and different parts cannot give the same bytes.
        let hashes = parts.map(|part| xxh3_128(part.as_bytes()).to_be_bytes());
        xxh3_128(hashes.as_flattened()).to_be_bytes()
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
    use model::trace::Span;
    use uuid::Uuid;

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
        CallHasher::default().hash(&span.name, &span.llm, &span.attributes)
    }

    #[test]
    fn the_hash_of_a_call_is_pinned() {
        // xxhash in Python: xxh3_128_hexdigest(b''.join(xxh3_128_digest(part) for part in parts)).
        assert_eq!(format!("{:032x}", u128::from_be_bytes(hash(&call()))), "b1a78b8a4848bf2cdc486202a28ae25e");
    }

    #[test]
    fn parameters_are_the_request_attributes_other_than_inputs() {
        let (span, mut json) = (call(), Canonical::default());
        write_parameters(&mut json, span.llm.temperature, &span.attributes);
        assert_eq!(
            json.text(),
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
    fn only_calls_with_inputs_have_a_hash() {
        for (kind, _) in Kind::ALL {
            let mut span = call();
            span.llm.kind = kind;
            let is_call = matches!(kind, Kind::Llm | Kind::Tool | Kind::Retriever);
            assert_eq!(hash(&span) != NOT_REPLAYABLE, is_call, "{kind:?}");
            span.llm.inputs = "".into();
            assert_eq!(hash(&span), NOT_REPLAYABLE, "{kind:?} without inputs");
        }
    }

    /// The view `replay_of` shows a call's parameters; it has the names of attributes from here.
    #[test]
    fn the_newest_view_of_calls_has_the_same_parameters() {
        const VIEW: &str = include_str!("../../migrations/clickhouse/0011_one_row_per_span.up.sql");
        for name in PARAMETERS.iter().chain(&PARAMETER_PREFIXES).chain(&NO_PARAMETERS) {
            assert!(VIEW.contains(&format!("'{name}'")), "{name}");
        }
        let quoted = VIEW.matches("'gen_ai.").count() + VIEW.matches("'ai.").count() + VIEW.matches("'llm.").count();
        let of = |list: &[&str]| {
            list.iter().filter(|name| ["gen_ai.", "ai.", "llm."].iter().any(|start| name.starts_with(start))).count()
        };
        let times = VIEW.matches("'gen_ai.output.type'").count();
        let wanted = of(PARAMETERS) + of(&PARAMETER_PREFIXES) + of(&NO_PARAMETERS);
        assert_eq!(quoted, wanted * times, "the view has a name that is not here");
    }
}
