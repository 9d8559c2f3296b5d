//! What the API answers, and that what it refuses leaves nothing behind.

mod cors;
mod spelling;

use std::io::Write;

use http::{Method, StatusCode};
use load::corpus::Corpus;
use tests::{World, now};

#[tokio::test(flavor = "multi_thread")]
async fn refusals_say_why_and_store_nothing() -> anyhow::Result<()> {
    let world =
        World::start_with(&[("TRACEBILITY_BODY_MAX", "64KiB"), ("TRACEBILITY_BODIES_IN_FLIGHT_MAX", "1MiB")], &[])
            .await?;
    let org = world.org("refusals").await?;
    let traces = format!("{}/v1/traces", world.api.url());
    let good = Corpus::new(1).request(3, now()).body;
    let protobuf = ("content-type", "application/x-protobuf");
    let key = ("x-api-key", org.key.as_str());
    let wrong_secret = format!("{}x", &org.key[..org.key.len() - 1]);
    let cut = good[..good.len() - 5].to_vec();
    let zeros = vec![0; 70_000];
    type Case<'a> = (&'a str, StatusCode, Vec<(&'a str, &'a str)>, Vec<u8>);
    let (archived, frozen) = (world.org("archived").await?, world.org("frozen").await?);
    let registry = world.registry().await?;
    registry.archive_project(archived.org_id, archived.project_id).await?;
    registry.freeze(frozen.org_id, "does not pay").await?;
    let cases: [Case<'_>; 12] = [
        ("no key", StatusCode::UNAUTHORIZED, vec![protobuf], good.clone()),
        ("not a key", StatusCode::UNAUTHORIZED, vec![protobuf, ("x-api-key", "nonsense")], good.clone()),
        ("wrong secret", StatusCode::UNAUTHORIZED, vec![protobuf, ("x-api-key", &wrong_secret)], good.clone()),
        ("wrong bearer", StatusCode::UNAUTHORIZED, vec![protobuf, ("authorization", "Bearer tb_x.y")], good.clone()),
        ("archived", StatusCode::FORBIDDEN, vec![protobuf, ("x-api-key", &archived.key)], good.clone()),
        ("frozen", StatusCode::FORBIDDEN, vec![protobuf, ("x-api-key", &frozen.key)], good.clone()),
        ("cut off", StatusCode::BAD_REQUEST, vec![protobuf, key], cut),
        ("not protobuf", StatusCode::BAD_REQUEST, vec![protobuf, key], b"hello, is this on?".to_vec()),
        (
            "not JSON",
            StatusCode::BAD_REQUEST,
            vec![("content-type", "application/json"), key],
            b"{\"resourceSpans\":[".to_vec(),
        ),
        ("content type", StatusCode::UNSUPPORTED_MEDIA_TYPE, vec![("content-type", "text/plain"), key], good.clone()),
        ("encoding", StatusCode::UNSUPPORTED_MEDIA_TYPE, vec![protobuf, key, ("content-encoding", "br")], good.clone()),
        ("too large", StatusCode::PAYLOAD_TOO_LARGE, vec![protobuf, key], zeros),
    ];
    for (case, status, headers, body) in cases {
        let answer = world.http.send(Method::POST, &traces, &headers, body).await?;
        assert_eq!(answer.status, status, "{case}: {:?}", answer.body);
        assert!(!answer.body.is_empty(), "{case}: no reason given");
        assert!(answer.header("x-request-id").is_some(), "{case}");
        assert!(answer.header("retry-after").is_none(), "{case}: a retry cannot help");
        assert_eq!(answer.header("www-authenticate").is_some(), status == StatusCode::UNAUTHORIZED, "{case}");
    }
    assert_eq!(world.waiting().await?.iter().sum::<u64>(), 0, "a refused request left something in Redis");
    // One that is accepted, last in line: when it is stored, anything before it would be, too.
    assert_eq!(world.post_otlp(&org.key, good).await?.status, StatusCode::OK);
    world.until_drained().await?;
    assert_eq!(world.clickhouse.number("SELECT count() FROM span").await?, 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_span_is_rejected_alone() -> anyhow::Result<()> {
    use load::prost::Message;
    let world = World::start().await?;
    let org = world.org("partial").await?;
    let mut message = Corpus::new(2).message(4, now());
    let spans = &mut message.resource_spans[0].scope_spans[0].spans;
    spans[1].trace_id = vec![1, 2, 3];
    spans[2].span_id = vec![0; 8];
    let answer = world.post_otlp(&org.key, message.encode_to_vec()).await?;
    assert_eq!(answer.status, StatusCode::OK);
    let text = String::from_utf8_lossy(&answer.body);
    assert!(text.contains("trace id has 3 bytes, not 16"), "{text}");
    assert!(text.contains("span id is all zeros"), "{text}");
    world.until_drained().await?;
    assert_eq!(world.clickhouse.number("SELECT count() FROM span").await?, 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn gzip_bodies_of_one_or_several_members_are_accepted() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("gzip").await?;
    let traces = format!("{}/v1/traces", world.api.url());
    let request = Corpus::new(3).request(50, now());
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let (left, right) = request.body.split_at(1_000);
    for body in [gzip(&request.body), [gzip(left), gzip(right)].concat()] {
        let headers =
            [("x-api-key", org.key.as_str()), ("content-type", "application/x-protobuf"), ("content-encoding", "gzip")];
        let answer = world.http.send(Method::POST, &traces, &headers, body).await?;
        assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
    }
    world.until_drained().await?;
    assert_eq!(world.clickhouse.number("SELECT count() FROM span FINAL").await?, 50, "sent twice, the same rows");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_listener_wants_the_admin_key() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("operator-listener").await?;
    let shards = format!("{}/v1/admin/shards", world.api.operator_url());
    let bearer = |key: &str| format!("Bearer {key}");
    for (key, status) in [
        (bearer(world.api.admin_key()), StatusCode::OK),
        (bearer(&org.key), StatusCode::UNAUTHORIZED),
        (bearer("x"), StatusCode::UNAUTHORIZED),
        (String::new(), StatusCode::UNAUTHORIZED),
    ] {
        let answer = world.http.send(Method::GET, &shards, &[("authorization", &key)], "").await?;
        assert_eq!(answer.status, status);
        if status == StatusCode::OK {
            assert_eq!(answer.json()?["shards"].as_array().unwrap().len(), 16);
        }
    }
    for base in [world.api.url(), world.api.operator_url(), world.worker.url()] {
        for path in ["/healthz", "/readyz", "/metrics"] {
            let answer = world.http.send(Method::GET, &format!("{base}{path}"), &[], "").await?;
            assert_eq!(answer.status, StatusCode::OK, "{base}{path}");
        }
    }
    Ok(())
}
