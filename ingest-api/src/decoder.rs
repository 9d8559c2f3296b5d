//! How a body becomes rows: one arm for each protocol.

use std::borrow::Cow;

use model::trace::UnixNanos;
use otlp::Translator;
use translate::batch::{Batch, Counts};
use translate::lenient::Document;
use translate::native::{self, Aside};
use wire::envelope::{Header, Source, Writer};

use crate::body::Budget;
use crate::error::ApiError;
use crate::langsmith;

/// What became of a body's items, and the envelope to be finished, if anything is to be stored.
pub type Decoded = Result<(Counts, Option<Writer>), ApiError>;

/// A protocol, with whatever beside the body decides what the body means. For OTLP that is the LangSmith project of spans
/// that name none; it may be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoder {
    /// OTLP/HTTP in protobuf.
    OtlpProtobuf(String),
    /// OTLP/HTTP in JSON.
    OtlpJson(String),
    /// OTLP/gRPC.
    OtlpGrpc(String),
    /// Our own batches.
    Native,
    /// LangSmith's protocol.
    LangSmith(langsmith::BodyKind),
}

impl Decoder {
    /// The protocol as it is stored.
    pub const fn source(&self) -> Source {
        match self {
            Self::OtlpProtobuf(_) => Source::OtlpProtobuf,
            Self::OtlpJson(_) => Source::OtlpJson,
            Self::OtlpGrpc(_) => Source::OtlpGrpc,
            Self::Native => Source::Native,
            Self::LangSmith(_) => Source::LangSmith,
        }
    }

    /// What decides the meaning of a body beside itself: part of what makes two requests the same.
    pub fn beside_the_body(&self) -> Cow<'_, str> {
        match self {
            Self::OtlpProtobuf(project) | Self::OtlpJson(project) | Self::OtlpGrpc(project) => project.into(),
            Self::Native => "".into(),
            Self::LangSmith(kind) => kind.to_string().into(),
        }
    }

    /// Reads a body into rows and encodes them. Nothing is stored unless the body was understood to its end. What its parts
    /// are decompressed into is taken from `budget`.
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
            // Nothing reaches the batch before the whole body has been read, so that it can be read again.
            Self::OtlpJson(project) => Document::of_otlp(body)
                .read(|json| otlp::decode_json(json.as_bytes(), &mut Translator::new(batch, header, project)))
                .map_err(|error| ApiError::Malformed(otlp::malformed_json(&error))),
            // Nor here: what can be wrong with the body as a whole is looked at first.
            Self::Native => Document::new(body)
                .read(|json| native::decode(json.as_bytes(), header.project_id, received_at, Aside::Told, batch))
                .map_err(|error| ApiError::Malformed(error.to_string())),
            Self::LangSmith(kind) => langsmith::decode(kind, body, header, budget, batch),
        }
    }
}
