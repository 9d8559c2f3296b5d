use model::trace::{Event, Tokens};

use super::*;

fn attribute(key: &'static str, value: Value<'static>) -> Attribute<'static> {
    Attribute { key: key.into(), value }
}

fn span(attributes: &[(&'static str, Value<'static>)]) -> Span<'static> {
    let attributes = attributes.iter().map(|(key, value)| attribute(key, value.clone())).collect();
    Span { attributes, ..Default::default() }
}

fn interpreted(attributes: &[(&'static str, Value<'static>)]) -> Span<'static> {
    let mut span = span(attributes);
    interpret(&mut span);
    span
}

fn text_value(text: &'static str) -> Value<'static> {
    Value::Str(text.into())
}

/// The attributes or the event with which a source has this number as its value.
fn said(source: &Source, n: u32) -> (Vec<(String, Value<'static>)>, Vec<Event<'static>>) {
    let event = |name: &'static str, key: &'static str| Event {
        name: name.into(),
        attributes: vec![attribute(key, Value::Str(n.to_string().into()))],
        ..Default::default()
    };
    let text = |n: u32| Value::Str(n.to_string().into());
    match source {
        Source::Attribute(name) => (vec![((*name).into(), text(n))], vec![]),
        Source::Member(name, path) => {
            let json = path.iter().rev().fold(n.to_string(), |json, name| format!("{{\"{name}\":{json}}}"));
            (vec![((*name).into(), Value::Str(json.into()))], vec![])
        }
        Source::List(prefix) => (vec![(format!("{prefix}0.x"), text(n))], vec![]),
        Source::EventAttribute(name, key) => (vec![], vec![event(name, key)]),
        Source::Messages(names) => (vec![], vec![event(names[0], "role")]),
    }
}

/// Interprets a model call in which each of several sources has a value.
fn of_sources(sources: &[(&Source, u32)], reversed: bool) -> Span<'static> {
    let mut span = span(&[("langsmith.span.kind", text_value("llm"))]);
    span.status = Status::Error;
    for (source, n) in sources {
        let (attributes, events) = said(source, *n);
        span.attributes.extend(attributes.into_iter().map(|(key, value)| Attribute { key: key.into(), value }));
        span.events.extend(events);
    }
    if reversed {
        span.attributes.reverse();
    }
    interpret(&mut span);
    span
}

#[test]
fn the_table_is_in_field_order_and_names_nothing_twice() {
    for (i, (field, sources)) in TABLE.iter().enumerate() {
        assert_eq!(*field as usize, i);
        for (rank, source) in sources.iter().enumerate() {
            assert!(!sources[..rank].contains(source), "{source:?} twice");
            let of_events = |s: &Source| matches!(s, Source::EventAttribute(..) | Source::Messages(_));
            assert!(of_events(source) || !sources[..rank].iter().any(of_events), "{source:?} after events");
        }
    }
    let named = TABLE.iter().flat_map(|(_, sources)| sources.iter());
    let named = named.filter(|s| matches!(s, Source::Attribute(_) | Source::Member(..))).count();
    let wanted = named + translate::usage::attribute_names().count();
    assert_eq!(table::BY_NAME.len(), wanted, "an attribute stands in two places");
}

/// For each row of the table: every source fills its field alone, and an earlier source beats a later one in any order.
#[test]
fn earlier_sources_win() {
    type Get = fn(&Span<'_>) -> String;
    let rows: [(Field, Get); FIELDS - 1] = [
        (Field::Model, |s| s.llm.model.to_string()),
        (Field::ResponseModel, |s| s.llm.response_model.to_string()),
        (Field::Provider, |s| s.llm.provider.to_string()),
        (Field::Temperature, |s| s.llm.temperature.unwrap_or_default().to_string()),
        (Field::Inputs, |s| s.llm.inputs.to_string()),
        (Field::Outputs, |s| s.llm.outputs.to_string()),
        (Field::Session, |s| s.llm.session_id.to_string()),
        (Field::User, |s| s.llm.user_id.to_string()),
        (Field::Tags, |s| s.llm.tags.join("|")),
        (Field::ErrorKind, |s| s.llm.error_kind.to_string()),
        (Field::ErrorText, |s| s.llm.error_message.to_string()),
        (Field::Name, |s| s.name.to_string()),
    ];
    for (field, get) in rows {
        let sources = TABLE[field as usize].1;
        for (i, first) in sources.iter().enumerate() {
            let wanted = match first {
                Source::List(_) => "[{\"x\":\"11\"}]",
                Source::Messages(_) => "[{\"role\":\"11\"}]",
                _ => "11",
            };
            assert_eq!(get(&of_sources(&[(first, 11)], false)), wanted, "{first:?} alone");
            for later in &sources[i + 1..] {
                for reversed in [false, true] {
                    let span = of_sources(&[(first, 11), (later, 22)], reversed);
                    // Both are in the same attribute, which then has the value of the first.
                    let same = matches!((first, later), (Source::Member(a, _), Source::Member(b, _)) if a == b);
                    assert!(same || get(&span) == wanted, "{first:?} > {later:?}: {}", get(&span));
                }
            }
        }
    }
}

/// The same for kinds: each attribute with a value for `tool`, against each later one.
#[test]
fn earlier_kinds_win() {
    let values = [
        ("langsmith.span.kind", "tool", "llm"),
        ("openinference.span.kind", "TOOL", "LLM"),
        ("langfuse.observation.type", "tool", "generation"),
        ("ai.operationId", "ai.toolCall", "ai.generateText.doGenerate"),
        ("gen_ai.operation.name", "execute_tool", "chat"),
        ("traceloop.span.kind", "tool", "workflow"),
        ("llm.request.type", "", "chat"),
    ];
    let names: Vec<_> = values.iter().map(|(name, ..)| Source::Attribute(name)).collect();
    assert_eq!(names, TABLE[Field::Kind as usize].1);
    for (i, (name, tool, _)) in values[..values.len() - 1].iter().enumerate() {
        assert_eq!(interpreted(&[(name, text_value(tool))]).llm.kind, Kind::Tool, "{name}");
        for (later, _, other) in &values[i + 1..] {
            let (winner, loser) = ((*name, text_value(tool)), (*later, text_value(other)));
            assert_eq!(interpreted(&[winner.clone(), loser.clone()]).llm.kind, Kind::Tool, "{name} > {later}");
            assert_eq!(interpreted(&[loser, winner]).llm.kind, Kind::Tool, "{name} > {later}");
        }
    }
}

#[test]
fn kinds_are_what_the_conventions_call_them() {
    use Kind::*;
    let rows: [(&str, &[(&str, Kind)]); 7] = [
        (
            "langsmith.span.kind",
            &[("llm", Llm), ("chain", Chain), ("tool", Tool), ("retriever", Retriever), ("embedding", Embedding)],
        ),
        ("langsmith.span.kind", &[("prompt", Prompt), ("parser", Parser), ("LLM", Llm)]),
        (
            "openinference.span.kind",
            &[
                ("LLM", Llm),
                ("CHAIN", Chain),
                ("TOOL", Tool),
                ("AGENT", Agent),
                ("RETRIEVER", Retriever),
                ("EMBEDDING", Embedding),
                ("RERANKER", Reranker),
                ("GUARDRAIL", Guardrail),
                ("EVALUATOR", Evaluator),
                ("PROMPT", Prompt),
                ("UNKNOWN", Span),
            ],
        ),
        (
            "langfuse.observation.type",
            &[
                ("generation", Llm),
                ("GENERATION", Llm),
                ("span", Span),
                ("SPAN", Span),
                ("event", Span),
                ("EVENT", Span),
                ("agent", Agent),
                ("Retriever", Retriever),
                ("guardrail", Guardrail),
            ],
        ),
        (
            "ai.operationId",
            &[
                ("ai.generateText.doGenerate", Llm),
                ("ai.streamText.doStream", Llm),
                ("ai.embed.doEmbed", Embedding),
                ("ai.toolCall", Tool),
                ("ai.generateText", Chain),
                ("ai.embed", Chain),
            ],
        ),
        (
            "gen_ai.operation.name",
            &[
                ("chat", Llm),
                ("generate_content", Llm),
                ("text_completion", Llm),
                ("embeddings", Embedding),
                ("execute_tool", Tool),
                ("invoke_agent", Agent),
                ("create_agent", Agent),
                ("retrieval", Retriever),
                ("invoke_workflow", Chain),
                ("agent_step", Chain),
                ("rerank", Reranker),
            ],
        ),
        ("traceloop.span.kind", &[("workflow", Chain), ("task", Chain), ("agent", Agent), ("tool", Tool)]),
    ];
    for (name, values) in rows {
        for (value, wanted) in values {
            let other = [(Box::leak(name.to_owned().into_boxed_str()) as &_, Value::Str((*value).to_owned().into()))];
            assert_eq!(interpreted(&other).llm.kind, *wanted, "{name} = {value}");
        }
    }
}

#[test]
fn kind_skips_attribute_values_that_name_no_kind() {
    let op = |v| ("gen_ai.operation.name", text_value(v));
    let openinference = |v| ("openinference.span.kind", text_value(v));
    let kind = |attributes: &[_]| interpreted(attributes).llm.kind;
    assert_eq!(kind(&[op("chain"), ("traceloop.span.kind", text_value("tool"))]), Kind::Tool);
    assert_eq!(kind(&[openinference("nonsense"), op("chat")]), Kind::Llm);
    let (system, model) = (("gen_ai.system", text_value("openai")), ("gen_ai.request.model", text_value("gpt")));
    assert_eq!(kind(std::slice::from_ref(&system)), Kind::Span);
    assert_eq!(kind(&[op("chain"), system.clone(), model.clone()]), Kind::Llm);
    // LangSmith's OTel mode names a model on every span.
    let ls_provider = ("langsmith.metadata.ls_provider", text_value("openai"));
    assert_eq!(kind(&[ls_provider, system, model]), Kind::Span);
}

#[test]
fn tokens_and_cost_are_those_of_model_calls_only() {
    let usage = |kind| {
        let kind = ("langsmith.span.kind", text_value(kind));
        let all = [("gen_ai.usage.input_tokens", Value::Int(7)), ("llm.cost.total", Value::Double(1.0)), kind];
        let llm = interpreted(&all).llm;
        (llm.tokens.total, llm.cost_usd_e8)
    };
    let known = (Some(7), Some(100_000_000));
    assert_eq!((usage("llm"), usage("embedding"), usage("reranker")), (known, known, known));
    assert_eq!((usage("chain"), usage("tool")), ((None, None), (None, None)));
}

/// The tests of the reader check which names there are and what they mean.
#[test]
fn counts_are_read_from_attributes_in_any_order() {
    let mut attributes = vec![
        ("langsmith.span.kind", text_value("llm")),
        ("gen_ai.usage.input_tokens", Value::Int(-1)),
        ("llm.token_count.prompt", text_value("17")),
        ("gen_ai.usage.output_tokens", Value::Double(5.0)),
        ("langfuse.observation.usage_details", text_value(r#"{"input":90,"input_cached_tokens":3}"#)),
        ("langfuse.observation.cost_details", Value::Map(r#"{"input":0.25,"output":"0.5"}"#.into())),
    ];
    let wanted = Tokens {
        prompt: Some(17),
        completion: Some(5),
        total: Some(22),
        cached: Some(3),
        doubtful: true,
        ..Tokens::default()
    };
    for _ in 0..2 {
        let span = interpreted(&attributes);
        assert_eq!((span.llm.tokens, span.llm.cost_usd_e8), (wanted, Some(75_000_000)));
        assert_eq!(span.attributes.len(), attributes.len(), "all of it stays");
        attributes.reverse();
    }
}

#[test]
fn input_and_output_texts_move_to_columns_and_other_attributes_stay() {
    let span = interpreted(&[
        ("a", Value::Int(1)),
        ("gen_ai.output.messages", text_value("out")),
        ("input.value", text_value("raw")),
        ("gen_ai.input.messages", text_value("in")),
        ("gen_ai.request.model", text_value("m")),
    ]);
    assert_eq!((&*span.llm.inputs, &*span.llm.inputs_attribute), ("in", "gen_ai.input.messages"));
    assert_eq!((&*span.llm.outputs, &*span.llm.outputs_attribute), ("out", "gen_ai.output.messages"));
    let left: Vec<_> = span.attributes.iter().map(|a| &*a.key).collect();
    assert_eq!(left, ["a", "input.value", "gen_ai.request.model"]);
}

#[test]
fn non_text_payloads_are_shown_and_stay_as_typed_attributes() {
    let span = interpreted(&[("output.value", Value::Int(3)), ("input.value", Value::Map("{\"a\":1}".into()))]);
    assert_eq!((&*span.llm.inputs, &*span.llm.outputs), ("{\"a\":1}", "3"));
    assert_eq!((&*span.llm.inputs_attribute, &*span.llm.outputs_attribute, span.attributes.len()), ("", "", 2));
}

#[test]
fn flattened_lists_are_ordered_by_number_and_nested() {
    let message = |key: &'static str, text| (key, text_value(text));
    let span = interpreted(&[
        message("llm.input_messages.10.message.role", "user"),
        message("llm.input_messages.2.message.role", "assistant"),
        message("llm.input_messages.2.message.tool_calls.0.tool_call.function.name", "f"),
        message("llm.input_messages.2.message.tool_calls.0.tool_call.function.arguments", "{\"x\": 1}"),
        ("llm.input_messages.0.message.contents.1.message_content.text", Value::Int(1)),
        ("llm.input_messages.0.message.contents.0.message_content.text", text_value("a\"b")),
        message("llm.input_messages.0", "contradicts what is below it"),
        message("llm.input_messages.2.message", "so does this"),
        message("llm.input_messages.x", "no index"),
        message("input.value", "raw"),
    ]);
    assert_eq!(
        &*span.llm.inputs,
        r#"["contradicts what is below it",{"message":"so does this"},{"message":{"role":"user"}}]"#
    );
    assert_eq!(span.attributes.len(), 10, "all of it stays");
    let attributes: Vec<_> = span.attributes.into_iter().filter(|a| !a.value.eq(&text_value("so does this"))).collect();
    let whole: Vec<_> = attributes.into_iter().filter(|a| a.key != "llm.input_messages.0").collect();
    assert_eq!(
        gather::list("llm.input_messages.", &whole),
        concat!(
            r#"[{"message":{"contents":[{"message_content":{"text":"a\"b"}},{"message_content":{"text":1}}]}},"#,
            r#"{"message":{"role":"assistant","tool_calls":[{"tool_call":{"function":{"arguments":"{\"x\": 1}","name":"f"}}}]}},"#,
            r#"{"message":{"role":"user"}}]"#
        )
    );
    // A name with many levels must not lead to as many nested calls.
    let deep = format!("gen_ai.prompt.0{}", ".a".repeat(100_000));
    let deep = Attribute { key: deep.into(), value: Value::Int(1) };
    let json: serde_json::Value = serde_json::from_str(&gather::list("gen_ai.prompt.", &[deep])).unwrap();
    assert!(json[0]["a"]["a"].is_object());
}

#[test]
fn event_messages_are_shown_when_no_attribute_has_more() {
    let event = |name: &'static str, attributes| Event { name: name.into(), attributes, ..Default::default() };
    let mut by_events = span(&[]);
    by_events.events = vec![
        event("gen_ai.system.message", vec![attribute("content", text_value("be terse"))]),
        event("other", vec![]),
        event("gen_ai.tool.message", vec![attribute("role", text_value("t")), attribute("id", Value::Int(1))]),
        event("gen_ai.choice", vec![attribute("index", Value::Int(0)), attribute("message", Value::Map("{}".into()))]),
        event("gen_ai.content.prompt", vec![attribute("gen_ai.prompt", text_value("later in the table"))]),
    ];
    let mut by_attribute = by_events.clone();
    interpret(&mut by_events);
    assert_eq!(&*by_events.llm.inputs, r#"[{"role":"system","content":"be terse"},{"role":"t","id":1}]"#);
    assert_eq!(&*by_events.llm.outputs, r#"[{"index":0,"message":{}}]"#);
    assert_eq!(by_events.events.len(), 5, "all of it stays");
    by_attribute.attributes = vec![attribute("input.value", text_value("x"))];
    interpret(&mut by_attribute);
    assert_eq!(&*by_attribute.llm.inputs, "x");
}

#[test]
fn errors_come_from_the_last_exception_then_the_status() {
    let exception = |message: &'static str| Event {
        name: "exception".into(),
        attributes: vec![
            attribute("exception.type", text_value("ValueError")),
            attribute("exception.message", text_value(message)),
        ],
        ..Default::default()
    };
    let mut failed = span(&[
        ("error.type", text_value("timeout")),
        ("langfuse.observation.status_message", text_value("seen by Langfuse")),
    ]);
    failed.status = Status::Error;
    failed.status_message = "it broke".into();
    let (mut by_status, mut by_type) = (failed.clone(), failed.clone());
    interpret(&mut by_status);
    assert_eq!((&*by_status.llm.error_kind, &*by_status.llm.error_message), ("timeout", "it broke"));
    by_type.status_message = "".into();
    let mut by_langfuse = by_type.clone();
    interpret(&mut by_type);
    assert_eq!(&*by_type.llm.error_message, "timeout");
    by_langfuse.attributes.remove(0);
    interpret(&mut by_langfuse);
    assert_eq!(&*by_langfuse.llm.error_message, "seen by Langfuse");
    failed.events = vec![exception("first"), exception("last")];
    let mut fine = failed.clone();
    interpret(&mut failed);
    assert_eq!((&*failed.llm.error_kind, &*failed.llm.error_message), ("ValueError", "last"));
    fine.status = Status::Ok;
    interpret(&mut fine);
    assert_eq!(&*fine.llm.error_message, "", "an exception that was handled is not a failure");
}

#[test]
fn tags_are_arrays_or_separated_by_commas() {
    let tags = |value: Value<'static>| interpreted(&[("tag.tags", value)]).llm.tags.join("|");
    assert_eq!(tags(Value::Array("[\"a\",\"b c\",1,null]".into())), "a|b c|1");
    assert_eq!(tags(text_value("[\"a\",\"b\"]")), "a|b");
    assert_eq!(tags(text_value("seq:step:1, prod,,")), "seq:step:1|prod");
}

#[test]
fn renamed_providers_share_one_name_and_langchain_is_no_provider() {
    let provider = |name| interpreted(&[("gen_ai.system", text_value(name))]).llm.provider.into_owned();
    for (old, current) in [
        ("az.ai.openai", "azure.ai.openai"),
        ("vertex_ai", "gcp.vertex_ai"),
        ("gemini", "gcp.gemini"),
        ("xai", "x_ai"),
        ("mistralai", "mistral_ai"),
        ("openai", "openai"),
        ("langchain", ""),
    ] {
        assert_eq!(provider(old), current);
    }
}

#[test]
fn a_replaced_span_name_is_kept_as_an_attribute() {
    let mut named = span(&[("langsmith.trace.name", text_value("for people"))]);
    named.name = "as sent".into();
    interpret(&mut named);
    assert_eq!(named.name, "for people");
    assert_eq!(named.attributes[1], attribute(SPAN_NAME, text_value("as sent")));
}
