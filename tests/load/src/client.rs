//! A small HTTP client: one connection pool, whole bodies in memory. For load and tests, not for production.

use std::time::Duration;

use anyhow::{Context, bail};
use base64::Engine;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use url::Url;

/// How long any request may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Sends requests. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
}

/// The answer to one request, with its body read to the end.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Answer {
    pub status: StatusCode,
    pub version: Version,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> anyhow::Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {}", String::from_utf8_lossy(&self.body)))
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }
}

impl Http {
    /// A client with its own connections.
    pub fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self { client: Client::builder(TokioExecutor::new()).build(connector) }
    }

    /// A client that speaks HTTP/2 from the first byte.
    pub fn http2() -> Self {
        Self { client: Client::builder(TokioExecutor::new()).http2_only(true).build(HttpConnector::new()) }
    }

    /// Sends one request and reads its answer.
    pub async fn send(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> anyhow::Result<Answer> {
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).context("building a request")?;
        let answer = async {
            let (head, body) =
                self.client.request(request).await.with_context(|| format!("cannot send to {url}"))?.into_parts();
            let body = body.collect().await.with_context(|| format!("cannot read the answer of {url}"))?.to_bytes();
            anyhow::Ok(Answer { status: head.status, version: head.version, headers: head.headers, body })
        };
        let late = || format!("{url} did not answer within {} s", TIMEOUT.as_secs());
        tokio::time::timeout(TIMEOUT, answer).await.with_context(late)?
    }

    /// Posts a body with a key.
    pub async fn post(
        &self,
        url: &str,
        key: &str,
        content_type: &str,
        body: impl Into<Bytes>,
    ) -> anyhow::Result<Answer> {
        self.send(Method::POST, url, &[("x-api-key", key), ("content-type", content_type)], body).await
    }
}

impl Default for Http {
    fn default() -> Self {
        Self::new()
    }
}

/// ClickHouse, to look at what was stored. Reads tables as their owner, which only a test or a demo may do.
#[derive(Clone, Debug)]
pub struct ClickHouse {
    http: Http,
    endpoint: String,
    authorization: String,
}

impl ClickHouse {
    /// `dsn` is a `TRACEBILITY_CLICKHOUSE_URL`.
    pub fn new(http: Http, dsn: &str) -> anyhow::Result<Self> {
        let url = Url::parse(dsn).context("the ClickHouse URL")?;
        let (host, port) = (url.host_str().unwrap_or("localhost"), url.port().unwrap_or(8123));
        let database = url.path().trim_start_matches('/');
        let credentials = format!("{}:{}", url.username(), url.password().unwrap_or_default());
        let credentials = base64::engine::general_purpose::STANDARD.encode(credentials);
        Ok(Self {
            http,
            endpoint: format!("http://{host}:{port}/?database={database}&output_format_json_quote_64bit_integers=0"),
            authorization: format!("Basic {credentials}"),
        })
    }

    /// Runs a query and returns its answer as text.
    pub async fn text(&self, query: &str) -> anyhow::Result<String> {
        let headers = [("authorization", self.authorization.as_str())];
        let answer = self.http.send(Method::POST, &self.endpoint, &headers, query.to_owned()).await?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        if answer.status != StatusCode::OK {
            bail!("ClickHouse answered {} to {query}: {text}", answer.status);
        }
        Ok(text)
    }

    /// Runs a query whose data comes after it, and returns its answer as it is.
    pub async fn raw(&self, query: &str, data: impl Into<Bytes>) -> anyhow::Result<Bytes> {
        let body = [query.as_bytes(), &data.into()].concat();
        let headers = [("authorization", self.authorization.as_str())];
        let answer = self.http.send(Method::POST, &self.endpoint, &headers, body).await?;
        if answer.status != StatusCode::OK {
            bail!("ClickHouse answered {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
        }
        Ok(answer.body)
    }

    /// The rows of a query, as JSON objects.
    pub async fn rows(&self, query: &str) -> anyhow::Result<Vec<serde_json::Value>> {
        let text = self.text(&format!("{query} FORMAT JSONEachRow")).await?;
        text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    }

    /// The one number that a query returns.
    pub async fn number(&self, query: &str) -> anyhow::Result<u64> {
        let text = self.text(query).await?;
        text.trim().parse().with_context(|| format!("{query} returned {text:?}"))
    }
}
