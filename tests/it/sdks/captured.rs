//! Requests that SDKs sent once, sent again as they were: path, headers and body, over HTTP and gRPC. What is
//! understood of them is held to the fixtures' `expect` in `schema/otlp/tests/fixtures.rs`; here it is that they
//! arrive, each run under the project that its request, its resource or its key names.

use std::path::{Path, PathBuf};

use http::Method;
use load::client::Http;
use serde_json::Value;
use tests::World;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/otlp")
}

/// What made the connection or named the key.
const NOT_SENT_AGAIN: [&str; 8] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "te",
    "x-api-key",
    "authorization",
    "accept-encoding",
];

#[tokio::test(flavor = "multi_thread")]
async fn captured_requests_arrive() -> anyhow::Result<()> {
    let world = World::start().await?;
    let http2 = Http::http2();
    let mut sent = Vec::new();
    for entry in std::fs::read_dir(directory())? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let request: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        let org = world.org(&format!("captured-{}", sent.len())).await?;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let captured = request["headers"].as_array().unwrap().iter();
        let mut headers: Vec<_> = captured.map(|pair| (text(&pair[0]).to_lowercase(), text(&pair[1]))).collect();
        headers.retain(|(name, _)| !name.starts_with(':') && !NOT_SENT_AGAIN.contains(&name.as_str()));
        headers.push(("x-api-key".to_owned(), org.key.clone()));
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let body = std::fs::read(path.with_extension("bin"))?;
        let grpc = headers.contains(&("content-type", "application/grpc"));
        let (http, base) = if grpc { (&http2, world.api.otlp_grpc_url()) } else { (&world.http, world.api.url()) };
        let url = format!("{base}{}", request["path"].as_str().unwrap());
        let answer = http.send(Method::POST, &url, &headers, body).await?;
        assert_eq!((answer.status.as_u16(), answer.header("grpc-status")), (200, None), "{url}: {answer:?}");
        let empty: &[u8] = match answer.header("content-type") {
            Some("application/json") => b"{}",
            // An empty message, and what frames it.
            Some("application/grpc") => &[0; 5],
            _ => b"",
        };
        assert_eq!(answer.body, empty, "{url}: something was rejected");
        sent.push((request, org));
    }
    assert_eq!(sent.len(), 15);
    world.until_drained().await?;
    for (request, org) in &sent {
        let name = &request["name"];
        let spans = request["expect"]["spans"].as_array().unwrap();
        let of_org = format!("FINAL WHERE org_id = '{}'", org.org_id);
        let count = world.clickhouse.number(&format!("SELECT count() FROM span {of_org}")).await?;
        assert_eq!(count, spans.len() as u64, "{name}");
        let roots = spans.iter().filter(|span| span["parent_span_id"].is_null());
        let named =
            |span: &Value| span["project"].as_str().or(span["service_name"].as_str()).unwrap_or_default().to_owned();
        let mut wanted: Vec<_> =
            roots.map(|span| (span["trace_id"].as_str().unwrap().to_owned(), named(span))).collect();
        wanted.sort();
        wanted.dedup();
        let query = format!(
            "SELECT replaceAll(toString(run_id), '-', '') AS id, session_name FROM run_of(org = '{}') WHERE writes > 0 ORDER BY id",
            org.org_id
        );
        let runs = world.clickhouse.rows(&query).await?;
        let found: Vec<_> =
            runs.iter().map(|run| (super::as_text(&run["id"]), super::as_text(&run["session_name"]))).collect();
        assert_eq!(found, wanted, "{name}");
    }
    Ok(())
}
