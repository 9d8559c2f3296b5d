//! Turns a body into rows, with one arm for each protocol.

use std::borrow::Cow;

use model::trace::UnixNanos;
use otlp::Translator;
use translate::batch::{Batch, Counts};
use translate::lenient::Document;
use translate::native;
use translate::native::OnRejection;
use wire::envelope::{Header, Source, Writer};

use crate::body::Budget;
use crate::error::ApiError;
use crate::langsmith;

/// How many items were accepted and rejected, and the envelope that is to be sealed, if there is anything to store.
pub type Decoded = Result<(Counts, Option<Writer>), ApiError>;

/// The protocol of a body, with everything outside the body that decides what it means. For OTLP that is the LangSmith
/// project of spans that name none; it may be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoder {
    /// OTLP/HTTP in protobuf: an `ExportTraceServiceRequest`.
    OtlpProtobuf(String),
    /// OTLP/HTTP in JSON: the same message in protobuf's JSON mapping.
    OtlpJson(String),
    /// OTLP/gRPC: the protobuf message out of its gRPC frame.
    OtlpGrpc(String),
    /// A batch in JSON of our own protocol.
    Native,
    /// A body of LangSmith's protocol.
    LangSmith(langsmith::BodyKind),
}

impl Decoder {
    /// The name of the protocol that the rows are stored with.
    pub const fn source(&self) -> Source {
        match self {
            Self::OtlpProtobuf(_) => Source::OtlpProtobuf,
            Self::OtlpJson(_) => Source::OtlpJson,
            Self::OtlpGrpc(_) => Source::OtlpGrpc,
            Self::Native => Source::Native,
            Self::LangSmith(_) => Source::LangSmith,
        }
    }

    /// Everything outside the body that decides what the body means. It is part of the content id.
    pub fn body_context(&self) -> Cow<'_, str> {
        match self {
            Self::OtlpProtobuf(project) | Self::OtlpJson(project) | Self::OtlpGrpc(project) => project.into(),
            Self::Native => "".into(),
            Self::LangSmith(kind) => kind.to_string().into(),
        }
    }

    /// Decodes a body into rows and encodes them. Nothing is stored unless the whole body could be decoded.
    /// Decompressed parts of the body are charged to `budget`.
    pub fn decode(&self, header: &Header, body: &[u8], budget: &Budget) -> Decoded {
        Batch::with(|batch| {
            self.read(header, body, budget, batch)?;
            let envelope = batch.envelope(header, body.len())?;
            Ok((batch.counts(), envelope))
        })
    }

    fn read(&self, header: &Header, body: &[u8], budget: &Budget, batch: &mut Batch) -> Result<(), ApiError> {
        let received_at: UnixNanos = header.received_at;
        match self {
            Self::OtlpProtobuf(project) | Self::OtlpGrpc(project) => {
                otlp::decode_protobuf(body, &mut Translator::new(batch, header, project))
                    .map_err(|error| ApiError::Malformed(error.to_string()))
            }
            // The batch gets no rows before the whole body has been read, so that the body can be read a second time.
            Self::OtlpJson(project) => Document::of_otlp(body)
                .read(|json| otlp::decode_json(json.as_bytes(), &mut Translator::new(batch, header, project)))
                .map_err(|error| ApiError::Malformed(otlp::malformed_json(&error))),
            // Same here: errors that concern the whole body are found first.
            Self::Native => Document::new(body)
                .read(|json| {
                    native::decode(json.as_bytes(), header.project_id, received_at, OnRejection::Answer, batch)
                })
                .map_err(|error| ApiError::Malformed(error.to_string())),
            Self::LangSmith(kind) => langsmith::decode(kind, body, header, budget, batch),
        }
    }
}
