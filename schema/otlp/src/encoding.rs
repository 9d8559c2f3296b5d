//! The two encodings of OTLP over HTTP.

/// The encoding of a request, and so of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Protobuf, sent and answered as `application/x-protobuf`.
    Protobuf,
    /// Protobuf's JSON mapping, sent and answered as `application/json`.
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
