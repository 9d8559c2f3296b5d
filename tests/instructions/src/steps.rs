//! The steps that are counted, each as the services call it, on the same spans in every run.

use std::hint::black_box;

use anyhow::{Context, ensure};
use corpus::Corpus;
use model::ids::{ApiKeyId, EnvelopeId, OrgId, ProjectId, WorkspaceId};
use model::shard::Shard;
use model::trace::{Origin, Span};
use otlp::{Sink, SpanError, Translator};
use prost::Message;
use translate::batch::Batch;
use translate::lenient::Document;
use translate::native::{self, OnRejection};
use uuid::Uuid;
use wire::block::Block;
use wire::envelope::{ContentId, ENVELOPE_KEY_BYTES, Envelope, EnvelopeKey, Header, Source, Verified};
use wire::tables::SPAN;

use crate::bodies;

/// Different requests of the corpus.
const REQUESTS: usize = 5;
/// Spans in one request.
const SPANS_PER_REQUEST: usize = 100;
/// Spans that one round of a step works on.
pub(crate) const SPANS: usize = REQUESTS * SPANS_PER_REQUEST;
/// Unix nanoseconds: the corpus' time, and when its requests are said to be received.
const NOW: u64 = 1_795_241_935_570_826_453;

/// A part of the hot path. The steps of `bench-encode`, with the same names, and those that it has no clock for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Reads the protobuf and interprets nothing.
    Walk,
    /// Also gives spans their meaning, and writes columns.
    Translate,
    /// The same from OTLP in JSON.
    TranslateJson,
    /// The same from a batch of our own.
    TranslateNative,
    /// `Translate`, and writes the envelope.
    Encode,
    /// `Encode`, and authenticates the envelope.
    Seal,
    /// Which retries of a client are the same request.
    ContentId,
    /// The home shard of an org; once per span, though a service does it once per request.
    Shard,
    /// The worker's check that an envelope is authentic.
    Verify,
    /// `Verify`, and reads the columns.
    Decode,
    /// `Decode`, and appends the columns to one block.
    Merge,
}

impl Step {
    /// Every step, in the order in which a span goes through them.
    pub(crate) const ALL: [Self; 11] = [
        Self::Walk,
        Self::Translate,
        Self::TranslateJson,
        Self::TranslateNative,
        Self::Encode,
        Self::Seal,
        Self::ContentId,
        Self::Shard,
        Self::Verify,
        Self::Decode,
        Self::Merge,
    ];

    /// The step of that name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.name() == name)
    }

    /// What the step is called in the table, in the baseline and after `--run`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Walk => "walk",
            Self::Translate => "translate",
            Self::TranslateJson => "translate-json",
            Self::TranslateNative => "translate-native",
            Self::Encode => "encode",
            Self::Seal => "seal",
            Self::ContentId => "content-id",
            Self::Shard => "shard",
            Self::Verify => "verify",
            Self::Decode => "decode",
            Self::Merge => "merge",
        }
    }
}

/// Reads spans and does nothing with them.
struct Nothing;

impl<'a> Sink<'a> for Nothing {
    fn origin(&mut self) {}
    fn span(&mut self, _: &Origin<'a>, span: &mut Span<'a>) {
        black_box(span);
    }
    fn reject(&mut self, _: &Span<'a>, _: SpanError) {}
}

/// What the steps work on.
#[derive(Debug)]
pub(crate) struct Bench {
    header: Header,
    key: EnvelopeKey,
    bodies: Vec<Vec<u8>>,
    json: Vec<Vec<u8>>,
    native: Vec<Vec<u8>>,
    envelopes: Vec<Vec<u8>>,
    block: Option<Block>,
}

impl Bench {
    /// Makes the input of every step, whichever is to be counted, and does each once, so that what is done only the
    /// first time (buffers that grow, tables that are made when first used) is in no count.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let mut corpus = Corpus::new(7);
        let messages: Vec<_> = (0..REQUESTS).map(|_| corpus.message(SPANS_PER_REQUEST, NOW)).collect();
        let id = Uuid::from_u128;
        let mut bench = Self {
            header: Header {
                envelope_id: EnvelopeId(id(1)),
                org_id: OrgId(id(2)),
                workspace_id: WorkspaceId(id(3)),
                project_id: ProjectId(id(4)),
                api_key_id: ApiKeyId(id(5)),
                content_id: ContentId::NONE,
                received_at: NOW.try_into()?,
                source: Source::OtlpProtobuf,
            },
            key: EnvelopeKey::new(&[1; ENVELOPE_KEY_BYTES]),
            bodies: messages.iter().map(Message::encode_to_vec).collect(),
            json: messages.iter().map(bodies::otlp_json).collect(),
            native: messages.iter().map(bodies::native).collect(),
            envelopes: Vec::new(),
            block: None,
        };
        for body in &bench.bodies {
            let envelope = bench.translate(body, |bench, batch| bench.seal(batch, body.len()))?;
            bench.envelopes.push(envelope);
        }
        for step in Step::ALL {
            bench.run(step).with_context(|| format!("step {}", step.name()))?;
        }
        Ok(bench)
    }

    /// Does that step with every request once.
    pub(crate) fn run(&mut self, step: Step) -> anyhow::Result<()> {
        match step {
            Step::Walk => {
                for body in &self.bodies {
                    otlp::decode_protobuf(body, &mut Nothing)?;
                }
            }
            Step::Translate => {
                for body in &self.bodies {
                    self.translate(body, |_, _| Ok(()))?;
                }
            }
            Step::TranslateJson => {
                for body in &self.json {
                    self.read(|header, batch| {
                        Document::of_otlp(body)
                            .read(|json| otlp::decode_json(json.as_bytes(), &mut Translator::new(batch, header, "")))?;
                        Ok(())
                    })?;
                }
            }
            Step::TranslateNative => {
                for body in &self.native {
                    self.read(|header, batch| {
                        let (project, received_at) = (header.project_id, header.received_at);
                        Document::new(body).read(|json| {
                            native::decode(json.as_bytes(), project, received_at, OnRejection::Answer, batch)
                        })?;
                        Ok(())
                    })?;
                }
            }
            Step::Encode => {
                for body in &self.bodies {
                    self.translate(body, |bench, batch| {
                        black_box(batch.envelope(&bench.header, body.len())?);
                        Ok(())
                    })?;
                }
            }
            Step::Seal => {
                for body in &self.bodies {
                    black_box(self.translate(body, |bench, batch| bench.seal(batch, body.len()))?);
                }
            }
            Step::ContentId => {
                for body in &self.bodies {
                    black_box(ContentId::of(&[&[7; 16], &[8; 16], b"otlp_protobuf", b""], body));
                }
            }
            Step::Shard => {
                for n in 0..SPANS {
                    black_box(Shard::home(black_box(OrgId(Uuid::from_u128(n as u128)))));
                }
            }
            Step::Verify => {
                for bytes in &self.envelopes {
                    black_box(Verified::check(&self.key, bytes).map_err(|unverified| unverified.error)?);
                }
            }
            Step::Decode => {
                for bytes in &self.envelopes {
                    black_box(Envelope::decode(&self.key, bytes)?);
                }
            }
            Step::Merge => {
                let mut block = self.block.take().unwrap_or_else(|| Block::new(&SPAN));
                for bytes in &self.envelopes {
                    let envelope = Envelope::decode(&self.key, bytes)?;
                    for section in envelope.sections.iter().filter(|section| section.table == &SPAN) {
                        block.append(&envelope.header, section);
                    }
                }
                self.block = Some(black_box(block.seal()).reuse());
            }
        }
        Ok(())
    }

    fn translate<T>(
        &self,
        body: &[u8],
        then: impl FnOnce(&Self, &mut Batch) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        self.read(|header, batch| {
            otlp::decode_protobuf(body, &mut Translator::new(batch, header, ""))?;
            then(self, batch)
        })
    }

    /// Fills the thread's batch. A span that is rejected would be cheap, and its step would count something else.
    fn read<T>(&self, fill: impl FnOnce(&Header, &mut Batch) -> anyhow::Result<T>) -> anyhow::Result<T> {
        Batch::with(|batch| {
            let result = fill(&self.header, batch)?;
            let counts = black_box(batch.counts());
            let spans = counts.spans as usize;
            ensure!(spans == SPANS_PER_REQUEST && counts.rejected == 0, "spans were rejected: {counts:?}");
            Ok(result)
        })
    }

    fn seal(&self, batch: &mut Batch, body_bytes: usize) -> anyhow::Result<Vec<u8>> {
        let envelope = batch.envelope(&self.header, body_bytes)?.context("there is nothing to seal")?;
        Ok(envelope.finish(&self.key))
    }
}
