//! Pages of listed origins may send here, and read what they are told; no others.

use http::{Method, StatusCode};
use load::client::Answer;
use tests::World;

const LISTED: &str = "https://app.example.com";

async fn preflight(world: &World, path: &str, origin: &str) -> anyhow::Result<Answer> {
    let headers = [
        ("origin", origin),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "content-type,x-api-key,traceparent"),
    ];
    world.http.send(Method::OPTIONS, &format!("{}{path}", world.api.url()), &headers, "").await
}

fn is_readable(answer: &Answer, origin: &str) -> bool {
    let exposed = answer.header("access-control-expose-headers").unwrap_or_default();
    answer.header("access-control-allow-origin") == Some(origin)
        && ["retry-after", "x-request-id", "ratelimit-remaining", "x-quota-meter"]
            .iter()
            .all(|name| exposed.contains(name))
        && answer.header("vary").is_some_and(|vary| vary.contains("origin"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_a_listed_origin_may_send_and_read() -> anyhow::Result<()> {
    let origins = "https://App.example.com/, http://localhost:3000";
    let world = World::start_with(&[("TRACEBILITY_CORS_ORIGINS", origins)], &[]).await?;
    let org = world.org("cors").await?;
    for path in
        ["/v1/traces", "/v1/traces/", "/v1/runs", "/runs/multipart", "/api/v1/runs/batch", "/api/public/otel/v1/traces"]
    {
        for origin in [LISTED, "http://localhost:3000"] {
            let answer = preflight(&world, path, origin).await?;
            assert_eq!(answer.status, StatusCode::NO_CONTENT, "{path}");
            assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
            assert_eq!(answer.header("access-control-allow-methods"), Some("POST"));
            assert_eq!(answer.header("access-control-allow-headers"), Some("content-type,x-api-key,traceparent"));
            assert_eq!(answer.header("access-control-max-age"), Some("7200"));
            assert_eq!(answer.header("access-control-allow-credentials"), None);
        }
    }
    let traces = format!("{}/v1/traces", world.api.url());
    let send = async |origin: &str, key: &str, content_type: &str| {
        let headers = [("origin", origin), ("x-api-key", key), ("content-type", content_type)];
        world.http.send(Method::POST, &traces, &headers, "{}").await
    };
    for (key, content_type, status) in [
        (org.key.as_str(), "application/json", StatusCode::OK),
        ("nonsense", "application/json", StatusCode::UNAUTHORIZED),
        (org.key.as_str(), "text/plain", StatusCode::UNSUPPORTED_MEDIA_TYPE),
    ] {
        let answer = send(LISTED, key, content_type).await?;
        assert_eq!(answer.status, status);
        assert!(is_readable(&answer, LISTED), "{status}: {:?}", answer.headers);
    }
    let unknown =
        world.http.send(Method::GET, &format!("{}/nothing", world.api.url()), &[("origin", LISTED)], "").await?;
    assert!(unknown.status == StatusCode::NOT_FOUND && is_readable(&unknown, LISTED));
    // Who is not listed is served, as any client that is no browser; but no page can read it, and none may ask first.
    let answer = send("https://evil.example", &org.key, "application/json").await?;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (StatusCode::OK, None));
    let refused = preflight(&world, "/v1/traces", "https://evil.example").await?;
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (StatusCode::FORBIDDEN, None));
    assert_eq!(refused.json()?["error"]["code"], "origin_not_allowed");
    let unknown = preflight(&world, "/nothing", LISTED).await?;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_listed_origins_no_cors_headers_are_sent() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("no-cors").await?;
    let refused = preflight(&world, "/v1/traces", LISTED).await?;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    let headers = [("origin", LISTED), ("x-api-key", org.key.as_str()), ("content-type", "application/json")];
    let answer = world.http.send(Method::POST, &format!("{}/v1/traces", world.api.url()), &headers, "{}").await?;
    assert_eq!(answer.status, StatusCode::OK);
    for answer in [refused, answer] {
        let names = answer.headers.keys().map(http::HeaderName::as_str);
        assert_eq!(names.filter(|name| name.starts_with("access-control") || *name == "vary").count(), 0);
    }
    let options = world.http.send(Method::OPTIONS, &format!("{}/v1/traces", world.api.url()), &[], "").await?;
    assert_eq!((options.status, options.header("allow")), (StatusCode::METHOD_NOT_ALLOWED, Some("POST")));
    Ok(())
}
