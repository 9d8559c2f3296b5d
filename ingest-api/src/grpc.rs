//! OTLP over gRPC: one unary method, framed by hand.
//!
//! A gRPC framework would decode the message into owned structs before we see it; here the frame's bytes go to the same
//! walker as a body of OTLP/HTTP. Source: gRPC over HTTP/2, <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.

use std::convert::Infallible;
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::WithTrailers;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use schema::envelope::Source;
use std::future::{Ready, ready};
use uuid::Uuid;

use crate::app::App;
use crate::batch::Counts;
use crate::body::{self, Compression, ReadBody};
use crate::error::ApiError;
use crate::metrics;
use crate::otlp::reply::{self, Encoding};
use crate::routes;

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// Compressed flag and length.
const FRAME_HEAD_BYTES: usize = 5;
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

type Answer = Response<WithTrailers<Full<Bytes>, Ready<Option<Result<HeaderMap, Infallible>>>>>;

/// Answers one call.
pub async fn handle(app: App, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let begun = Instant::now();
    let request_id = Uuid::now_v7();
    let result = if request.uri().path() == EXPORT {
        export(&app, request_id, request).await
    } else {
        Err(ApiError::MethodNotAllowed { allowed: EXPORT })
    };
    let status = result.as_ref().map_or_else(|e| e.status().as_u16(), |_| 200);
    metrics::answered("grpc", status, begun.elapsed());
    Ok(match result {
        Ok(counts) => success(&counts),
        Err(error) => failure(request_id, &error),
    })
}

async fn export(app: &App, request_id: Uuid, request: Request<Incoming>) -> Result<Counts, ApiError> {
    let (head, body) = request.into_parts();
    let tenant = app.admit(&head.headers).await?;
    let framed = body::collect(&head.headers, body, app.budget()).await;
    let message = framed.and_then(|framed| unframe(&head.headers, framed, app));
    let message = message.inspect_err(|error| app.refused_unread(&tenant, error))?;
    Ok(app.store(request_id, &tenant, message, Source::OtlpGrpc).await?.counts)
}

/// Takes the one message out of its frame.
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
        (1, Some("gzip")) => Compression::Gzip,
        (_, found) => return Err(ApiError::ContentEncoding { found: found.unwrap_or("?").to_owned() }),
    };
    framed.bytes = framed.bytes.split_off(FRAME_HEAD_BYTES);
    body::decompress(compression, framed, app.budget())
}

fn success(counts: &Counts) -> Answer {
    let message = reply::success(Encoding::Protobuf, counts);
    let mut framed = BytesMut::with_capacity(FRAME_HEAD_BYTES + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or_default());
    framed.put_slice(&message);
    let mut trailers = HeaderMap::new();
    trailers.insert(STATUS, HeaderValue::from_static("0"));
    response(framed.freeze(), trailers)
}

fn failure(request_id: Uuid, error: &ApiError) -> Answer {
    routes::log(request_id, error, error.status());
    metrics::refused(error.code());
    let mut trailers = HeaderMap::new();
    trailers.insert(STATUS, HeaderValue::from(error.grpc_code()));
    if let Ok(message) = HeaderValue::from_str(&percent_encode(&error.to_string())) {
        trailers.insert(MESSAGE, message);
    }
    response(Bytes::new(), trailers)
}

/// Always ends in trailers. (A "Trailers-Only" answer would have to end the stream with its head, which an HTTP body cannot
/// say for itself: clients get an empty last frame instead and take that for a broken stream.)
fn response(body: Bytes, trailers: HeaderMap) -> Answer {
    let mut answer = Response::new(Full::new(body).with_trailers(ready(Some(Ok(trailers)))));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
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
