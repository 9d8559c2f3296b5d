//! Bodies of a shape: made before the clock starts, each with ids of its own.

use std::fmt;
use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::ensure;
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::json;
use super::options::{Encoding, Format, Options, SpanBytes, Spread};
use super::spread::Chooser;
use crate::corpus::Corpus;

/// Fewest requests that all counted rounds of a shape have together, each with another body: a column store would
/// compress fewer unrealistically well.
const DISTINCT_BODIES_MIN: usize = 1_000;
/// Most bytes of bodies in memory at a time, before they are compressed.
const BODIES_BYTES_MAX: usize = 1 << 30;
/// zlib's default, which the SDKs use.
const GZIP_LEVEL: u32 = 6;
/// What the LangSmith SDK uses.
const ZSTD_LEVEL: i32 = 3;

/// What is sent.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) per_request: usize,
    pub(super) encoding: Encoding,
    pub(super) format: Format,
    pub(super) span_bytes: SpanBytes,
    pub(super) orgs: usize,
    pub(super) spread: Spread,
    /// Another in every run, so that no id is sent to the same endpoint twice.
    pub(super) seed: u64,
}

impl Shape {
    /// The shape of that many spans per request.
    pub(super) fn new(options: &Options, per_request: usize) -> Self {
        Self {
            per_request,
            encoding: options.encoding,
            format: options.format,
            span_bytes: options.span_bytes,
            orgs: options.orgs,
            spread: options.spread,
            seed: rand::random(),
        }
    }

    /// What differs between the shapes of one run.
    pub(super) fn short(&self) -> String {
        format!("{}/request", self.per_request)
    }

    /// Requests in a round.
    pub(super) fn requests(&self, options: &Options) -> usize {
        (options.spans / self.per_request).max(DISTINCT_BODIES_MIN.div_ceil(options.rounds))
    }

    /// The content type and the content encoding of the bodies.
    pub(super) fn headers(&self) -> Vec<(&'static str, String)> {
        let content_type = match self.format {
            Format::Otlp => "application/x-protobuf".to_owned(),
            Format::OtlpJson => "application/json".to_owned(),
            Format::LangsmithMultipart => format!("multipart/form-data; boundary={}", json::BOUNDARY),
        };
        let mut headers = vec![("content-type", content_type)];
        if self.encoding != Encoding::Identity {
            headers.push(("content-encoding", self.encoding.to_string()));
        }
        headers
    }

    /// So many requests. Each phase has a number of its own, and no id occurs in two.
    pub(super) fn bodies(&self, requests: usize, phase: u64) -> anyhow::Result<Vec<Sending>> {
        let chooser = Chooser::new(self.spread, self.orgs);
        let mut rng = StdRng::seed_from_u64(phase);
        self.bodies_of(requests, phase, |_| chooser.choose(&mut rng))
    }

    /// So many requests, and who sends each.
    pub(super) fn bodies_of(
        &self,
        requests: usize,
        phase: u64,
        mut org: impl FnMut(usize) -> usize,
    ) -> anyhow::Result<Vec<Sending>> {
        let mut corpus = match self.span_bytes {
            SpanBytes::Small => Corpus::small(self.seed ^ phase),
            SpanBytes::Large => Corpus::new(self.seed ^ phase),
        };
        let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?;
        let (mut bodies, mut bytes) = (Vec::with_capacity(requests), 0);
        for n in 0..requests {
            let message = corpus.message(self.per_request, now);
            let (body, probe) = self.body(&message);
            bytes += body.len();
            ensure!(
                bytes <= BODIES_BYTES_MAX,
                "the bodies of one round are more than {} MiB (BODIES_BYTES_MAX); use fewer --spans, or more --rounds",
                BODIES_BYTES_MAX >> 20
            );
            bodies.push(Sending { body: self.encode(body)?, org: org(n), probe });
        }
        Ok(bodies)
    }

    /// A body, and the id of its last span or run.
    fn body(&self, message: &ExportTraceServiceRequest) -> (Vec<u8>, String) {
        let last = message.resource_spans.iter().flat_map(|r| &r.scope_spans).flat_map(|s| &s.spans).next_back();
        let last = last.map(|span| json::hex(&span.span_id)).unwrap_or_default();
        match self.format {
            Format::Otlp => (message.encode_to_vec(), last),
            Format::OtlpJson => (json::otlp(message).to_string().into_bytes(), last),
            Format::LangsmithMultipart => json::multipart(message),
        }
    }

    fn encode(&self, body: Vec<u8>) -> anyhow::Result<Bytes> {
        Ok(match self.encoding {
            Encoding::Identity => body.into(),
            Encoding::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL));
                encoder.write_all(&body)?;
                encoder.finish()?.into()
            }
            Encoding::Zstd => zstd::bulk::compress(&body, ZSTD_LEVEL)?.into(),
        })
    }
}

/// Everything that makes figures comparable.
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { per_request, encoding, format, span_bytes, orgs, spread, .. } = self;
        write!(f, "{format} {encoding}, {span_bytes} B spans, {per_request} per request, {orgs} orgs {spread}")
    }
}

/// A request that is ready to be sent: its body, and whose it is.
#[derive(Clone, Debug)]
pub(super) struct Sending {
    pub(super) body: Bytes,
    /// The number of the org that sends it.
    pub(super) org: usize,
    /// The id of its last span, 16 hexadecimal digits; of LangSmith's runs, a UUID.
    pub(super) probe: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::collections::BTreeSet;

    fn shape(arguments: &[&str]) -> Shape {
        Shape::new(&Options::parse_from(["bench"].iter().chain(arguments)), 3)
    }

    #[test]
    fn no_body_and_no_id_occurs_twice_in_any_format() {
        for format in ["otlp", "otlp-json", "langsmith-multipart"] {
            let shape = shape(&["--encoding=gzip", "--format", format]);
            let bodies = [shape.bodies(50, 1).unwrap(), shape.bodies(50, 2).unwrap()].concat();
            assert_eq!(bodies.iter().map(|one| &one.body).collect::<BTreeSet<_>>().len(), 100, "{shape}");
            assert_eq!(bodies.iter().map(|one| &one.probe).collect::<BTreeSet<_>>().len(), 100, "{shape}");
        }
    }

    #[test]
    fn a_shape_has_enough_distinct_bodies() {
        let options = Options::parse_from(["bench", "--spans=50000", "--rounds=5"]);
        let requests = |per_request| Shape::new(&options, per_request).requests(&options);
        assert_eq!([1, 100, 500].map(requests), [50_000, 500, 200]);
    }
}
