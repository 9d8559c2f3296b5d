//! What real exporters send and no specification expects, through the real servers: attributes that repeat, parts and
//! values that cannot be read, traces without a root.

use http::{Method, StatusCode};
use load::client::Http;
use load::corpus::Corpus;
use load::prost::Message;
use serde_json::{Value, json};
use tests::{Org, World, now};

/// One span in OTLP/JSON, with more members.
fn span(trace: u8, id: u8, members: &str) -> String {
    timed(trace, id, "n", [now(); 2], members)
}

fn timed(trace: u8, id: u8, name: &str, [start, end]: [u64; 2], members: &str) -> String {
    let (trace, id) = (format!("{trace:02x}").repeat(16), format!("{id:02x}").repeat(8));
    let times = format!(r#""startTimeUnixNano":"{start}","endTimeUnixNano":"{end}""#);
    let comma = if members.is_empty() { "" } else { "," };
    format!(r#"{{"traceId":"{trace}","spanId":"{id}","name":"{name}",{times}{comma}{members}}}"#)
}

fn request(resource: &str, spans: &[String]) -> String {
    format!(r#"{{"resourceSpans":[{{"resource":{resource},"scopeSpans":[{{"spans":[{}]}}]}}]}}"#, spans.join(","))
}

async fn post(world: &World, org: &Org, body: impl Into<Vec<u8>>) -> anyhow::Result<Value> {
    let url = format!("{}/v1/traces", world.api.url());
    let answer = world.http.post(&url, &org.key, "application/json", body.into()).await?;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json()
}

fn pair(key: &str, value: &str) -> String {
    format!(r#"{{"key":"{key}","value":{{"stringValue":"{value}"}}}}"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_client_on_the_grpc_port_gets_an_explanation() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("wrong-port").await?;
    let export = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
    let body = Corpus::new(3).request(2, now()).body;
    let key = ("x-api-key", &*org.key);
    for http in [Http::new(), Http::http2()] {
        for path in ["/v1/traces", "/", "/healthz", "/runs/batch", export] {
            for method in [Method::POST, Method::GET, Method::PUT, Method::OPTIONS] {
                for content_type in [
                    None,
                    Some("application/json"),
                    Some("application/x-protobuf"),
                    Some("application/grpc-web+proto"),
                    Some("application/grpcx"),
                ] {
                    for key in [None, Some(key)] {
                        let content_type = content_type.map(|value| ("content-type", value));
                        let headers: Vec<_> = content_type.into_iter().chain(key).collect();
                        let url = format!("{}{path}", world.api.otlp_grpc_url());
                        let answer = http.send(method.clone(), &url, &headers, body.clone()).await?;
                        let case = format!("{method} {path} {headers:?} {:?}", answer.version);
                        assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{case}");
                        assert!(answer.header("grpc-status").is_none(), "{case}");
                        let text = String::from_utf8_lossy(&answer.body);
                        assert!(text.contains("send OTLP/HTTP to the HTTP port"), "{case}: {text}");
                    }
                }
            }
        }
    }
    // gRPC needs HTTP/2, too.
    let grpc = [key, ("content-type", "application/grpc")];
    let url = format!("{}{export}", world.api.otlp_grpc_url());
    let answer = Http::new().send(Method::POST, &url, &grpc, body).await?;
    assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(world.waiting().await?.iter().sum::<u64>(), 0, "something was stored");
    // In any case of letters, and with parameters, it is gRPC.
    let message = Corpus::new(4).request(2, now()).body;
    let framed = [&[0][..], &u32::try_from(message.len())?.to_be_bytes(), &message].concat();
    for content_type in ["application/grpc", "Application/GRPC+proto", "application/grpc+proto; charset=utf-8"] {
        let headers = [key, ("content-type", content_type), ("te", "trailers")];
        let answer = Http::http2().send(Method::POST, &url, &headers, framed.clone()).await?;
        assert_eq!((answer.status, &*answer.body), (StatusCode::OK, &[0; 5][..]), "{content_type}");
    }
    world.until_drained().await?;
    world.until_number("SELECT count() FROM span FINAL", 2).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_attribute_is_stored_once_with_its_last_value() -> anyhow::Result<()> {
    use load::opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
    let world = World::start().await?;
    let org = world.org("repeats").await?;
    let twice = format!("{},{},{}", pair("k", "old"), pair("other", "o"), pair("k", "new"));
    let tokens = |n: u32| format!(r#"{{"key":"gen_ai.usage.output_tokens","value":{{"intValue":"{n}"}}}}"#);
    let map = format!(r#"{{"key":"m","value":{{"kvlistValue":{{"values":[{twice}]}}}}}}"#);
    let model = format!("{},{}", pair("gen_ai.system", "openai"), pair("gen_ai.request.model", "gpt-4o-mini"));
    let members = format!(
        r#""attributes":[{model},{},{twice},{},{map}],"events":[{{"name":"e","attributes":[{twice}]}}],
            "links":[{{"traceId":"{}","spanId":"{}","attributes":[{twice}]}}]"#,
        tokens(1),
        tokens(42),
        "05".repeat(16),
        "06".repeat(8)
    );
    let resource =
        format!(r#"{{"attributes":[{twice},{},{}]}}"#, pair("service.name", "first"), pair("service.name", "last"));
    post(&world, &org, request(&resource, &[span(1, 1, &members)])).await?;
    // And in protobuf, where one key comes a hundred thousand times.
    let mut message = Corpus::new(5).message(1, now());
    let resource_spans = &mut message.resource_spans[0];
    let text = |key: &str, value: String| KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(any_value::Value::StringValue(value)) }),
        ..Default::default()
    };
    let span = &mut resource_spans.scope_spans[0].spans[0];
    span.trace_id = vec![2; 16];
    span.attributes = (0..100_000).map(|i| text("k", i.to_string())).chain([text("other", "o".to_owned())]).collect();
    assert_eq!(world.post_otlp(&org.key, message.encode_to_vec()).await?.status, StatusCode::OK);
    world.until_number("SELECT count() FROM span", 2).await?;
    let query =
        "SELECT completion_tokens, service_name, attributes, attribute_types, event_attributes, link_attributes,
        resource_attributes, dropped_attributes AS dropped FROM span ORDER BY run_id";
    let stored = world.clickhouse.rows(query).await?;
    let last = json!({"k": "new", "other": "o"});
    assert_eq!((&stored[0]["completion_tokens"], &stored[0]["service_name"]), (&json!(42), &json!("last")));
    assert_eq!(
        (&stored[0]["attributes"]["k"], &stored[0]["attributes"]["m"]),
        (&json!("new"), &json!(last.to_string()))
    );
    // As many types as there are attributes: a map that is read as JSON hides a key that is there twice.
    let lengths = "SELECT length(attributes) = length(attribute_types)
        AND length(attributes) = length(arrayDistinct(mapKeys(attributes))) AS equal FROM span";
    assert!(world.clickhouse.rows(lengths).await?.iter().all(|row| row["equal"] == json!(1)));
    assert_eq!((&stored[0]["event_attributes"], &stored[0]["link_attributes"]), (&json!([last]), &json!([last])));
    assert_eq!(stored[0]["resource_attributes"], json!({"k": "new", "other": "o", "service.name": "last"}));
    assert_eq!((&stored[1]["attributes"], &stored[1]["dropped"]), (&json!({"k": "99999", "other": "o"}), &json!(0)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_value_costs_only_itself_and_is_kept() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("unread").await?;
    let spans = [
        span(1, 1, r#""links":[{"attributes":[]}],"events":null"#),
        span(1, 2, r#""kind":"ROBOT","links":[{"spanId":"short"}],"attributes":[7]"#),
        span(1, 3, "").replace(r#""startTimeUnixNano":""#, r#""startTimeUnixNano":"never "#),
        span(1, 4, r#""status":{"code":1}"#),
        span(1, 5, r#""status":{"code":"STATUS_CODE_UNSET"}"#),
    ];
    let reply = post(&world, &org, request("null", &spans)).await?;
    assert_eq!(reply["partialSuccess"]["rejectedSpans"], "1", "{reply}");
    let message = reply["partialSuccess"]["errorMessage"].as_str().unwrap();
    assert!(message.contains("span 0303030303030303: `startTimeUnixNano` cannot be read: \"never "), "{message}");
    // The same byte that is no UTF-8, in both encodings and in a resource.
    let resource = format!(r#"{{"attributes":[{}]}}"#, pair("agent", "caf#"));
    let mut bytes = request(&resource, &[span(2, 6, "")]).into_bytes();
    bytes.iter_mut().filter(|byte| **byte == b'#').for_each(|byte| *byte = 0xe9);
    assert_eq!(post(&world, &org, bytes).await?, json!({}));
    let mut message = Corpus::new(5).message(1, now());
    message.resource_spans[0].scope_spans[0].spans[0].trace_id = vec![2; 16];
    message.resource_spans[0].scope_spans[0].spans[0].span_id = vec![7; 8];
    message.resource_spans[0].schema_url = "caf#caf#caf#".to_owned();
    let mut bytes = message.encode_to_vec();
    let at = bytes.windows(12).position(|bytes| bytes == b"caf#caf#caf#").unwrap();
    bytes[at + 3] = 0xe9;
    assert_eq!(world.post_otlp(&org.key, bytes).await?.status, StatusCode::OK);
    world.until_number("SELECT count() FROM span", 6).await?;
    let query = "SELECT hex(span_id) AS id, span_kind AS kind, status, attributes['otlp.kind'] AS unread_kind,
        attributes['tracebility.status_code'] AS code, length(link_span_ids) AS links,
        link_attributes[1]['otlp.spanId'] AS unread_link, dropped_attributes AS dropped,
        resource_attributes['agent'] AS agent, substring(resource_schema_url, 1, 9) AS url FROM span ORDER BY span_id";
    let found = world.clickhouse.rows(query).await?;
    let row = |at: usize, column: &str| found[at][column].clone();
    assert_eq!((row(0, "links"), row(0, "unread_link")), (json!(1), json!("")));
    assert_eq!((row(1, "kind"), row(1, "unread_kind")), (json!("unspecified"), json!("ROBOT")));
    assert_eq!((row(1, "links"), row(1, "unread_link"), row(1, "dropped")), (json!(1), json!("short"), json!(1)));
    // A status that was set to OK is told from one that nobody set.
    assert_eq!((row(2, "status"), row(2, "code")), (json!("ok"), json!("ok")));
    assert_eq!((row(3, "status"), row(3, "code")), (json!("ok"), json!("")));
    assert_eq!((row(4, "agent"), row(5, "url")), (json!("caf\u{fffd}"), json!("caf\u{fffd}caf")));
    Ok(())
}

/// Each trace that is here has one run, whatever of it has arrived.
#[tokio::test(flavor = "multi_thread")]
async fn a_trace_without_its_root_has_a_stand_in_run_until_the_root_arrives() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("rootless").await?;
    let parent = |id: u8| format!(r#""parentSpanId":"{}""#, format!("{id:02x}").repeat(8));
    let t0 = now();
    let (short, long, late) = ([t0, t0 + 1_000], [t0, t0 + 2_000], [t0 + 1_000, t0 + 2_000]);
    let outputs = r#""attributes":[{"key":"langfuse.observation.output","value":{"stringValue":"done"}}],"#;
    let spans = [
        // Langfuse's `create_trace_id`: the parent exists nowhere. The child comes first, as exporters send it.
        timed(1, 2, "llm", late, &parent(1)),
        timed(1, 1, "handle-request", long, &format!("{outputs}{}", parent(9))),
        // A parent that cannot be read is no reason to take the span for the root.
        timed(2, 3, "odd", short, r#""parentSpanId":"x""#),
        // Two that began together: the one that ended last is around the other.
        timed(3, 4, "inner", short, &parent(8)),
        timed(3, 5, "outer", long, &parent(9)),
        // A whole trace.
        timed(4, 6, "child", short, &parent(7)),
        timed(4, 7, "root", short, ""),
    ];
    let resource = format!(r#"{{"attributes":[{}]}}"#, pair("service.name", "shop"));
    assert_eq!(post(&world, &org, request(&resource, &spans)).await?, json!({}));
    world.until_number("SELECT count() FROM span", 7).await?;
    let runs = async || {
        let query = format!(
            "SELECT substring(toString(run_id), 1, 2) AS trace, name, outputs, session_name, status, writes
             FROM run_of(org = '{}') ORDER BY run_id",
            org.org_id
        );
        world.clickhouse.rows(&query).await
    };
    let run = |trace: &str, name: &str, outputs: &str, writes: u32| {
        let shown = json!({"trace": trace, "name": name, "outputs": outputs, "session_name": "shop", "status": "ok"});
        let mut shown = shown.as_object().unwrap().clone();
        shown.insert("writes".to_owned(), writes.into());
        Value::Object(shown)
    };
    let (own, odd, outer) =
        (run("01", "handle-request", "done", 0), run("02", "odd", "", 0), run("03", "outer", "", 0));
    let whole = run("04", "root", "", 1);
    assert_eq!(runs().await?, [own, odd.clone(), outer.clone(), whole.clone()]);
    let one = format!(
        "SELECT name FROM run_of(org = '{}') WHERE run_id = '{}'",
        org.org_id, "03030303-0303-0303-0303-030303030303"
    );
    assert_eq!(world.clickhouse.rows(&one).await?, [json!({"name": "outer"})]);
    // The root arrives after all: one run, which is its own, and nothing of the stand-in.
    let root = [timed(1, 9, "the root", long, "")];
    assert_eq!(post(&world, &org, request(&resource, &root)).await?, json!({}));
    world.until_number("SELECT count() FROM span", 8).await?;
    assert_eq!(world.clickhouse.number("SELECT count() FROM run").await?, 0, "one span, one row");
    assert_eq!(runs().await?, [run("01", "the root", "", 1), odd, outer, whole]);
    let other = world.org("neighbour").await?;
    let query = format!("SELECT count() FROM run_of(org = '{}')", other.org_id);
    assert_eq!(world.clickhouse.number(&query).await?, 0, "an org sees its own runs only");
    Ok(())
}
