//! The ingest listener: finds the handler for a path and method, and turns its result into an answer.

use std::convert::Infallible;
use std::time::Instant;

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use otlp::encoding::Encoding;
use otlp::reply;
use otlp::untraced::Signal;
use serde_json::json;
use service::http_path;
use translate::batch::Counts;
use uuid::Uuid;

use crate::answer::{Answer, Dialect, answer, refuse, with_ack, with_rate_limit};
use crate::app::{Accepted, App};
use crate::cors::Origins;
use crate::decoder::Decoder;
use crate::error::ApiError;
use crate::{body, header_value, health, langsmith, metrics};

/// What clients can ask for at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Traces,
    Untraced(Signal),
    Runs,
    LangSmith(langsmith::Route),
    Health(health::Probe),
    OpenApi,
    Unknown,
}

/// Stands in [`PATHS`] for one segment with any content.
const RUN_ID: &str = "{run_id}";

/// Every path, the most frequent ones first. LangSmith's users configure the endpoint with and without `/api/v1`; in
/// OTel mode its SDKs append to either. Langfuse's SDKs send to `/api/public` and present their API key as HTTP Basic.
const PATHS: [(&str, Route); 29] = [
    ("/v1/traces", Route::Traces),
    ("/otel/v1/traces", Route::Traces),
    ("/api/v1/otel/v1/traces", Route::Traces),
    ("/api/public/otel/v1/traces", Route::Traces),
    ("/v1/runs", Route::Runs),
    ("/runs/multipart", Route::LangSmith(langsmith::Route::Multipart)),
    ("/api/v1/runs/multipart", Route::LangSmith(langsmith::Route::Multipart)),
    ("/runs/batch", Route::LangSmith(langsmith::Route::Batch)),
    ("/api/v1/runs/batch", Route::LangSmith(langsmith::Route::Batch)),
    ("/runs", Route::LangSmith(langsmith::Route::Runs)),
    ("/api/v1/runs", Route::LangSmith(langsmith::Route::Runs)),
    ("/runs/{run_id}", Route::LangSmith(langsmith::Route::Run(None))),
    ("/api/v1/runs/{run_id}", Route::LangSmith(langsmith::Route::Run(None))),
    ("/feedback", Route::LangSmith(langsmith::Route::Feedback)),
    ("/api/v1/feedback", Route::LangSmith(langsmith::Route::Feedback)),
    ("/info", Route::LangSmith(langsmith::Route::Info)),
    ("/api/v1/info", Route::LangSmith(langsmith::Route::Info)),
    ("/v1/logs", Route::Untraced(Signal::Logs)),
    ("/otel/v1/logs", Route::Untraced(Signal::Logs)),
    ("/api/v1/otel/v1/logs", Route::Untraced(Signal::Logs)),
    ("/api/public/otel/v1/logs", Route::Untraced(Signal::Logs)),
    ("/v1/metrics", Route::Untraced(Signal::Metrics)),
    ("/otel/v1/metrics", Route::Untraced(Signal::Metrics)),
    ("/api/v1/otel/v1/metrics", Route::Untraced(Signal::Metrics)),
    ("/api/public/otel/v1/metrics", Route::Untraced(Signal::Metrics)),
    ("/healthz", Route::Health(health::Probe::Alive)),
    ("/readyz", Route::Health(health::Probe::Ready)),
    ("/metrics", Route::Health(health::Probe::Metrics)),
    ("/openapi.yaml", Route::OpenApi),
];

/// The description of what is served: `docs/reference/openapi.yaml`. A test compares the two.
const OPENAPI: &str = include_str!("../../docs/reference/openapi.yaml");

/// Method and path of everything that is served. `{run_id}` in a path stands for one segment with any content.
pub fn served() -> impl Iterator<Item = (&'static str, &'static str)> {
    PATHS.iter().map(|(path, route)| (route.method(), *path))
}

/// What of LangSmith's protocol is at a path.
pub fn langsmith_at(path: &str) -> Option<langsmith::Route> {
    match Route::of(path) {
        Route::LangSmith(route) => Some(route),
        _ => None,
    }
}

impl Route {
    fn of(path: &str) -> Self {
        let found = PATHS.iter().find_map(|(template, route)| match (route, template.strip_suffix(RUN_ID)) {
            (_, None) => (path == *template).then_some(*route),
            (_, Some(before)) => {
                let id = path.strip_prefix(before).filter(|id| !id.contains('/'))?;
                Some(Route::LangSmith(langsmith::Route::Run(id.parse().ok())))
            }
        });
        found.unwrap_or(Route::Unknown)
    }

    /// The one HTTP method that the route takes.
    fn method(self) -> &'static str {
        match self {
            Route::Traces | Route::Untraced(_) | Route::Runs => "POST",
            Route::LangSmith(route) => route.method(),
            Route::Health(_) | Route::OpenApi | Route::Unknown => "GET",
        }
    }

    /// The label of the route in metrics.
    fn name(self) -> &'static str {
        match self {
            Route::Traces => "/v1/traces",
            Route::Untraced(Signal::Logs) => "/v1/logs",
            Route::Untraced(Signal::Metrics) => "/v1/metrics",
            Route::Runs => "/v1/runs",
            Route::LangSmith(route) => route.name(),
            Route::Health(probe) => probe.path(),
            Route::OpenApi => "/openapi.yaml",
            Route::Unknown => "unknown",
        }
    }
}

/// Answers one request. `cors` decides what pages of other origins may do. Never fails: an error becomes an answer.
pub async fn handle(app: App, cors: Origins, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let begun = Instant::now();
    let request_id = Uuid::now_v7();
    let (head, mut body) = request.into_parts();
    let route = Route::of(&http_path::normal(head.uri.path()));
    let mut answer = match route {
        Route::Unknown => refuse(Dialect::Native, request_id, &ApiError::NotFound),
        route if Origins::is_preflight(&head.method, &head.headers) => {
            preflight(&cors, request_id, &head.headers, route.method())
        }
        route if head.method.as_str() != route.method() => {
            refuse(Dialect::Native, request_id, &ApiError::MethodNotAllowed { allowed: route.method() })
        }
        Route::Traces => traces(&app, request_id, &head.headers, &mut body).await,
        Route::Untraced(signal) => untraced(&app, signal, request_id, &head.headers, &mut body).await,
        Route::Runs => runs(&app, request_id, &head.headers, &mut body).await,
        Route::LangSmith(langsmith::Route::Info) => {
            let info = langsmith::info(app.budget().body_max());
            self::answer(StatusCode::OK, "application/json", info.to_string().into_bytes())
        }
        Route::LangSmith(route) => langsmith(&app, request_id, &head.headers, &mut body, route).await,
        Route::Health(probe) => app.health.answer(probe).await,
        Route::OpenApi => self::answer(StatusCode::OK, "application/yaml", OPENAPI.as_bytes().to_vec()),
    };
    if !answer.status().is_success() {
        body::discard(&head.headers, &mut body).await;
    }
    if let Ok(id) = HeaderValue::from_str(request_id.hyphenated().encode_lower(&mut Uuid::encode_buffer())) {
        answer.headers_mut().insert("x-request-id", id);
    }
    cors.expose(&head.headers, answer.headers_mut());
    metrics::answered(route.name(), answer.status().as_u16(), begun.elapsed());
    Ok(answer)
}

/// Answers a preflight: whether a page of another origin may send to a path that takes `method`.
fn preflight(cors: &Origins, request_id: Uuid, asked: &HeaderMap, method: &'static str) -> Answer {
    if !cors.admits(asked) {
        return refuse(Dialect::Native, request_id, &ApiError::Origin);
    }
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    cors.answer_preflight(asked, method, answer.headers_mut());
    answer
}

async fn traces(app: &App, request_id: Uuid, headers: &HeaderMap, body: &mut Incoming) -> Answer {
    let encoding = match otlp_encoding(headers) {
        Ok(encoding) => encoding,
        Err(error) => return refuse(Dialect::Otlp(Encoding::Json), request_id, &error),
    };
    let project = otlp::project::of(headers);
    let decoder = match encoding {
        Encoding::Protobuf => Decoder::OtlpProtobuf(project),
        Encoding::Json => Decoder::OtlpJson(project),
    };
    match app.ingest(request_id, headers, body, &decoder).await {
        Ok(Accepted { counts, rate_limit, ack }) => {
            let answer = answer(StatusCode::OK, encoding.content_type(), reply::success(encoding, &counts));
            with_ack(with_rate_limit(answer, rate_limit), ack)
        }
        Err(error) => refuse(Dialect::Otlp(encoding), request_id, &error),
    }
}

/// Logs and metrics: their items are read, counted and rejected.
async fn untraced(app: &App, signal: Signal, request_id: Uuid, headers: &HeaderMap, body: &mut Incoming) -> Answer {
    let encoding = match otlp_encoding(headers) {
        Ok(encoding) => encoding,
        Err(error) => return refuse(Dialect::Otlp(Encoding::Json), request_id, &error),
    };
    let rejected = async {
        let mut admitted = app.admit(headers).await?;
        let body = admitted.check(body::read(headers, body, app.budget()).await)?;
        app.reject_untraced(admitted, signal, encoding, &body.bytes).await
    };
    match rejected.await {
        Ok((items, rate_limit)) => {
            let body = reply::untraced(encoding, signal, items);
            with_rate_limit(answer(StatusCode::OK, encoding.content_type(), body), rate_limit)
        }
        Err(error) => refuse(Dialect::Otlp(encoding), request_id, &error),
    }
}

fn otlp_encoding(headers: &HeaderMap) -> Result<Encoding, ApiError> {
    let found = media_type(headers);
    let encodings = [Encoding::Protobuf, Encoding::Json];
    encodings.into_iter().find(|encoding| found.eq_ignore_ascii_case(encoding.content_type())).ok_or_else(|| {
        let wanted = "application/x-protobuf, application/json";
        ApiError::ContentType { found: found.to_owned(), wanted }
    })
}

async fn runs(app: &App, request_id: Uuid, headers: &HeaderMap, body: &mut Incoming) -> Answer {
    let found = media_type(headers);
    if !found.eq_ignore_ascii_case("application/json") {
        let error = ApiError::ContentType { found: found.to_owned(), wanted: "application/json" };
        return refuse(Dialect::Native, request_id, &error);
    }
    match app.ingest(request_id, headers, body, &Decoder::Native).await {
        Ok(Accepted { counts, rate_limit, ack }) => {
            let answer = answer(StatusCode::ACCEPTED, "application/json", accepted(&counts));
            with_ack(with_rate_limit(answer, rate_limit), ack)
        }
        Err(error) => refuse(Dialect::Native, request_id, &error),
    }
}

async fn langsmith(
    app: &App,
    request_id: Uuid,
    headers: &HeaderMap,
    body: &mut Incoming,
    route: langsmith::Route,
) -> Answer {
    let content_type = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let stored = match route.body(content_type) {
        Ok(kind) => app.ingest(request_id, headers, body, &Decoder::LangSmith(kind)).await,
        Err(error) => Err(error),
    };
    match stored {
        Ok(Accepted { counts, rate_limit, ack }) => {
            if counts.rejected > 0 {
                // LangSmith's SDKs do not read answers, so operators must find rejected items in the log.
                tracing::warn!(%request_id, rejected = counts.rejected, reasons = ?counts.reasons, "items were rejected");
            }
            let answer = answer(StatusCode::ACCEPTED, "application/json", accepted(&counts));
            with_ack(with_rate_limit(answer, rate_limit), ack)
        }
        Err(error) => refuse(Dialect::Native, request_id, &error),
    }
}

/// The content type without its parameters. A charset changes nothing: JSON is UTF-8 (RFC 8259 §8.1).
fn media_type(headers: &HeaderMap) -> &str {
    header_value::split(headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default()).0
}

fn accepted(counts: &Counts) -> Vec<u8> {
    let rejected: Vec<_> =
        counts.reasons.iter().map(|r| json!({"path": r.item, "id": r.id, "error": r.error})).collect();
    let mut body = json!({
        "accepted_runs": counts.runs,
        "accepted_spans": counts.spans,
        "rejected": rejected,
    });
    for (name, number) in [("accepted_scores", counts.scores), ("accepted_attachments", counts.attachments)] {
        if number > 0 {
            body[name] = number.into();
        }
    }
    let omitted = counts.rejected - counts.reasons.len() as u64;
    if omitted > 0 {
        body["rejected_omitted"] = omitted.into();
    }
    body.to_string().into_bytes()
}
