//! `just bench-encode`: what a span costs from request body to ClickHouse block, step by step, in CPU time.
//!
//! Steps build on each other: `walk` reads the protobuf and interprets nothing; `translate` also gives spans their
//! meaning and writes columns; `encode` also writes the envelope, `seal` its code as well. `prost` is the decode we do
//! without. `content id` is what the edge does besides. The worker's part: `verify` checks the code; `decode` reads the
//! columns as well; `merge` appends them into one block.

use std::hint::black_box;
use std::time::Duration;

use clap::Parser;
use ingest_api::body::Budget;
use ingest_api::decoder::Decoder;
use load::corpus::Corpus;
use model::ids::{ApiKeyId, EnvelopeId, OrgId, ProjectId, WorkspaceId};
use model::trace::{Origin, Span};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use otlp::{Sink, SpanError, Translator};
use prost::Message;
use translate::batch::Batch;
use uuid::Uuid;
use wire::block::Block;
use wire::envelope::{ContentId, ENVELOPE_KEY_BYTES, Envelope, EnvelopeKey, Header, Source, Verified};
use wire::tables::SPAN;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures the CPU time per span of each step from request body to ClickHouse block.
#[derive(Parser)]
#[command(after_help = "Example: cargo run --release -p load --bin bench-encode -- --spans-per-request 10")]
struct Options {
    /// Spans in one request.
    #[arg(long, default_value_t = 100)]
    spans_per_request: usize,
    /// Different requests; each is measured once per round.
    #[arg(long, default_value_t = 200)]
    requests: usize,
    /// Rounds; the median is shown.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
}

struct Nothing;

impl<'a> Sink<'a> for Nothing {
    fn origin(&mut self) {}
    fn span(&mut self, _: &Origin<'a>, span: &mut Span<'a>) {
        black_box(span);
    }
    fn reject(&mut self, _: &Span<'a>, _: SpanError) {}
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let mut corpus = Corpus::new(7);
    let bodies: Vec<_> = (0..options.requests)
        .map(|_| corpus.request(options.spans_per_request, 1_795_241_935_570_826_453).body)
        .collect();
    let id = |n| Uuid::from_u128(n);
    let header = Header {
        envelope_id: EnvelopeId(id(1)),
        org_id: OrgId(id(2)),
        workspace_id: WorkspaceId(id(3)),
        project_id: ProjectId(id(4)),
        api_key_id: ApiKeyId(id(5)),
        content_id: ContentId::NONE,
        received_at: 1_795_241_935_570_826_453,
        source: Source::OtlpProtobuf,
    };
    let (decoder, budget) = (Decoder::OtlpProtobuf(String::new()), Budget::new(1 << 30, 1 << 30));
    let key = EnvelopeKey::new(&[1; ENVELOPE_KEY_BYTES]);
    let mut envelopes = Vec::new();
    for body in &bodies {
        envelopes.extend(decoder.decode(&header, body, &budget)?.1.map(|envelope| envelope.finish(&key)));
    }
    let spans = options.requests * options.spans_per_request;
    let body_bytes: usize = bodies.iter().map(Vec::len).sum();
    let envelope_bytes: usize = envelopes.iter().map(Vec::len).sum();
    println!(
        "{spans} spans, {} per request; {} B per span in, {} B per span in the envelope\n",
        options.spans_per_request,
        body_bytes / spans,
        envelope_bytes / spans
    );
    println!("{:<12} {:>10} {:>10} {:>10}", "step", "median", "min", "max");
    println!("{:<12} {:>10} {:>10} {:>10}", "", "us/span", "us/span", "us/span");
    let report = |name: &str, step: &mut dyn FnMut() -> anyhow::Result<()>| -> anyhow::Result<()> {
        let mut rounds = Vec::new();
        step()?;
        for _ in 0..options.rounds {
            let begun = cpu_time();
            step()?;
            rounds.push((cpu_time() - begun).as_secs_f64() * 1e6 / spans as f64);
        }
        rounds.sort_by(f64::total_cmp);
        let (median, last) = (rounds[rounds.len() / 2], rounds.len() - 1);
        println!("{name:<12} {median:>10.3} {:>10.3} {:>10.3}", rounds[0], rounds[last]);
        Ok(())
    };
    report("prost", &mut || {
        for body in &bodies {
            black_box(ExportTraceServiceRequest::decode(&body[..])?);
        }
        Ok(())
    })?;
    report("walk", &mut || Ok(bodies.iter().try_for_each(|body| otlp::decode_protobuf(body, &mut Nothing))?))?;
    report("translate", &mut || {
        for body in &bodies {
            Batch::with(|batch| {
                otlp::decode_protobuf(body, &mut Translator::new(batch, &header, ""))?;
                black_box(batch.counts());
                anyhow::Ok(())
            })?;
        }
        Ok(())
    })?;
    report("encode", &mut || {
        for body in &bodies {
            black_box(decoder.decode(&header, body, &budget)?);
        }
        Ok(())
    })?;
    report("seal", &mut || {
        for body in &bodies {
            black_box(decoder.decode(&header, body, &budget)?.1.map(|envelope| envelope.finish(&key)));
        }
        Ok(())
    })?;
    report("content id", &mut || {
        for body in &bodies {
            black_box(ContentId::of(&[&[7; 16], &[8; 16], b"otlp_protobuf", b""], body));
        }
        Ok(())
    })?;
    report("verify", &mut || {
        for bytes in &envelopes {
            black_box(Verified::check(&key, bytes).map_err(|unverified| unverified.error)?);
        }
        Ok(())
    })?;
    report("decode", &mut || {
        for bytes in &envelopes {
            black_box(Envelope::decode(&key, bytes)?);
        }
        Ok(())
    })?;
    let mut spare = Some(Block::new(&SPAN));
    report("merge", &mut || {
        let mut block = spare.take().unwrap_or_else(|| Block::new(&SPAN));
        for bytes in &envelopes {
            let envelope = Envelope::decode(&key, bytes)?;
            for section in envelope.sections.iter().filter(|s| s.table == &SPAN) {
                block.append(&envelope.header, section);
            }
        }
        spare = Some(black_box(block.seal()).reuse());
        Ok(())
    })?;
    Ok(())
}

/// User and system time of this thread.
fn cpu_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default())
}
