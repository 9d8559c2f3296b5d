//! What HTTP says is the same is the same here: paths, media types, encodings, schemes, and JSON with a byte order
//! mark.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use http::{Method, StatusCode};
use load::client::Http;
use serde_json::json;
use tests::World;
use uuid::Uuid;

/// The same path in other spellings.
fn spellings(path: &str) -> Vec<String> {
    let last = path.len() - 1;
    let (start, end) = (&path[..last], path.as_bytes()[last]);
    vec![
        format!("{path}/"),
        format!("/{path}"),
        format!("//{}//", path.replace('/', "//")),
        format!("{path}?api-version=1&x=/"),
        format!("{path}/?x"),
        format!("{start}%{end:02X}"),
        format!("{start}%{end:02x}"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_is_served_in_every_spelling() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("spellings").await?;
    let headers =
        [("x-api-key", org.key.as_str()), ("content-type", "application/json"), ("accept", "application/json")];
    let ask = async |base: &str, method: &str, path: &str| {
        let answer = world.http.send(method.parse()?, &format!("{base}{path}"), &headers, "{}").await?;
        let reply = (
            answer.status,
            answer.header("content-type").map(str::to_owned),
            answer.header("allow").map(str::to_owned),
        );
        anyhow::Ok(reply)
    };
    let mut served: Vec<_> = ingest_api::routes::served().collect();
    served.push(("GET", "/v1/nothing"));
    served.push(("GET", "/v1/traces"));
    served.push(("POST", "/info"));
    for (method, path) in served {
        let path = path.replace("{run_id}", "01a1fca2-6eb8-7760-82cf-990515cae231");
        let plain = ask(&world.api.url(), method, &path).await?;
        let is_known =
            !matches!((method, path.as_str()), (_, "/v1/nothing") | ("GET", "/v1/traces") | ("POST", "/info"));
        let is_refused = matches!(plain.0, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(is_refused, !is_known, "{method} {path}: {plain:?}");
        for spelling in spellings(&path) {
            assert_eq!(ask(&world.api.url(), method, &spelling).await?, plain, "{method} {spelling}");
        }
    }
    for (base, path) in [
        (world.api.operator_url(), "/readyz"),
        (world.api.operator_url(), "/v1/admin/shards"),
        (world.worker.url(), "/healthz"),
        (world.worker.url(), "/metrics"),
    ] {
        let plain = ask(&base, "GET", path).await?;
        assert_ne!(plain.0, StatusCode::NOT_FOUND, "{path}");
        for spelling in spellings(path) {
            assert_eq!(ask(&base, "GET", &spelling).await?, plain, "{base}{spelling}");
        }
    }
    for path in spellings("/grpc.health.v1.Health/Check") {
        let url = format!("{}{path}", world.api.otlp_grpc_url());
        let answer =
            Http::http2().send(Method::POST, &url, &[("content-type", "application/grpc")], vec![0; 5]).await?;
        assert_eq!(answer.body[..], [0, 0, 0, 0, 2, 8, 1], "{path}: serving");
    }
    Ok(())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// One span, as OTLP/JSON.
fn span() -> String {
    let (trace, span) = (Uuid::now_v7().simple().to_string(), &Uuid::now_v7().simple().to_string()[16..]);
    let span = json!({"traceId": trace, "spanId": span, "parentSpanId": span, "name": "n", "startTimeUnixNano": "1795248000000000000",
                      "endTimeUnixNano": "1795248000000000001"});
    json!({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn media_types_and_encodings_compare_without_case() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("media-types").await?;
    let twice = gzip(&gzip(span().as_bytes()));
    let json = "application/json";
    let cases: [(&str, &[&str], Vec<u8>); 10] = [
        ("APPLICATION/Json", &[], span().into()),
        ("application/json;charset=UTF-8", &[], span().into()),
        ("Application/JSON ; profile=\"a;b\"; Charset = \"utf-8\"", &[], span().into()),
        (json, &["GZIP"], gzip(span().as_bytes())),
        (json, &["x-gzip"], gzip(span().as_bytes())),
        (json, &["gzip, identity"], gzip(span().as_bytes())),
        (json, &["Identity"], span().into()),
        (json, &[""], span().into()),
        (json, &["gzip,gzip"], twice.clone()),
        (json, &["gzip", "x-gzip"], twice),
    ];
    let mut sent = 0;
    for (content_type, encodings, body) in cases {
        for path in ["/v1/traces", "/otel/v1/traces"] {
            let mut headers = vec![("x-api-key", org.key.as_str()), ("content-type", content_type)];
            headers.extend(encodings.iter().map(|encoding| ("content-encoding", *encoding)));
            let answer =
                world.http.send(Method::POST, &format!("{}{path}", world.api.url()), &headers, body.clone()).await?;
            assert_eq!(answer.status, StatusCode::OK, "{content_type} {encodings:?}: {:?}", answer.body);
            assert_eq!(answer.header("content-type"), Some(json), "{content_type}");
        }
        sent += 1;
    }
    let protobuf = [("x-api-key", org.key.as_str()), ("content-type", "Application/X-Protobuf; messageType=\"x\"")];
    let answer = world.http.send(Method::POST, &format!("{}/v1/traces", world.api.url()), &protobuf, "").await?;
    assert_eq!((answer.status, answer.header("content-type")), (StatusCode::OK, Some("application/x-protobuf")));
    let native = [("x-api-key", org.key.as_str()), ("content-type", "application/JSON;charset=utf-8")];
    let answer = world.http.send(Method::POST, &format!("{}/v1/runs", world.api.url()), &native, "{}").await?;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    let id = Uuid::now_v7();
    let part = format!("--x;\"y\r\nCONTENT-DISPOSITION: Form-Data; NAME = \"post.{id}\"\r\n\r\n{{}}\r\n--x;\"y--\r\n");
    let multipart =
        [("x-api-key", org.key.as_str()), ("content-type", r#"Multipart/FORM-data; a="b;c"; Boundary="x;\"y""#)];
    let answer =
        world.http.send(Method::POST, &format!("{}/runs/multipart", world.api.url()), &multipart, part).await?;
    assert_eq!(
        (answer.status, &answer.json()?["accepted_runs"]),
        (StatusCode::ACCEPTED, &json!(1)),
        "{:?}",
        answer.body
    );
    world.until_drained().await?;
    // The last two are of one body.
    assert_eq!(world.clickhouse.number("SELECT count() FROM span FINAL").await?, sent - 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_key_is_found_in_every_accepted_header_form() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("credentials").await?;
    let key = org.key.as_str();
    let basic = |credentials: String| STANDARD_NO_PAD.encode(credentials);
    let headers: [(&str, String); 12] = [
        ("authorization", format!("Bearer%20{key}")),
        ("authorization", format!("bearer {key}")),
        ("authorization", format!("BEARER \"{key}\"")),
        ("authorization", format!("\"Bearer {key}\"")),
        ("authorization", format!("  {key}\t")),
        ("x-api-key", format!("'{key}'")),
        ("x-api-key", format!("Bearer {key}")),
        ("authorization", format!("Basic {}", basic(format!("pk-lf-1:{key}")))),
        ("authorization", format!("bAsIc {}", basic(format!("{key}:")))),
        ("authorization", format!("Basic%20{}%3D", basic(format!("pk-lf-12:{key}")))),
        ("authorization", format!("Basic {}", URL_SAFE_NO_PAD.encode(format!("\u{fbf0}>?~:{key}")))),
        ("authorization", format!("  Basic   {}  ", basic(format!("pk:{key}")))),
    ];
    let ask = async |headers: &[(&str, &str)]| {
        let mut headers = headers.to_vec();
        headers.push(("content-type", "application/json"));
        let answer = world.http.send(Method::POST, &format!("{}/v1/traces", world.api.url()), &headers, "{}").await?;
        anyhow::Ok(answer.status)
    };
    for (name, value) in &headers {
        assert_eq!(ask(&[(name, value)]).await?, StatusCode::OK, "{name}: {value}");
        // Whatever an SDK sends in the other header does not hide it.
        let other = if *name == "x-api-key" { ("authorization", "Bearer x") } else { ("x-api-key", "lsv2_pt_x") };
        assert_eq!(ask(&[other, (name, value)]).await?, StatusCode::OK, "{other:?}, {name}: {value}");
    }
    for wrong in ["Bearer", "Basic", "Basic eA", &format!("Digest {key}"), &format!("Bearer x{key}")] {
        assert_eq!(ask(&[("authorization", wrong)]).await?, StatusCode::UNAUTHORIZED, "{wrong}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_order_mark_before_json_is_skipped_on_every_route() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("byte-order-mark").await?;
    let bom = |json: &str| format!("\u{feff}{json}");
    let id = Uuid::now_v7();
    let feedback = json!({"key": "k", "run_id": id, "score": 1}).to_string();
    let run = json!({"id": id, "name": "n"}).to_string();
    let native = json!({"runs": [{"run_id": id, "name": "n", "kind": "tool", "start_time": "2026-11-21T08:00:00Z"}]});
    let log = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [{}]}]}]}).to_string();
    let part = |name: &str, content: &str| {
        format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{}\r\n", bom(content))
    };
    let parts = [
        part(&format!("post.{}", Uuid::now_v7()), "{}"),
        part(&format!("patch.{id}"), &run),
        part(&format!("patch.{id}.outputs"), r#"{"a":1}"#),
        part(&format!("feedback.{}", Uuid::now_v7()), &feedback),
        "--b--\r\n".to_owned(),
    ];
    let json = "application/json";
    for (method, path, content_type, body, wanted) in [
        ("POST", "/v1/traces", json, bom(&span()), json!({})),
        ("POST", "/v1/logs", json, bom(&log), json!({"partialSuccess": {"rejectedLogRecords": "1"}})),
        ("POST", "/v1/runs", json, bom(&native.to_string()), json!({"accepted_runs": 1})),
        ("POST", "/runs", json, bom(&run), json!({"accepted_runs": 1})),
        ("PATCH", &format!("/runs/{id}"), json, bom(r#"{"outputs":{"a":1}}"#), json!({"accepted_runs": 1})),
        ("POST", "/runs/batch", json, bom(&format!(r#"{{"post":[{run}]}}"#)), json!({"accepted_runs": 1})),
        ("POST", "/feedback", json, bom(&feedback), json!({"accepted_scores": 1})),
        (
            "POST",
            "/runs/multipart",
            "multipart/form-data; boundary=b",
            parts.concat(),
            json!({"accepted_runs": 2, "accepted_scores": 1, "rejected": []}),
        ),
    ] {
        let headers = [("x-api-key", org.key.as_str()), ("content-type", content_type)];
        let answer = world.http.send(method.parse()?, &format!("{}{path}", world.api.url()), &headers, body).await?;
        assert!(answer.status.is_success(), "{path}: {:?}", answer.body);
        let reply = answer.json()?;
        for (name, value) in wanted.as_object().unwrap() {
            let same = match value {
                // Of a partial success the number is what counts.
                serde_json::Value::Object(members) => members.iter().all(|(key, value)| reply[name][key] == *value),
                value => reply[name] == *value,
            };
            assert!(same, "{path}: {reply}");
        }
    }
    world.until_drained().await?;
    assert_eq!(world.clickhouse.number("SELECT count() FROM span").await?, 1);
    let outputs = format!("SELECT count() FROM run_of(org = '{}') WHERE outputs = '{{\"a\":1}}'", org.org_id.0);
    assert_eq!(world.clickhouse.number(&outputs).await?, 1);
    Ok(())
}
