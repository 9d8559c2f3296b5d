//! What has to hold for any bytes whatsoever: one function per fuzz target, to be called with them.
//!
//! A function here returns, or panics with what does not hold. `libfuzzer/` calls them with bytes it makes up;
//! `tests/replay.rs` calls them in every `cargo test` with the captured requests and with everything that a fuzzer has
//! found so far. How to run the fuzzer is in `docs/testing/fuzzing.md`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // what does not hold panics: that is how a fuzzer is told

mod against_prost;
pub mod corpus;
mod native_block;
pub mod seeds;
mod stored;

use std::io::Read;

use bytes::Bytes;
use ingest_api::body::{Budget, Compression, ReadBody, decompress};
use ingest_api::decoder::Decoder;
use ingest_api::error::ApiError;
use ingest_api::langsmith::{BodyKind, Op, Route};
use stored::Translated;
use wire::envelope::{EnvelopeKey, Header, Source};

/// A function that takes any bytes and must hold for them.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, which is also that of its program and its directories.
    pub name: &'static str,
    /// What it does with bytes.
    pub check: fn(&[u8]),
}

/// Every fuzz target. `just fuzz` runs the programs of the same names in `libfuzzer/fuzz_targets`.
pub const TARGETS: [Target; 9] = [
    Target { name: "otlp_protobuf", check: otlp_protobuf },
    Target { name: "otlp_json", check: otlp_json },
    Target { name: "langsmith_json", check: langsmith_json },
    Target { name: "langsmith_multipart", check: langsmith_multipart },
    Target { name: "native", check: native },
    Target { name: "decompress_gzip", check: decompress_gzip },
    Target { name: "decompress_deflate", check: decompress_deflate },
    Target { name: "decompress_zstd", check: decompress_zstd },
    Target { name: "envelope", check: envelope },
];

/// A project as the header of an OTLP request names it.
const PROJECT: &str = "project";

pub(crate) fn translated(header: &Header, body: &[u8]) -> Translated {
    let project = PROJECT.to_owned();
    let decoder = match header.source {
        Source::OtlpProtobuf => Decoder::OtlpProtobuf(project),
        Source::OtlpGrpc => Decoder::OtlpGrpc(project),
        Source::OtlpJson => Decoder::OtlpJson(project),
        Source::Native => Decoder::Native,
        Source::LangSmith => panic!("has a function of its own"),
    };
    decoder.decode(header, body, &budget())
}

pub(crate) fn langsmith_translated(header: &Header, kind: &BodyKind, body: &[u8]) -> Translated {
    Decoder::LangSmith(kind.clone()).decode(header, body, &budget())
}

/// Enough for a body as it came, and decompressed.
fn budget() -> Budget {
    Budget::new(BODY_BYTES_MAX, 4 * BODY_BYTES_MAX)
}

/// An OTLP request in protobuf. It is also held to what `prost` makes of it.
pub fn otlp_protobuf(body: &[u8]) {
    stored::check(Source::OtlpProtobuf, body, translated);
    against_prost::check(body);
}

/// An OTLP request in JSON.
pub fn otlp_json(body: &[u8]) {
    stored::check(Source::OtlpJson, body, translated);
}

/// A batch in JSON of our own protocol.
pub fn native(body: &[u8]) {
    stored::check(Source::Native, body, translated);
}

/// A JSON body of LangSmith's protocol. The first byte says which.
pub fn langsmith_json(bytes: &[u8]) {
    let Some((which, body)) = bytes.split_first() else { return };
    let kind = &langsmith_kinds()[usize::from(*which) % langsmith_kinds().len()];
    stored::check(Source::LangSmith, body, |header, body| langsmith_translated(header, kind, body));
}

/// The JSON bodies of LangSmith's protocol.
fn langsmith_kinds() -> [BodyKind; 4] {
    let id = uuid::Uuid::from_u128(0x5f1a_0000_0000_4000_8000_0000_0000_00aa);
    [BodyKind::Run(Op::Post, None), BodyKind::Run(Op::Patch, Some(id)), BodyKind::Batch, BodyKind::Feedback]
}

/// A multipart body of LangSmith's protocol: the first line is the content type.
pub fn langsmith_multipart(bytes: &[u8]) {
    let Some(line) = bytes.iter().position(|b| *b == b'\n') else { return };
    let Ok(content_type) = std::str::from_utf8(&bytes[..line]) else { return };
    let Ok(kind) = Route::Multipart.body(content_type) else { return };
    stored::check(Source::LangSmith, &bytes[line + 1..], |header, body| langsmith_translated(header, &kind, body));
}

/// A gzipped body, also held to another decoder.
#[allow(clippy::disallowed_methods)] // the other decoder, under a cap of its own
pub fn decompress_gzip(raw: &[u8]) {
    // Nothing at all is an empty body to us and an error to it.
    if !raw.is_empty() {
        same_as(decompressed(Compression::Gzip, raw), flate2::bufread::MultiGzDecoder::new(raw));
    }
}

/// A body in zlib's format.
#[allow(clippy::disallowed_methods)]
pub fn decompress_deflate(raw: &[u8]) {
    same_as(decompressed(Compression::Deflate, raw), flate2::bufread::ZlibDecoder::new(raw));
}

/// A body compressed with zstd.
pub fn decompress_zstd(raw: &[u8]) {
    decompressed(Compression::Zstd, raw);
}

/// The largest body while fuzzing, in bytes: small enough that a fuzzer gets past it often.
const BODY_BYTES_MAX: usize = 128 << 10;

/// What comes out, unless it is refused. In either case all memory was accounted for.
fn decompressed(compression: Compression, raw: &[u8]) -> Option<Bytes> {
    let budget = budget();
    let raw = ReadBody::of(Bytes::copy_from_slice(raw), &budget).unwrap();
    let found = match decompress(compression, raw, &budget) {
        Ok(body) => Some(body.bytes.clone()),
        Err(ApiError::Malformed(_) | ApiError::TooLarge { .. }) => None,
        Err(error) => panic!("{error}"),
    };
    assert!(found.as_ref().is_none_or(|bytes| bytes.len() <= BODY_BYTES_MAX));
    let all = vec![0; 4 * BODY_BYTES_MAX];
    assert!(ReadBody::of(all.into(), &budget).is_ok(), "memory is still held when the body is gone");
    found
}

/// Another decoder finds the same. It may stumble over what follows the end of the data, which we need not look at.
fn same_as(found: Option<Bytes>, other: impl Read) {
    let mut expected = Vec::new();
    let read = other.take(BODY_BYTES_MAX as u64 + 1).read_to_end(&mut expected);
    match found {
        Some(found) => assert!(found == expected, "{} bytes for {}, {read:?}", found.len(), expected.len()),
        None => assert!(read.is_err() || expected.len() > BODY_BYTES_MAX, "refused, but it is fine"),
    }
}

/// What the envelopes here are written with.
pub fn key() -> EnvelopeKey {
    stored::key()
}

/// An envelope as it may stand in a stream.
pub fn envelope(bytes: &[u8]) {
    stored::append(bytes);
}
