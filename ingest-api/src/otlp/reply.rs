//! OTLP's answers, in the request's encoding.
//!
//! Source: OTLP specification, "OTLP/HTTP Response"; `google/rpc/status.proto`.

use prost::Message;
use serde_json::json;

use crate::batch::Counts;

/// How a request, and so its answer, is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// `application/x-protobuf`.
    Protobuf,
    /// `application/json`.
    Json,
}

impl Encoding {
    /// The media type of the answer.
    pub const fn content_type(self) -> &'static str {
        match self {
            Encoding::Protobuf => "application/x-protobuf",
            Encoding::Json => "application/json",
        }
    }
}

/// `ExportTraceServiceResponse`.
#[derive(Clone, PartialEq, Message)]
struct ExportResponse {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

/// `ExportTracePartialSuccess`.
#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected_spans: i64,
    #[prost(string, tag = "2")]
    error_message: String,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

/// The body of a success: empty, or a partial success if spans were set aside.
pub fn success(encoding: Encoding, counts: &Counts) -> Vec<u8> {
    let partial = (counts.set_aside > 0).then(|| PartialSuccess {
        rejected_spans: i64::try_from(counts.set_aside).unwrap_or(i64::MAX),
        error_message: reasons(counts),
    });
    match (encoding, partial) {
        (Encoding::Protobuf, partial_success) => ExportResponse { partial_success }.encode_to_vec(),
        (Encoding::Json, None) => b"{}".to_vec(),
        (Encoding::Json, Some(p)) => {
            let partial = json!({"rejectedSpans": p.rejected_spans.to_string(), "errorMessage": p.error_message});
            json!({ "partialSuccess": partial }).to_string().into_bytes()
        }
    }
}

fn reasons(counts: &Counts) -> String {
    let mut text: Vec<_> = counts.reasons.iter().map(|r| format!("{}: {}", r.item, r.error)).collect();
    let untold = counts.set_aside - counts.reasons.len() as u64;
    if untold > 0 {
        text.push(format!("and {untold} more"));
    }
    text.join("; ")
}

/// The body of an error.
pub fn failure(encoding: Encoding, code: i32, message: &str) -> Vec<u8> {
    match encoding {
        Encoding::Protobuf => Status { code, message: message.to_owned() }.encode_to_vec(),
        Encoding::Json => json!({"code": code, "message": message}).to_string().into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::SetAside;

    #[test]
    fn a_whole_success_says_nothing() {
        assert_eq!(success(Encoding::Protobuf, &Counts::default()), b"");
        assert_eq!(success(Encoding::Json, &Counts::default()), b"{}");
    }

    #[test]
    fn a_partial_success_counts_and_explains() {
        let reasons = vec![SetAside { item: "span 1".into(), error: "no".into() }];
        let counts = Counts { set_aside: 3, reasons, ..Default::default() };
        let json: serde_json::Value = serde_json::from_slice(&success(Encoding::Json, &counts)).unwrap();
        assert_eq!(json["partialSuccess"]["rejectedSpans"], "3");
        assert_eq!(json["partialSuccess"]["errorMessage"], "span 1: no; and 2 more");
        let protobuf = ExportResponse::decode(&*success(Encoding::Protobuf, &counts)).unwrap();
        assert_eq!(protobuf.partial_success.unwrap().rejected_spans, 3);
    }
}
