//! As much of an HTTP client as readiness checks and ClickHouse statements need.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use url::Url;

use crate::StackError;

/// Of one request; everything here is on this machine, or answers one short statement.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// Status and body of an answer.
pub(crate) type Answer = (u16, String);

/// Sends a GET and reads the answer, whatever its status.
pub(crate) async fn get(url: &str) -> Result<Answer, String> {
    send(Request::get(url), Bytes::new()).await
}

/// Runs one ClickHouse statement; the URL carries user, password and database.
pub(crate) async fn clickhouse(url: &str, sql: &str) -> Result<String, StackError> {
    let fail = |e: String| StackError::server("clickhouse", e);
    let url = Url::parse(url).map_err(|e| fail(format!("its URL is not valid: {e}")))?;
    let decoded = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    let database = match url.path().trim_matches('/') {
        "" => "default".to_owned(),
        path => decoded(path),
    };
    let target = format!("{}://{}:{}/", url.scheme(), url.host_str().unwrap_or_default(), url.port().unwrap_or(8123));
    let request = Request::post(target)
        .header("x-clickhouse-user", decoded(url.username()))
        .header("x-clickhouse-key", decoded(url.password().unwrap_or_default()))
        .header("x-clickhouse-database", database);
    match send(request, Bytes::from(sql.to_owned())).await {
        Ok((200, body)) => Ok(body),
        Ok((_, body)) => Err(fail(body.trim().to_owned())),
        Err(e) => Err(fail(e)),
    }
}

async fn send(request: hyper::http::request::Builder, body: Bytes) -> Result<Answer, String> {
    let request = request.body(Full::new(body)).map_err(|e| e.to_string())?;
    let exchange = async {
        let answer = Client::builder(TokioExecutor::new()).build_http().request(request).await.map_err(sources)?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.map_err(sources)?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    tokio::time::timeout(REQUEST_LIMIT, exchange)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {} s", REQUEST_LIMIT.as_secs())))
}

/// An error with its causes: hyper's own message does not say "connection refused".
fn sources(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
