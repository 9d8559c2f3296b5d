use super::*;

fn span(attributes: &[(&'static str, Value<'static>)]) -> Span<'static> {
    let attributes =
        attributes.iter().map(|(key, value)| Attribute { key: (*key).into(), value: value.clone() }).collect();
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

#[test]
fn table_is_in_field_order_and_names_nothing_twice() {
    for (i, (field, _)) in TABLE.iter().enumerate() {
        assert_eq!(*field as usize, i);
    }
    assert_eq!(BY_NAME.len(), TABLE.iter().map(|(_, names)| names.len()).sum::<usize>());
}

/// Row by row: for every field, every attribute alone fills it, and an earlier one beats a later one in any order.
#[test]
fn earlier_attributes_win() {
    type Get = fn(&Span<'_>) -> String;
    let rows: [(Field, Get); 7] = [
        (Field::Model, |s| s.llm.model.to_string()),
        (Field::ResponseModel, |s| s.llm.response_model.to_string()),
        (Field::Provider, |s| s.llm.provider.to_string()),
        (Field::Inputs, |s| s.llm.inputs.to_string()),
        (Field::Outputs, |s| s.llm.outputs.to_string()),
        (Field::Session, |s| s.llm.session_id.to_string()),
        (Field::User, |s| s.llm.user_id.to_string()),
    ];
    for (field, get) in rows {
        let names = TABLE[field as usize].1;
        for (i, name) in names.iter().enumerate() {
            assert_eq!(get(&interpreted(&[(name, text_value("x"))])), "x", "{name}");
            for later in &names[i + 1..] {
                let (winner, loser) = ((*name, text_value("first")), (*later, text_value("second")));
                assert_eq!(get(&interpreted(&[winner.clone(), loser.clone()])), "first", "{name} > {later}");
                assert_eq!(get(&interpreted(&[loser, winner])), "first", "{name} > {later}");
            }
        }
    }
}

#[test]
fn token_counts_come_from_every_name_and_only_for_model_calls() {
    type Get = fn(&Span<'_>) -> u32;
    let rows: [(Field, Get); 5] = [
        (Field::PromptTokens, |s| s.llm.tokens.prompt),
        (Field::CompletionTokens, |s| s.llm.tokens.completion),
        (Field::TotalTokens, |s| s.llm.tokens.total),
        (Field::CachedTokens, |s| s.llm.tokens.cached),
        (Field::ReasoningTokens, |s| s.llm.tokens.reasoning),
    ];
    for (field, get) in rows {
        for name in TABLE[field as usize].1 {
            let llm = ("langsmith.span.kind", text_value("llm"));
            let chain = ("langsmith.span.kind", text_value("chain"));
            assert_eq!(get(&interpreted(&[(name, Value::Int(7)), llm])), 7, "{name}");
            assert_eq!(get(&interpreted(&[(name, Value::Int(7)), chain])), 0, "{name}");
        }
    }
}

#[test]
fn kind_falls_through_values_that_say_nothing() {
    let op = |v| ("gen_ai.operation.name", text_value(v));
    let openinference = |v| ("openinference.span.kind", text_value(v));
    let kind = |attributes: &[_]| interpreted(attributes).llm.kind;
    assert_eq!(kind(&[op("chat")]), Kind::Llm);
    assert_eq!(kind(&[op("execute_tool")]), Kind::Tool);
    assert_eq!(kind(&[op("chain"), ("traceloop.span.kind", text_value("tool"))]), Kind::Tool);
    assert_eq!(kind(&[op("chat"), openinference("AGENT")]), Kind::Agent);
    assert_eq!(kind(&[openinference("nonsense"), op("chat")]), Kind::Llm);
    assert_eq!(kind(&[("ai.operationId", text_value("ai.streamText.doStream"))]), Kind::Llm);
    assert_eq!(kind(&[("gen_ai.system", text_value("openai"))]), Kind::Span);
    let model = ("gen_ai.request.model", text_value("gpt"));
    assert_eq!(kind(&[("gen_ai.system", text_value("openai")), model]), Kind::Llm);
}

#[test]
fn texts_are_moved_and_everything_else_stays() {
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
fn errors_come_from_the_last_exception_then_the_status() {
    use schema::model::Event;
    let exception = |message: &'static str| Event {
        name: "exception".into(),
        attributes: vec![
            Attribute { key: "exception.type".into(), value: text_value("ValueError") },
            Attribute { key: "exception.message".into(), value: text_value(message) },
        ],
        ..Default::default()
    };
    let mut failed = span(&[("error.type", text_value("timeout"))]);
    failed.status = Status::Error;
    failed.status_message = "it broke".into();
    let mut by_status = failed.clone();
    interpret(&mut by_status);
    assert_eq!((&*by_status.llm.error_kind, &*by_status.llm.error_message), ("timeout", "it broke"));
    failed.events = vec![exception("first"), exception("last")];
    let mut fine = failed.clone();
    interpret(&mut failed);
    assert_eq!((&*failed.llm.error_kind, &*failed.llm.error_message), ("ValueError", "last"));
    fine.status = Status::Ok;
    interpret(&mut fine);
    assert_eq!(&*fine.llm.error_message, "", "an exception that was handled is not a failure");
}

#[test]
fn cost_is_exact_to_eight_digits_or_unknown() {
    assert_eq!(cost_e8(0.001_234_56), Some(123_456));
    assert_eq!(cost_e8(1e30), None);
}
