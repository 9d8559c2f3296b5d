//! Instrumentations that speak of models in their own words: nothing is lost, and the columns say the same for all of
//! them.

use serde_json::{Value, json};
use tests::{Org, World, sdk};

use super::{borrowed, check, environment};

/// Every stored span of that name has these columns, and there is at least one.
#[track_caller]
fn understood(stored: &[Value], name: &str, wanted: Value) {
    let mut found = stored.iter().filter(|span| span["name"] == name).peekable();
    assert!(found.peek().is_some(), "no span {name}");
    for span in found {
        for (column, value) in wanted.as_object().unwrap() {
            assert_eq!(&span[column], value, "{column} of {span}");
        }
    }
}

/// The one call of a tool that failed.
#[track_caller]
fn failed(stored: &[Value], error_kind: &str) {
    let failed: Vec<_> = stored.iter().filter(|span| span["status"] == "error").collect();
    let [failed] = failed[..] else { panic!("{failed:?}") };
    assert_eq!((&failed["error_kind"], &failed["error_message"]), (&json!(error_kind), &json!("no such city")));
}

/// A stored payload that is JSON.
fn payload(stored: &[Value], name: &str, column: &str) -> Value {
    let span = stored.iter().find(|span| span["name"] == name).unwrap();
    serde_json::from_str(span[column].as_str().unwrap()).unwrap()
}

/// What every script says of its model calls.
fn model_call() -> Value {
    json!({
        "kind": "llm", "model": "gpt-4o-mini", "temperature": 0.5, "prompt_tokens": 17, "completion_tokens": 5,
        "total_tokens": 22, "cached_tokens": 3, "reasoning_tokens": 2,
    })
}

fn with(mut wanted: Value, more: &Value) -> Value {
    wanted.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    wanted
}

/// The trace is one run, with the session and the user of its root.
async fn one_run(world: &World, org: &Org, name: &str, wanted: Value) -> anyhow::Result<()> {
    let query = "SELECT name, kind, status, session_name, session_id, user_id, tags FROM run_of(org = ";
    let runs = world.clickhouse.rows(&format!("{query}'{}') WHERE name = '{name}'", org.org_id)).await?;
    let [run] = &runs[..] else { panic!("{runs:?}") };
    for (column, value) in wanted.as_object().unwrap() {
        assert_eq!(&run[column], value, "{column} of {run}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn openinference_spans_are_understood() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("openinference").await?;
    let env = environment(&world.api.url(), &org);
    let sent = sdk::python("openinference-python", "send.py", &[], &borrowed(&env)).await?;
    let stored = check(&world, &org, &sent, "otlp_protobuf", 7).await?;
    let caller = json!({"session_id": "thread-7", "user_id": "user-7", "tags": ["red", "blue"]});
    let values = json!({"inputs_attribute": "input.value", "outputs_attribute": "output.value"});
    let answer = with(json!({"kind": "chain", "inputs": "How is the weather?", "outputs": "mild in Paris"}), &values);
    understood(&stored, "answer", with(answer, &caller));
    understood(&stored, "Library", with(with(json!({"kind": "retriever"}), &values), &caller));
    understood(&stored, "ChatPromptTemplate", with(json!({"kind": "prompt"}), &values));
    understood(&stored, "RunnableSequence", with(json!({"kind": "chain", "total_tokens": 0}), &values));
    understood(&stored, "Model", with(with(model_call(), &json!({"provider": "openai"})), &caller));
    understood(&stored, "get_weather", with(json!({"kind": "tool", "inputs_attribute": "input.value"}), &caller));
    failed(&stored, "ValueError");
    let asked = payload(&stored, "Model", "inputs");
    assert_eq!(asked[0], json!({"message": {"role": "system", "content": "terse"}}));
    assert_eq!(asked[1]["message"]["content"], "How is the weather? about How is the weather? 漢😀");
    let call = &payload(&stored, "Model", "outputs")[0]["message"]["tool_calls"][0]["tool_call"];
    assert_eq!((&call["id"], &call["function"]["name"]), (&json!("call_7"), &json!("get_weather")));
    one_run(&world, &org, "answer", with(json!({"kind": "chain", "status": "ok", "session_name": "weather"}), &caller))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn openllmetry_spans_are_understood() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("openllmetry").await?;
    let (endpoint, headers) = (world.api.url(), format!("x-api-key={}", org.key));
    let env = [("TRACELOOP_BASE_URL", endpoint.as_str()), ("TRACELOOP_HEADERS", headers.as_str())];
    let sent = sdk::python("openllmetry-python", "send.py", &[], &env).await?;
    let stored = check(&world, &org, &sent, "otlp_protobuf", 6).await?;
    let caller = json!({"session_id": "thread-7", "user_id": "user-7"});
    let entity = json!({"inputs_attribute": "traceloop.entity.input", "total_tokens": 0});
    let entity = |kind: &str| with(with(json!({"kind": kind}), &entity), &caller);
    understood(&stored, "answer.workflow", with(entity("chain"), &json!({"outputs": "{\"temperature\": 17}"})));
    understood(&stored, "planner.agent", entity("agent"));
    understood(&stored, "ask.task", entity("chain"));
    understood(&stored, "get_weather.tool", entity("tool"));
    let messages = json!({"inputs_attribute": "gen_ai.input.messages", "outputs_attribute": "gen_ai.output.messages",
                          "provider": "openai", "response_model": "gpt-4o-mini-2024-07-18"});
    understood(&stored, "openai.chat", with(with(model_call(), &messages), &caller));
    assert_eq!(payload(&stored, "openai.chat", "inputs")[1]["parts"][0]["content"], "How is the weather?");
    assert_eq!(payload(&stored, "openai.chat", "outputs")[0]["parts"][1]["arguments"], json!({"city": "Paris"}));
    failed(&stored, "ValueError");
    let run = json!({"kind": "chain", "status": "ok", "session_name": "sdk-test"});
    one_run(&world, &org, "answer.workflow", with(run, &caller)).await
}

/// By Langfuse's own variables: Basic credentials at a path of Langfuse's own.
#[tokio::test(flavor = "multi_thread")]
async fn langfuse_spans_are_understood() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("langfuse").await?;
    let endpoint = world.api.url();
    let env = [
        ("LANGFUSE_BASE_URL", endpoint.as_str()),
        ("LANGFUSE_PUBLIC_KEY", "pk-any"),
        ("LANGFUSE_SECRET_KEY", org.key.as_str()),
        ("OTEL_SERVICE_NAME", "sdk-test"),
    ];
    let sent = sdk::python("langfuse-python", "send.py", &[], &env).await?;
    let stored = check(&world, &org, &sent, "otlp_protobuf", 4).await?;
    let caller = json!({"session_id": "thread-7", "user_id": "user-7", "tags": ["red", "blue"]});
    let observed = json!({"inputs_attribute": "langfuse.observation.input"});
    let observation = |kind: &str| with(with(json!({"kind": kind}), &observed), &caller);
    understood(&stored, "answer", with(observation("agent"), &json!({"total_tokens": 0})));
    understood(&stored, "look_up", with(observation("retriever"), &json!({"outputs": "[\"a page\"]"})));
    understood(&stored, "get_weather", observation("tool"));
    understood(&stored, "call_model", with(with(model_call(), &json!({"cost": 0.75})), &observation("llm")));
    assert_eq!(payload(&stored, "call_model", "outputs")["content"], "Mild. 漢😀");
    let message = &stored.iter().find(|span| span["status"] == "error").unwrap()["error_message"];
    assert_eq!(message, "no such city");
    let run = json!({"kind": "agent", "status": "ok", "session_name": "sdk-test"});
    one_run(&world, &org, "answer", with(run, &caller)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn langfuse_under_a_trace_id_of_the_callers_own() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("langfuse-own-trace").await?;
    let endpoint = world.api.url();
    let env = [
        ("LANGFUSE_BASE_URL", endpoint.as_str()),
        ("LANGFUSE_PUBLIC_KEY", "pk-any"),
        ("LANGFUSE_SECRET_KEY", org.key.as_str()),
    ];
    let trace_id = sdk::python("langfuse-python", "own_trace.py", &[], &env).await?;
    world.until_number("SELECT count() FROM span FINAL", 2).await?;
    let query = format!(
        "SELECT replaceAll(toString(run_id), '-', '') AS id, name, inputs, outputs FROM run_of(org = '{}')",
        org.org_id
    );
    let wanted =
        json!({"id": trace_id.trim(), "name": "handle-request", "inputs": r#"{"q": "hi"}"#, "outputs": "done"});
    assert_eq!(world.clickhouse.rows(&query).await?, [wanted]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn logfire_and_pydantic_ai_spans_are_understood() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("logfire").await?;
    let env = environment(&world.api.url(), &org);
    let sent = sdk::python("logfire-python", "send.py", &[], &borrowed(&env)).await?;
    let stored = check(&world, &org, &sent, "otlp_protobuf", 7).await?;
    let thread = json!({"session_id": "thread-7"});
    let messages = json!({"inputs_attribute": "gen_ai.input.messages", "outputs_attribute": "gen_ai.output.messages"});
    let call =
        json!({"kind": "llm", "model": "test", "response_model": "test", "provider": "test", "temperature": 0.5});
    understood(&stored, "chat test", with(with(call, &messages), &thread));
    let agent = json!({"kind": "agent", "model": "test", "inputs_attribute": "pydantic_ai.all_messages",
                       "outputs": "Mild. 漢😀", "total_tokens": 0});
    understood(&stored, "invoke_agent weather", with(agent, &thread));
    let tool = json!({"kind": "tool", "inputs": "{\"city\":\"a\"}", "outputs": "mild in a"});
    understood(&stored, "execute_tool get_weather", with(tool, &thread));
    understood(&stored, "answer {question}", json!({"kind": "span", "tags": ["red", "blue"]}));
    // A line of the log is a span that takes no time.
    understood(&stored, "answered", json!({"kind": "span", "status": "ok"}));
    failed(&stored, "ValueError");
    // The sum over all spans is what the agent says it used, which is not counted once more.
    let agent = stored.iter().find(|span| span["kind"] == "agent").unwrap();
    for (column, said) in [("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens")] {
        let sum: u64 = stored.iter().map(|span| span[column].as_u64().unwrap()).sum();
        assert_eq!(agent["attributes"][format!("gen_ai.aggregated_usage.{said}")], sum.to_string(), "{said}");
        assert!(sum > 0);
    }
    one_run(&world, &org, "answer {question}", json!({"status": "ok", "session_name": "sdk-test"})).await
}

/// The AI SDK, as OpenTelemetry's conventions have it.
#[tokio::test(flavor = "multi_thread")]
async fn ai_sdk_spans_are_understood() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("ai-sdk").await?;
    let env = environment(&world.api.url(), &org);
    let sent = sdk::node("ai-sdk-js", "send.mjs", &["OpenTelemetry"], &borrowed(&env)).await?;
    let stored = check(&world, &org, &sent, "otlp_protobuf", 9).await?;
    let caller = json!({"session_id": "thread-7", "user_id": "user-7"});
    let messages = json!({"inputs_attribute": "gen_ai.input.messages", "outputs_attribute": "gen_ai.output.messages"});
    let agent = json!({"kind": "agent", "provider": "openai", "total_tokens": 0});
    understood(&stored, "invoke_agent gpt-4o-mini", with(with(agent, &messages), &caller));
    understood(&stored, "step 1", with(json!({"kind": "chain"}), &caller));
    // These conventions have no word yet for the tokens of reasoning.
    let call = json!({"provider": "openai", "response_model": "gpt-4o-mini-2024-07-18", "reasoning_tokens": 0});
    understood(&stored, "chat gpt-4o-mini", with(with(model_call(), &messages), &call));
    let tool = json!({"kind": "tool", "inputs_attribute": "gen_ai.tool.call.arguments"});
    understood(&stored, "execute_tool get_weather", tool);
    failed(&stored, "TypeError");
    let embedding = json!({"kind": "embedding", "model": "text-embedding-3-small", "provider": "openai"});
    understood(&stored, "embeddings text-embedding-3-small", with(embedding, &caller));
    embedded_once(&stored);
    let run = json!({"kind": "agent", "status": "ok", "session_name": "sdk-test"});
    one_run(&world, &org, "invoke_agent gpt-4o-mini", with(run, &caller)).await
}

/// Versions 4 and 5 pass on what Anthropic counts, which leaves out what is cached; version 6 adds it up. All mean the
/// same call.
#[tokio::test(flavor = "multi_thread")]
async fn spans_of_older_ai_sdks_are_understood() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("ai-sdk-older").await?;
    let env = environment(&world.api.url(), &org);
    for (version, azure) in [("4", "azure-openai.chat"), ("5", "azure.chat"), ("6", "azure.chat")] {
        sdk::node("ai-sdk-older-js", "send.mjs", &[version], &borrowed(&env)).await?;
        let spans = format!("FROM span FINAL WHERE service_name = 'ai-{version}'");
        world.until_number(&format!("SELECT count() {spans}"), 4).await?;
        let calls = format!(
            "SELECT provider, prompt_tokens, completion_tokens, total_tokens, cached_tokens, toString(cost_usd) AS cost
            {spans} AND kind = 'llm' ORDER BY provider"
        );
        let called = |provider: &str, prompt: u64, completion: u64, cached: u64, cost: &str| {
            json!({"provider": provider, "prompt_tokens": prompt, "completion_tokens": completion,
                "total_tokens": prompt + completion, "cached_tokens": cached, "cost": cost})
        };
        // 500 at 3, 1 000 at 0.3, 200 at 3.75 and 90 at 15 dollars per million; 1 000 at 0.15 and 100 at 0.6.
        let wanted =
            [called("anthropic.messages", 1_700, 90, 1_000, "0.0039"), called(azure, 1_000, 100, 0, "0.00021")];
        assert_eq!(world.clickhouse.rows(&calls).await?, wanted, "version {version}");
    }
    Ok(())
}

/// The AI SDK, as it was up to version 6 and still is when asked to.
#[tokio::test(flavor = "multi_thread")]
async fn ai_sdk_with_its_own_attribute_names() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("ai-sdk-legacy").await?;
    let env = environment(&world.api.url(), &org);
    let sent = sdk::node("ai-sdk-js", "send.mjs", &["LegacyOpenTelemetry"], &borrowed(&env)).await?;
    let stored = check(&world, &org, &sent, "otlp_protobuf", 7).await?;
    let caller = json!({"session_id": "thread-7", "user_id": "user-7"});
    let outer = json!({"kind": "chain", "inputs_attribute": "ai.prompt", "outputs": "Mild. 漢😀", "total_tokens": 0});
    understood(&stored, "ai.generateText", with(outer, &caller));
    let call = json!({"provider": "openai.chat", "response_model": "gpt-4o-mini-2024-07-18",
                      "inputs_attribute": "ai.prompt.messages"});
    understood(&stored, "ai.generateText.doGenerate", with(with(model_call(), &call), &caller));
    let outputs: Vec<_> =
        stored.iter().filter(|span| span["kind"] == "llm").map(|span| &span["outputs_attribute"]).collect();
    assert!(outputs.contains(&&json!("ai.response.toolCalls")), "a text that is empty says nothing: {outputs:?}");
    understood(&stored, "ai.toolCall", with(json!({"kind": "tool", "inputs_attribute": "ai.toolCall.args"}), &caller));
    failed(&stored, "TypeError");
    let embedding = json!({"kind": "embedding", "model": "text-embedding-3-small", "inputs": "[\"\\\"weather\\\"\"]"});
    understood(&stored, "ai.embed.doEmbed", with(embedding, &caller));
    understood(&stored, "ai.embed", json!({"kind": "chain", "inputs": "\"weather\"", "total_tokens": 0}));
    embedded_once(&stored);
    let run = json!({"kind": "chain", "status": "ok", "session_name": "sdk-test"});
    one_run(&world, &org, "ai.generateText", with(run, &caller)).await
}

/// The embedding's four tokens are counted on one of its two spans.
#[track_caller]
fn embedded_once(stored: &[Value]) {
    let of_model = |span: &&Value| span["model"] == "text-embedding-3-small";
    let sum: u64 = stored.iter().filter(of_model).map(|span| span["prompt_tokens"].as_u64().unwrap()).sum();
    assert_eq!(sum, 4);
}
