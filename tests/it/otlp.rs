//! What OTLP exporters meet beside the storing of spans: other signals, other paths and other protocols.

use std::io::Write;
use std::time::Instant;

use http::{Method, StatusCode, Version};
use load::client::Http;
use load::corpus::Corpus;
use load::prost::Message;
use registry::{Limit, LimitChange, LimitEdit};
use serde_json::{Value, json};
use tests::{World, now, sdk};

#[tokio::test(flavor = "multi_thread")]
async fn logs_and_metrics_are_rejected_item_by_item() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("signals").await?;
    let logs = r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":{"stringValue":"a"}},{}]}]}]}"#;
    let metrics = r#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"m","gauge":{"dataPoints":[{}]}}]}]}]}"#;
    for (path, body, name, count) in
        [("/v1/logs", logs, "rejectedLogRecords", "2"), ("/v1/metrics", metrics, "rejectedDataPoints", "1")]
    {
        let url = format!("{}{path}", world.api.url());
        let json = ("content-type", "application/json");
        let answer = world.http.send(Method::POST, &url, &[json], body).await?;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path} without a key");
        let answer = world.http.post(&url, &org.key, "application/json", body).await?;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        let partial = &answer.json()?["partialSuccess"];
        assert_eq!(partial[name], count, "{partial}");
        assert!(partial["errorMessage"].as_str().unwrap().contains("only traces are stored here"), "{partial}");
        let broken = world.http.post(&url, &org.key, "application/json", &body[..20]).await?;
        assert_eq!(broken.status, StatusCode::BAD_REQUEST, "{path}");
        // Nothing sent, nothing rejected; and protobuf is answered in protobuf.
        let empty = world.http.post(&url, &org.key, "application/x-protobuf", "").await?;
        assert_eq!((empty.status, &*empty.body), (StatusCode::OK, &b""[..]), "{path}");
    }
    assert_eq!(world.waiting().await?.iter().sum::<u64>(), 0, "something was stored");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn langfuse_sdks_present_their_key_as_basic() -> anyhow::Result<()> {
    use load::base64::Engine;
    let world = World::start().await?;
    let org = world.org("basic").await?;
    let url = format!("{}/api/public/otel/v1/traces", world.api.url());
    let basic = |pair: &str| format!("Basic {}", load::base64::engine::general_purpose::STANDARD.encode(pair));
    for (credentials, status) in [
        (basic(&format!("pk-lf-1:{}", org.key)), StatusCode::OK),
        (basic(&format!("{}:sk-lf-1", org.key)), StatusCode::OK),
        (basic("pk-lf-1:sk-lf-1"), StatusCode::UNAUTHORIZED),
    ] {
        let headers = [("authorization", &*credentials), ("content-type", "application/x-protobuf")];
        let answer = world.http.send(Method::POST, &url, &headers, Corpus::new(4).request(2, now()).body).await?;
        assert_eq!(answer.status, status, "{:?}", answer.body);
    }
    world.until_number("SELECT count() FROM span FINAL", 2).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_http_port_speaks_http_1_and_http_2() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("http2").await?;
    let url = format!("{}/v1/traces", world.api.url());
    for (http, version, seed) in [(Http::new(), Version::HTTP_11, 5), (Http::http2(), Version::HTTP_2, 6)] {
        let body = Corpus::new(seed).request(3, now()).body;
        let answer = http.post(&url, &org.key, "application/x-protobuf", body).await?;
        assert_eq!((answer.status, answer.version), (StatusCode::OK, version));
    }
    world.until_number("SELECT count() FROM span", 6).await
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// One uncompressed or compressed message of a unary call.
fn framed(compressed: bool, message: &[u8]) -> Vec<u8> {
    [&[u8::from(compressed)], &u32::try_from(message.len()).unwrap().to_be_bytes()[..], message].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_compression_is_read_over_http_and_grpc() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("compressions").await?;
    let traces = format!("{}/v1/traces", world.api.url());
    let export = format!("{}/opentelemetry.proto.collector.trace.v1.TraceService/Export", world.api.otlp_grpc_url());
    let grpc = Http::http2();
    let key = ("x-api-key", org.key.as_str());
    let body = |seed| Corpus::new(seed).request(5, now()).body;
    for (i, name) in ["deflate", "zstd"].into_iter().enumerate() {
        let compress = |body: &[u8]| match name {
            "deflate" => deflate(body),
            _ => zstd::encode_all(body, 3).unwrap(),
        };
        let headers = [key, ("content-type", "application/x-protobuf"), ("content-encoding", name)];
        let answer = world.http.send(Method::POST, &traces, &headers, compress(&body(10 + i as u64))).await?;
        assert_eq!((answer.status, &*answer.body), (StatusCode::OK, &b""[..]), "{name}: {answer:?}");
        let headers = [key, ("content-type", "application/grpc"), ("grpc-encoding", name), ("te", "trailers")];
        let message = framed(true, &compress(&body(20 + i as u64)));
        let answer = grpc.send(Method::POST, &export, &headers, message).await?;
        assert_eq!((answer.status, &*answer.body), (StatusCode::OK, &framed(false, b"")[..]), "{name}: {answer:?}");
        // What is not what it says is refused, with no message in the answer.
        let answer = grpc.send(Method::POST, &export, &headers, framed(true, b"neither")).await?;
        assert_eq!((answer.status, &*answer.body), (StatusCode::OK, &b""[..]), "{name}: {answer:?}");
    }
    world.until_drained().await?;
    assert_eq!(world.clickhouse.number("SELECT count() FROM span").await?, 20);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_sets_the_project_of_spans_that_name_none() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("project-header").await?;
    let root = |trace: u8, attribute: &str| {
        let ids = format!(r#""traceId":"{}","spanId":"0102030405060708""#, format!("{trace:02x}").repeat(16));
        let attributes = match attribute {
            "" => String::new(),
            name => format!(r#"{{"key":"langsmith.trace.session_name","value":{{"stringValue":"{name}"}}}}"#),
        };
        format!(
            r#"{{{ids},"name":"{trace}","startTimeUnixNano":"{0}","endTimeUnixNano":"{0}","attributes":[{attributes}]}}"#,
            now()
        )
    };
    let request = |spans: &[String]| {
        let resource = r#"{"key":"openinference.project.name","value":{"stringValue":"of the resource"}},
            {"key":"service.name","value":{"stringValue":"service"}}"#;
        let spans = spans.join(",");
        format!(
            r#"{{"resourceSpans":[{{"resource":{{"attributes":[{resource}]}},"scopeSpans":[{{"spans":[{spans}]}}]}}]}}"#
        )
    };
    let traces = format!("{}/v1/traces", world.api.url());
    let headers =
        [("x-api-key", &*org.key), ("content-type", "application/json"), ("x-tenant-id", "not the key's, and ignored")];
    let named = [&headers[..], &[("Langsmith-Project", "caf%C3%A9 web")]].concat();
    let both = request(&[root(1, ""), root(2, "of the span")]);
    assert_eq!(world.http.send(Method::POST, &traces, &named, both).await?.status, StatusCode::OK);
    let unnamed = request(&[root(3, "")]);
    assert_eq!(world.http.send(Method::POST, &traces, &headers, unnamed).await?.status, StatusCode::OK);
    // Metadata of gRPC are headers of HTTP/2.
    let export = format!("{}/opentelemetry.proto.collector.trace.v1.TraceService/Export", world.api.otlp_grpc_url());
    let mut message = Corpus::new(8).message(1, now());
    let span = &mut message.resource_spans[0].scope_spans[0].spans[0];
    (span.name, span.parent_span_id) = ("4".to_owned(), Vec::new());
    let headers = [
        ("x-api-key", &*org.key),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("langsmith-project", "over gRPC"),
    ];
    let answer = Http::http2().send(Method::POST, &export, &headers, framed(false, &message.encode_to_vec())).await?;
    assert_eq!(&*answer.body, &framed(false, b"")[..]);
    world.until_number("SELECT count() FROM span", 4).await?;
    let runs = format!("SELECT name, session_name FROM run_of(org = '{}') ORDER BY name", org.org_id);
    let rows = world.clickhouse.rows(&runs).await?;
    let wanted = [("1", "café web"), ("2", "of the span"), ("3", "of the resource"), ("4", "over gRPC")];
    assert_eq!(rows, wanted.map(|(name, project)| json!({"name": name, "session_name": project})));
    let keys = "SELECT uniqExact(workspace_id) FROM span";
    world.until_number(keys, 1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attribute_that_nests_too_deep_in_json_is_left_out() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("deep-json").await?;
    let nested = |levels: usize| {
        let (before, after) =
            (r#"{"kvlistValue":{"values":[{"key":"k","value":"#.repeat(levels), "}]}}".repeat(levels));
        format!(r#"{{"key":"deep","value":{before}{{}}{after}}}"#)
    };
    let span = |id: &str, attribute: &str| {
        let ids = format!(r#""traceId":"0102030405060708090a0b0c0d0e0f10","spanId":"010203040506070{id}""#);
        format!(
            r#"{{{ids},"name":"n","startTimeUnixNano":"{0}","endTimeUnixNano":"{0}","attributes":[{attribute}]}}"#,
            now()
        )
    };
    let url = format!("{}/v1/traces", world.api.url());
    let spans = [span("1", &nested(64)), span("2", &nested(65)), span("3", &nested(50_000))].join(",");
    let resource = format!(r#"{{"attributes":[{}]}}"#, nested(100));
    let body = format!(r#"{{"resourceSpans":[{{"resource":{resource},"scopeSpans":[{{"spans":[{spans}]}}]}}]}}"#);
    let answer = world.http.post(&url, &org.key, "application/json", body).await?;
    assert_eq!((answer.status, answer.json()?), (StatusCode::OK, json!({})));
    world.until_number("SELECT count() FROM span", 3).await?;
    let query = "SELECT countSubstrings(attributes['deep'], '{') AS levels, dropped_attributes AS dropped,
        resource_attributes['tracebility.dropped_attributes'] AS of_resource FROM span ORDER BY span_id";
    let row = |levels: u32, dropped: u32| json!({"levels": levels, "dropped": dropped, "of_resource": "1"});
    assert_eq!(world.clickhouse.rows(query).await?, [row(64, 0), row(0, 1), row(0, 1)]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_store_nothing_count_against_the_rate_limit() -> anyhow::Result<()> {
    let world = World::start().await?;
    for (path, body) in [
        ("/v1/logs", r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{}]}]}]}"#),
        ("/v1/metrics", "{}"),
        ("/v1/traces", r#"{"resourceSpans":[{"scopeSpans":[{"spans":[7]}]}]}"#),
    ] {
        let org = world.org(&format!("rate-of{}", path.replace('/', "-"))).await?;
        let limits = LimitChange {
            rps: LimitEdit::Set(Limit::AtMost(1)),
            burst: LimitEdit::Set(Limit::AtMost(2)),
            ..LimitChange::default()
        };
        world.registry().await?.set_limits(org.org_id, &limits).await?;
        let begun = Instant::now();
        let mut passed = 0;
        loop {
            let answer =
                world.http.post(&format!("{}{path}", world.api.url()), &org.key, "application/json", body).await?;
            if answer.status == StatusCode::TOO_MANY_REQUESTS {
                assert_eq!(answer.header("retry-after"), Some("1"), "{path}");
                break;
            }
            assert_eq!(answer.status, StatusCode::OK, "{path}");
            assert_eq!(answer.header("ratelimit-limit"), Some("2"), "{path}");
            passed += 1;
            // One comes back each second.
            assert!(passed <= 3 + begun.elapsed().as_secs(), "{path} is not charged");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn implausible_span_times_are_kept_and_flagged() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("times").await?;
    let now = now();
    let mut message = Corpus::new(6).message(4, now);
    let spans = &mut message.resource_spans[0].scope_spans[0].spans;
    let times = [(0, now), (now, now - 1_000), (u64::MAX, u64::MAX), (now - 1_000, now)];
    for (i, (span, (start, end))) in spans.iter_mut().zip(times).enumerate() {
        (span.start_time_unix_nano, span.end_time_unix_nano) = (start, end);
        span.name = i.to_string();
        span.span_id = vec![i as u8 + 1; 8];
    }
    assert_eq!(world.post_otlp(&org.key, message.encode_to_vec()).await?.status, StatusCode::OK);
    world.until_number("SELECT count() FROM span", 4).await?;
    let rows = "SELECT name, toUnixTimestamp64Nano(start_time) AS start, toUnixTimestamp64Nano(end_time) AS end,
        attributes['tracebility.time_flag'] AS flag FROM span ORDER BY name";
    let stored = world.clickhouse.rows(rows).await?;
    let wanted = [
        json!({"name": "0", "start": 0, "end": now, "flag": "no_start"}),
        json!({"name": "1", "start": now, "end": now - 1_000, "flag": "end_before_start"}),
        json!({"name": "2", "start": i64::MAX, "end": i64::MAX, "flag": "far_future"}),
        json!({"name": "3", "start": now - 1_000, "end": now, "flag": ""}),
    ];
    assert_eq!(stored, wanted);
    world.until_number("SELECT uniqExact(_partition_id) FROM span", 1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_utf_8_costs_no_span() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("surrogates").await?;
    let span = |id: &str, name: &str| {
        let ids = format!(r#""traceId":"0102030405060708090a0b0c0d0e0f10","spanId":"010203040506070{id}""#);
        format!(r#"{{{ids},"name":{name},"startTimeUnixNano":"{0}","endTimeUnixNano":"{0}"}}"#, now())
    };
    let spans = [span("1", r#""a\ud83d""#), span("2", r#""b\u0000""#), "7".to_owned()].join(",");
    let body = format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{spans}]}}]}}]}}"#);
    let answer = world.http.post(&format!("{}/v1/traces", world.api.url()), &org.key, "application/json", body).await?;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.json()?["partialSuccess"]["rejectedSpans"], "1");
    world.until_number("SELECT count() FROM span", 2).await?;
    let stored = world.clickhouse.rows("SELECT name FROM span ORDER BY name").await?;
    assert_eq!(stored, [json!({"name": "a\u{fffd}"}), json!({"name": "b\u{0}"})]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_answers_health_checks_and_other_signals_and_says_when_to_retry() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("grpc-more").await?;
    let slow = world.org("grpc-slow").await?;
    let once = LimitEdit::Set(Limit::AtMost(1));
    let change = LimitChange { rps: once, burst: once, ..LimitChange::default() };
    world.registry().await?.set_limits(slow.org_id, &change).await?;
    let arguments = [&*world.api.otlp_grpc_url(), &*org.key, &*slow.key];
    let reply: Value = serde_json::from_str(&sdk::python("otel-python", "more.py", &arguments, &[]).await?)?;
    assert_eq!(reply["health"], json!(["OK", 1]), "{reply}");
    assert_eq!(reply["health of traces"], json!(["OK", 1]));
    assert_eq!(reply["health of nothing"][0], "NOT_FOUND");
    assert_eq!((&reply["logs"][0], &reply["logs"][1]), (&json!("OK"), &json!(2)), "{reply}");
    assert_eq!((&reply["metrics"][0], &reply["metrics"][1]), (&json!("OK"), &json!(3)), "{reply}");
    assert_eq!(reply["deflated"], json!(["OK", 0]), "{reply}");
    let [code, delay, detail_code, detail_delay] = &reply["throttled"].as_array().unwrap()[..] else {
        panic!("{reply}")
    };
    assert_eq!((code, detail_code), (&json!("RESOURCE_EXHAUSTED"), &json!(8)));
    assert!(delay.as_u64() >= Some(1) && delay == detail_delay, "{reply}");
    Ok(())
}
