//! What OTLP exporters meet beside the storing of spans: other signals, other paths and other protocols.

use http::{Method, StatusCode, Version};
use load::client::Http;
use load::corpus::Corpus;
use load::prost::Message;
use serde_json::{Value, json};
use tenant::registry::{Limit, LimitChange, LimitEdit};
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
async fn the_http_port_speaks_http_2() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("http2").await?;
    let url = format!("{}/v1/traces", world.api.url());
    let body = Corpus::new(5).request(3, now()).body;
    let answer = Http::http2().post(&url, &org.key, "application/x-protobuf", body).await?;
    assert_eq!((answer.status, answer.version), (StatusCode::OK, Version::HTTP_2));
    world.until_number("SELECT count() FROM span", 3).await
}

#[tokio::test(flavor = "multi_thread")]
async fn times_that_cannot_be_true_are_kept_and_flagged() -> anyhow::Result<()> {
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
async fn half_a_character_costs_no_span() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("surrogates").await?;
    let span = |id: &str, name: &str| {
        let ids = format!(r#""traceId":"0102030405060708090a0b0c0d0e0f10","spanId":"010203040506070{id}""#);
        format!(r#"{{{ids},"name":{name},"startTimeUnixNano":"{0}","endTimeUnixNano":"{0}"}}"#, now())
    };
    let spans = [span("1", r#""a\ud83d""#), span("2", r#""b\u0000""#), span("3", "7")].join(",");
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
async fn grpc_has_health_other_signals_and_tells_when_to_come_again() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("grpc-more").await?;
    let slow = world.org("grpc-slow").await?;
    let once = LimitEdit::Set(Limit::AtMost(1));
    let change = LimitChange { rps: once, burst: once, ..LimitChange::default() };
    world.registry().await?.set_limits(slow.org_id, &change).await?;
    let arguments = [&*world.api.otlp_grpc_url(), &*org.key, &*slow.key];
    let told: Value = serde_json::from_str(&sdk::python("otel-python", "more.py", &arguments, &[]).await?)?;
    assert_eq!(told["health"], json!(["OK", 1]), "{told}");
    assert_eq!(told["health of traces"], json!(["OK", 1]));
    assert_eq!(told["health of nothing"][0], "NOT_FOUND");
    assert_eq!((&told["logs"][0], &told["logs"][1]), (&json!("OK"), &json!(2)), "{told}");
    assert_eq!((&told["metrics"][0], &told["metrics"][1]), (&json!("OK"), &json!(3)), "{told}");
    assert_eq!(told["deflated"], json!(["OK", 0]), "{told}");
    let [code, delay, detail_code, detail_delay] = &told["throttled"].as_array().unwrap()[..] else { panic!("{told}") };
    assert_eq!((code, detail_code), (&json!("RESOURCE_EXHAUSTED"), &json!(8)));
    assert!(delay.as_u64() >= Some(1) && delay == detail_delay, "{told}");
    Ok(())
}
