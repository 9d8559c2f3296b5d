//! Builds OTLP's answers, in the encoding of the request.
//!
//! Source: OTLP specification, "OTLP/HTTP Response"; `google/rpc/status.proto`.

use prost::Message;
use serde_json::json;
use translate::batch::Counts;

use super::encoding::Encoding;
use super::untraced;
use super::untraced::Signal;

/// `ExportTraceServiceResponse`; those of logs and metrics look the same on the wire.
#[derive(Clone, PartialEq, Message)]
struct ExportResponse {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

/// `ExportTracePartialSuccess`: how many spans were rejected, and why.
#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected: i64,
    #[prost(string, tag = "2")]
    error_message: String,
}

/// `google.rpc.Status`, which is how OTLP answers errors.
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`, around a detail of a [`Status`].
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo`, the one detail that is sent.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Delay>,
}

/// `google.protobuf.Duration`, always in whole seconds here.
#[derive(Clone, PartialEq, Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
}

/// Tells a gRPC client when to retry, as the bytes of two trailers: a `RetryInfo`, which is all that Python's exporter
/// reads, and the same inside of a `Status`, as the specification says.
pub fn retry_info(code: i32, message: &str, seconds: u64) -> (Vec<u8>, Vec<u8>) {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    let info = RetryInfo { retry_delay: Some(Delay { seconds }) }.encode_to_vec();
    let any = Any { type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(), value: info.clone() };
    (info, Status { code, message: message.to_owned(), details: vec![any] }.encode_to_vec())
}

/// The body of a success: empty, or a partial success if spans were rejected.
pub fn success(encoding: Encoding, counts: &Counts) -> Vec<u8> {
    partial_success(encoding, "rejectedSpans", counts.rejected, || reasons(counts))
}

/// The body of an answer that rejects every item of a signal that is not stored.
pub fn untraced(encoding: Encoding, signal: Signal, items: u64) -> Vec<u8> {
    partial_success(encoding, signal.rejected_name(), items, || untraced::REASON.to_owned())
}

fn partial_success(encoding: Encoding, name: &str, rejected: u64, message: impl FnOnce() -> String) -> Vec<u8> {
    let partial = (rejected > 0)
        .then(|| PartialSuccess { rejected: i64::try_from(rejected).unwrap_or(i64::MAX), error_message: message() });
    match (encoding, partial) {
        (Encoding::Protobuf, partial_success) => ExportResponse { partial_success }.encode_to_vec(),
        (Encoding::Json, None) => b"{}".to_vec(),
        (Encoding::Json, Some(p)) => {
            let partial = json!({name: p.rejected.to_string(), "errorMessage": p.error_message});
            json!({ "partialSuccess": partial }).to_string().into_bytes()
        }
    }
}

fn reasons(counts: &Counts) -> String {
    let mut text: Vec<_> = counts.reasons.iter().map(|r| format!("{}: {}", r.item, r.error)).collect();
    let omitted = counts.rejected - counts.reasons.len() as u64;
    if omitted > 0 {
        text.push(format!("and {omitted} more"));
    }
    text.join("; ")
}

/// The body of an answer to a refused request.
pub fn failure(encoding: Encoding, code: i32, message: &str) -> Vec<u8> {
    match encoding {
        Encoding::Protobuf => Status { code, message: message.to_owned(), details: Vec::new() }.encode_to_vec(),
        Encoding::Json => json!({"code": code, "message": message}).to_string().into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use translate::batch::Rejection;

    #[test]
    fn a_full_success_has_an_empty_reply() {
        assert_eq!(success(Encoding::Protobuf, &Counts::default()), b"");
        assert_eq!(success(Encoding::Json, &Counts::default()), b"{}");
    }

    #[test]
    fn a_partial_success_counts_and_explains() {
        let reasons = vec![Rejection { item: "span 1".into(), id: None, error: "no".into() }];
        let counts = Counts { rejected: 3, reasons, ..Default::default() };
        let json: serde_json::Value = serde_json::from_slice(&success(Encoding::Json, &counts)).unwrap();
        assert_eq!(json["partialSuccess"]["rejectedSpans"], "3");
        assert_eq!(json["partialSuccess"]["errorMessage"], "span 1: no; and 2 more");
        let protobuf = ExportResponse::decode(&*success(Encoding::Protobuf, &counts)).unwrap();
        assert_eq!(protobuf.partial_success.unwrap().rejected, 3);
    }

    #[test]
    fn another_signal_is_rejected_by_its_own_name() {
        let json: serde_json::Value = serde_json::from_slice(&untraced(Encoding::Json, Signal::Logs, 2)).unwrap();
        assert_eq!(json["partialSuccess"]["rejectedLogRecords"], "2");
        assert_eq!(json["partialSuccess"]["errorMessage"], untraced::REASON);
        let protobuf = untraced(Encoding::Protobuf, Signal::Metrics, 3);
        assert_eq!(ExportResponse::decode(&*protobuf).unwrap().partial_success.unwrap().rejected, 3);
        assert_eq!(untraced(Encoding::Json, Signal::Metrics, 0), b"{}");
    }

    #[test]
    fn retry_info_is_returned_alone_and_inside_the_status() {
        let (info, status) = retry_info(8, "slow down", 3);
        // RetryInfo { retry_delay { seconds: 3 } }, encoded by hand.
        assert_eq!(info, [0x0a, 0x02, 0x08, 0x03]);
        let status = Status::decode(&*status).unwrap();
        assert_eq!((status.code, &*status.message, &status.details[0].value), (8, "slow down", &info));
    }
}
