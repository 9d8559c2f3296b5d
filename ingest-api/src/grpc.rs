//! OTLP over gRPC: unary methods, framed by hand. Traces are stored, logs and metrics rejected item by item, and
//! `grpc.health.v1.Health/Check` says what `/readyz` says.
//!
//! A gRPC framework would decode the message into owned structs first. Here the same code reads the frame's bytes as
//! reads a body of OTLP/HTTP. Source: gRPC over HTTP/2,
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>; health: `doc/health-checking.md` there.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, Version};
use http_body_util::combinators::WithTrailers;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use otlp::encoding::Encoding;
use otlp::reply;
use otlp::untraced::Signal;
use prost::Message;
use service::http_path;
use stores::redis::ack::AckClass;
use uuid::Uuid;

use crate::answer::Dialect;
use crate::app::App;
use crate::body::{Compression, ReadBody};
use crate::decoder::Decoder;
use crate::error::ApiError;
use crate::{answer, body, metrics};

const TRACES: &str = "opentelemetry.proto.collector.trace.v1.TraceService";
const LOGS: &str = "opentelemetry.proto.collector.logs.v1.LogsService";
const METRICS: &str = "opentelemetry.proto.collector.metrics.v1.MetricsService";
const HEALTH: &str = "grpc.health.v1.Health";
/// The message encodings that this server reads.
const ENCODINGS: &str = "identity,gzip,deflate,zstd";
/// Bytes before a message: the compressed flag (1) and the length (4).
const FRAME_HEAD_BYTES: usize = 5;
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const RETRY_INFO: HeaderName = HeaderName::from_static("google.rpc.retryinfo-bin");
const STATUS_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

type Answer = Response<WithTrailers<Full<Bytes>, Ready<Option<Result<HeaderMap, Infallible>>>>>;

/// A gRPC method that this server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GrpcMethod {
    Traces,
    Untraced(Signal),
    Health,
}

impl GrpcMethod {
    fn of(path: &str) -> Option<Self> {
        match path.strip_prefix('/')?.split_once('/')? {
            (TRACES, "Export") => Some(GrpcMethod::Traces),
            (LOGS, "Export") => Some(GrpcMethod::Untraced(Signal::Logs)),
            (METRICS, "Export") => Some(GrpcMethod::Untraced(Signal::Metrics)),
            (HEALTH, "Check") => Some(GrpcMethod::Health),
            _ => None,
        }
    }
}

/// Answers one call. A request that is not gRPC gets an HTTP error: its client would take the status 200 of a gRPC
/// error for success.
pub async fn handle(app: App, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let begun = Instant::now();
    let request_id = Uuid::now_v7();
    if !is_grpc(&request) {
        return Ok(not_grpc(request_id, request, begun).await);
    }
    let result = match GrpcMethod::of(&http_path::normal(request.uri().path())) {
        Some(GrpcMethod::Traces) => export(&app, request_id, request).await,
        Some(GrpcMethod::Untraced(signal)) => reject(&app, signal, request).await.map(Reply::from),
        Some(GrpcMethod::Health) => check_health(&app, request).await.map(Reply::from),
        None => Err(ApiError::MethodNotAllowed { allowed: "the methods TraceService/Export and Health/Check" }),
    };
    let status = result.as_ref().map_or_else(|e| e.status().as_u16(), |_| 200);
    metrics::answered("grpc", status, begun.elapsed());
    Ok(match result {
        Ok(reply) => success(&reply),
        Err(error) => failure(request_id, &error),
    })
}

/// The message of the answer, and how durable the stored data is.
struct Reply {
    message: Vec<u8>,
    ack: Option<AckClass>,
}

impl From<Vec<u8>> for Reply {
    fn from(message: Vec<u8>) -> Self {
        Self { message, ack: None }
    }
}

/// Whether a request is gRPC. gRPC-Web, and gRPC with other encodings than protobuf, are other protocols.
fn is_grpc(request: &Request<Incoming>) -> bool {
    let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    let is_known =
        ["application/grpc", "application/grpc+proto"].iter().any(|known| media_type.eq_ignore_ascii_case(known));
    is_known && request.method() == Method::POST && request.version() == Version::HTTP_2
}

async fn not_grpc(request_id: Uuid, request: Request<Incoming>, begun: Instant) -> Answer {
    let (head, mut body) = request.into_parts();
    let content_type = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let found = format!("{} {:?} with content type {content_type:?}", head.method, head.version);
    let is_protobuf = content_type.to_ascii_lowercase().starts_with(Encoding::Protobuf.content_type());
    let encoding = if is_protobuf { Encoding::Protobuf } else { Encoding::Json };
    let error = ApiError::NotGrpc { found };
    let answer = answer::refuse(Dialect::Otlp(encoding), request_id, &error);
    body::discard(&head.headers, &mut body).await;
    metrics::answered("grpc", error.status().as_u16(), begun.elapsed());
    answer.map(|body| body.with_trailers(ready(None)))
}

async fn export(app: &App, request_id: Uuid, request: Request<Incoming>) -> Result<Reply, ApiError> {
    let (head, body) = request.into_parts();
    let mut admitted = app.admit(&head.headers).await?;
    let message = admitted.check(read(app, &head.headers, body).await)?;
    let decoder = Decoder::OtlpGrpc(otlp::project::of(&head.headers));
    let accepted = app.store(request_id, admitted, message, &decoder).await?;
    Ok(Reply { message: reply::success(Encoding::Protobuf, &accepted.counts), ack: accepted.ack })
}

async fn reject(app: &App, signal: Signal, request: Request<Incoming>) -> Result<Vec<u8>, ApiError> {
    let (head, body) = request.into_parts();
    let mut admitted = app.admit(&head.headers).await?;
    let message = admitted.check(read(app, &head.headers, body).await)?;
    let (items, _) = app.reject_untraced(admitted, signal, Encoding::Protobuf, &message.bytes).await?;
    Ok(reply::untraced(Encoding::Protobuf, signal, items))
}

/// Needs no API key, like the probes over HTTP. A client asks for the whole server by an empty service name, or by the
/// name of the service that stores.
async fn check_health(app: &App, request: Request<Incoming>) -> Result<Vec<u8>, ApiError> {
    const SERVING: i32 = 1;
    const NOT_SERVING: i32 = 2;
    #[derive(Clone, PartialEq, prost::Message)]
    struct HealthCheckRequest {
        #[prost(string, tag = "1")]
        service: String,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    struct HealthCheckResponse {
        #[prost(int32, tag = "1")]
        status: i32,
    }
    let (head, body) = request.into_parts();
    let message = read(app, &head.headers, body).await?;
    let asked = HealthCheckRequest::decode(message.bytes)
        .map_err(|error| ApiError::Malformed(format!("not a HealthCheckRequest: {error}")))?;
    if !asked.service.is_empty() && asked.service != TRACES {
        return Err(ApiError::NotFound);
    }
    let status = if app.health.is_ready().await { SERVING } else { NOT_SERVING };
    Ok(HealthCheckResponse { status }.encode_to_vec())
}

/// Reads the one message of a unary call. The size limit is that of a body.
async fn read(app: &App, headers: &HeaderMap, mut body: Incoming) -> Result<ReadBody, ApiError> {
    let framed = body::collect(headers, &mut body, app.budget()).await?;
    unframe(headers, framed, app)
}

/// Takes the one message out of its frame, and decompresses it.
fn unframe(headers: &HeaderMap, mut framed: ReadBody, app: &App) -> Result<ReadBody, ApiError> {
    let malformed = |text: &str| ApiError::Malformed(text.to_owned());
    let Some(&[compressed, l0, l1, l2, l3]) = framed.bytes.first_chunk::<FRAME_HEAD_BYTES>() else {
        return Err(malformed("the gRPC frame is cut off"));
    };
    if u32::from_be_bytes([l0, l1, l2, l3]) as usize != framed.bytes.len() - FRAME_HEAD_BYTES {
        return Err(malformed("the gRPC frame's length is not that of the one message of a unary call"));
    }
    let compression = match (compressed, headers.get("grpc-encoding").and_then(|v| v.to_str().ok())) {
        (0, _) => Compression::Identity,
        (1, Some(name)) => Compression::named(name)?,
        (_, found) => return Err(ApiError::ContentEncoding { found: found.unwrap_or("?").to_owned() }),
    };
    framed.bytes = framed.bytes.split_off(FRAME_HEAD_BYTES);
    body::decompress(compression, framed, app.budget())
}

fn success(Reply { message, ack }: &Reply) -> Answer {
    let mut framed = BytesMut::with_capacity(FRAME_HEAD_BYTES + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or_default());
    framed.put_slice(message);
    let mut trailers = HeaderMap::new();
    trailers.insert(STATUS, HeaderValue::from_static("0"));
    let mut answer = response(framed.freeze(), trailers);
    if let Some(class) = ack {
        answer.headers_mut().insert(answer::ACK_HEADER, HeaderValue::from_static(class.as_str()));
    }
    answer
}

fn failure(request_id: Uuid, error: &ApiError) -> Answer {
    answer::log(request_id, error, error.status());
    metrics::refused(error.code());
    let mut trailers = HeaderMap::new();
    let (code, message) = (code(error), answer::message(error));
    trailers.insert(STATUS, HeaderValue::from(code));
    let mut insert = |name, value: String| {
        if let Ok(value) = HeaderValue::from_str(&value) {
            trailers.insert(name, value);
        }
    };
    insert(MESSAGE, percent_encode(&message));
    if let Some(seconds) = answer::retry_after(Dialect::Otlp(Encoding::Protobuf), error) {
        let (info, status) = reply::retry_info(code, &message, seconds);
        insert(RETRY_INFO, STANDARD_NO_PAD.encode(info));
        insert(STATUS_DETAILS, STANDARD_NO_PAD.encode(status));
    }
    response(Bytes::new(), trailers)
}

/// The status code of gRPC, where it differs from the code in the `Status` of OTLP/HTTP.
fn code(error: &ApiError) -> i32 {
    const UNIMPLEMENTED: i32 = 12;
    match error {
        // This code lets a client try again without compression.
        ApiError::ContentEncoding { .. } => UNIMPLEMENTED,
        error => error.grpc_code(),
    }
}

/// An answer that always ends in trailers. (A "Trailers-Only" answer would have to end the stream with its head, which
/// an HTTP body cannot express: clients would get an empty last frame instead and take that for a broken stream.)
fn response(body: Bytes, trailers: HeaderMap) -> Answer {
    let mut answer = Response::new(Full::new(body).with_trailers(ready(Some(Ok(trailers)))));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-accept-encoding", HeaderValue::from_static(ENCODINGS));
    answer
}

/// gRPC's own percent-encoding: everything outside printable ASCII, and `%`.
fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
