//! Answers of every listener: bodies, the headers that go with them, and refusals in the form that each client expects.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use admission::{RateLimitStatus, Refused};
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::Full;
use otlp::encoding::Encoding;
use otlp::reply;
use serde_json::json;
use stores::redis::ack::AckClass;
use uuid::Uuid;

use crate::error::ApiError;
use crate::metrics;

/// An answer of the ingest or operator listener.
pub type Answer = Response<Full<Bytes>>;

/// Seconds a client of a native route is asked to wait.
const RETRY_AFTER_NATIVE_SECONDS: u64 = 5;
/// Seconds an OTLP exporter is asked to wait: with more, exporters whose own deadline is near give up at once.
const RETRY_AFTER_OTLP_SECONDS: u64 = 1;

/// Most bytes of the message in the answer to a refused request.
const MESSAGE_BYTES_MAX: usize = 1_024;

/// The format in which a route answers its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// OTLP/HTTP, in this encoding.
    Otlp(Encoding),
    /// The JSON of our own protocol.
    Native,
}

/// An answer with that status, content type and body.
pub fn answer(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

/// Adds the rate limit's state of the API key, in the fields of draft-ietf-httpapi-ratelimit-headers-06: units that may
/// pass at once, units left, seconds until all are back.
pub fn with_rate_limit(mut answer: Answer, rate_limit: Option<RateLimitStatus>) -> Answer {
    if let Some(RateLimitStatus { limit, remaining, reset }) = rate_limit {
        rate_limit_headers(answer.headers_mut(), limit, remaining, seconds(reset));
    }
    answer
}

/// The header that says how durable the stored data is: a word of [`AckClass`].
pub const ACK_HEADER: HeaderName = HeaderName::from_static("x-tracebility-ack");

/// Adds how durable the stored data is. Adds nothing when nothing was stored.
pub fn with_ack(mut answer: Answer, ack: Option<AckClass>) -> Answer {
    if let Some(class) = ack {
        answer.headers_mut().insert(ACK_HEADER, HeaderValue::from_static(class.as_str()));
    }
    answer
}

fn rate_limit_headers(headers: &mut HeaderMap, limit: i64, remaining: i64, reset_s: u64) {
    headers.insert("ratelimit-limit", HeaderValue::from(limit));
    headers.insert("ratelimit-remaining", HeaderValue::from(remaining));
    headers.insert("ratelimit-reset", HeaderValue::from(reset_s));
}

/// Whole seconds, rounded up, so that a client that waits this long does not come back too early.
fn seconds(duration: Duration) -> u64 {
    duration.as_millis().div_ceil(1000) as u64
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The answer to a refused request, in the form that its client expects.
pub fn refuse(dialect: Dialect, request_id: Uuid, error: &ApiError) -> Answer {
    let status = error.status();
    log(request_id, error, status);
    metrics::refused(error.code());
    let message = message(error);
    let mut answer = match dialect {
        Dialect::Otlp(encoding) => {
            answer(status, encoding.content_type(), reply::failure(encoding, error.grpc_code(), &message))
        }
        Dialect::Native => {
            let error = json!({"code": error.code(), "message": message, "request_id": request_id});
            self::answer(status, "application/json", json!({ "error": error }).to_string().into_bytes())
        }
    };
    let headers = answer.headers_mut();
    if let Some(seconds) = retry_after(dialect, error) {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    match (status, error) {
        (_, ApiError::Refused(Refused::RateLimited { rate, retry_after: wait, .. })) => {
            let wait = seconds(*wait);
            rate_limit_headers(headers, rate.burst(), 0, wait);
            headers.insert("x-ratelimit-reset", HeaderValue::from(unix_seconds() + wait));
        }
        (_, ApiError::Refused(Refused::OverQuota { meter, .. })) => {
            headers.insert("x-quota-meter", HeaderValue::from_static(meter.as_str()));
        }
        (StatusCode::UNAUTHORIZED, _) => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"tracebility\""));
        }
        (_, ApiError::MethodNotAllowed { allowed }) => {
            headers.insert(ALLOW, HeaderValue::from_static(allowed));
        }
        _ => {}
    }
    answer
}

/// The error message for the client, cut to `MESSAGE_BYTES_MAX`: it can quote what the client sent, which can be
/// megabytes.
pub fn message(error: &ApiError) -> String {
    let mut message = error.to_string();
    message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
    message
}

/// How many seconds a refused client should wait before it tries again; `None` if waiting cannot help.
pub fn retry_after(dialect: Dialect, error: &ApiError) -> Option<u64> {
    let usual = match dialect {
        Dialect::Otlp(_) => RETRY_AFTER_OTLP_SECONDS,
        Dialect::Native => RETRY_AFTER_NATIVE_SECONDS,
    };
    match error {
        ApiError::Refused(Refused::RateLimited { retry_after, .. }) => Some(seconds(*retry_after).max(usual)),
        error => (error.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(usual),
    }
}

/// Logs a refusal. Our own faults are errors. Faults of the client, and refusals that an operator asked for, are notes.
pub fn log(request_id: Uuid, error: &ApiError, status: StatusCode) {
    if status.is_server_error() && !matches!(error, ApiError::Moving) {
        let cause = match error {
            ApiError::Unconfirmed { why, .. } => Some(why.clone()),
            error => std::error::Error::source(error).map(ToString::to_string),
        };
        tracing::error!(%request_id, code = error.code(), cause, "request refused: {error}");
    } else {
        tracing::debug!(%request_id, code = error.code(), "request refused: {error}");
    }
}
