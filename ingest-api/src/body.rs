//! Reads a request's body under hard limits: bytes of one body, bytes of all bodies under way, time.

#![allow(clippy::disallowed_methods)] // the one place that may decompress: everything here is capped

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, EXPECT};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use memchr::memmem;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::ApiError;

/// How long a body may take to arrive.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest zstd window, as a power of two: 8 MiB, which RFC 8878 §3.1.1.1.2 asks every decoder to support. A frame
/// with a larger one is refused, because its window is memory that the budget does not see.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
/// The first bytes of every gzip member (RFC 1952 §2.3.1).
const GZIP_START: &[u8] = b"\x1f\x8b\x08";
/// Most bytes that are read of the body of a refused request. SDKs send up to half of it without waiting for an answer.
const DISCARDED_BYTES_MAX: usize = 64 << 20;
/// Most compressions of one body, one after another. No client means to apply more.
const COMPRESSIONS_MAX: usize = 2;
/// The budget is counted in units of this many bytes.
const UNIT_BYTES: usize = 1024;

/// The memory for bodies: how large one may be, and how much all that are under way may take together.
#[derive(Clone, Debug)]
pub struct Budget {
    body_max: usize,
    units: Arc<Semaphore>,
}

impl Budget {
    /// `body_max` bounds one body, `in_flight_max` all bodies under way; both in bytes.
    pub fn new(body_max: usize, in_flight_max: usize) -> Self {
        Self { body_max, units: Arc::new(Semaphore::new(in_flight_max / UNIT_BYTES)) }
    }

    /// Bytes that one body may have, before and after decompression.
    pub fn body_max(&self) -> usize {
        self.body_max
    }

    fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, ApiError> {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).map_err(|_| ApiError::Overloaded)?;
        Arc::clone(&self.units).try_acquire_many_owned(units).map_err(|_| ApiError::Overloaded)
    }
}

/// A body that was read and decompressed. It holds its share of the budget until it is dropped.
#[derive(Debug)]
pub struct ReadBody {
    /// The body after decompression, as the decoder reads it.
    pub bytes: Bytes,
    _paid: OwnedSemaphorePermit,
}

impl ReadBody {
    /// A body that is in memory already, charged to the budget.
    pub fn of(bytes: Bytes, budget: &Budget) -> Result<Self, ApiError> {
        let paid = budget.take(bytes.len())?;
        Ok(Self { bytes, _paid: paid })
    }
}

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// As it is: `identity` in `content-encoding`, or nothing.
    Identity,
    /// RFC 1952, any number of members.
    Gzip,
    /// RFC 1950, which is what HTTP calls deflate.
    Deflate,
    /// RFC 8878, any number of frames.
    Zstd,
}

impl Compression {
    /// Reads `content-encoding`: the compressions in the order in which the client applied them, without `identity`.
    pub fn of(headers: &HeaderMap) -> Result<Vec<Self>, ApiError> {
        let values = headers.get_all(CONTENT_ENCODING).iter();
        Self::listed(values.map(|value| value.to_str().unwrap_or("?")))
    }

    /// The same from the values of the header, each a list with commas.
    fn listed<'t>(texts: impl Iterator<Item = &'t str>) -> Result<Vec<Self>, ApiError> {
        let mut listed = Vec::new();
        for name in texts.flat_map(|text| text.split(',')) {
            match Self::named(name)? {
                Compression::Identity => {}
                _ if listed.len() == COMPRESSIONS_MAX => {
                    return Err(ApiError::ContentEncoding { found: "more than two after one another".to_owned() });
                }
                compression => listed.push(compression),
            }
        }
        Ok(listed)
    }

    /// The compression of that name, as in `content-encoding` and `grpc-encoding`.
    pub fn named(name: &str) -> Result<Self, ApiError> {
        match name.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Ok(Compression::Identity),
            "gzip" | "x-gzip" => Ok(Compression::Gzip),
            "deflate" => Ok(Compression::Deflate),
            "zstd" => Ok(Compression::Zstd),
            other => Err(ApiError::ContentEncoding { found: other.to_owned() }),
        }
    }
}

/// Reads a body to its end and decompresses it.
pub async fn read(headers: &HeaderMap, body: &mut Incoming, budget: &Budget) -> Result<ReadBody, ApiError> {
    let compressions = Compression::of(headers)?;
    let raw = collect(headers, body, budget).await?;
    // The compression that was applied last is undone first.
    compressions.into_iter().rev().try_fold(raw, |body, compression| decompress(compression, body, budget))
}

/// Reads a body to its end and does not decompress it.
pub async fn collect(headers: &HeaderMap, body: &mut Incoming, budget: &Budget) -> Result<ReadBody, ApiError> {
    let too_large = || ApiError::TooLarge { what: "body", limit: budget.body_max, unit: " bytes" };
    let declared = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<usize>().ok());
    if declared.is_some_and(|n| n > budget.body_max) {
        return Err(too_large());
    }
    let mut paid = budget.take(0)?;
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    let mut total = 0;
    let reading = async {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| ApiError::Malformed(format!("the body could not be read: {e}")))?;
            let Ok(data) = frame.into_data() else { continue };
            total += data.len();
            if total > budget.body_max {
                return Err(too_large());
            }
            paid.merge(budget.take(data.len())?);
            if total == data.len() {
                first = data;
                continue;
            }
            if rest.is_empty() {
                // A wrong content length costs no memory: pages that are never written are never allocated.
                rest.reserve(declared.unwrap_or(0).max(total));
                rest.extend_from_slice(&first);
            }
            rest.extend_from_slice(&data);
        }
        Ok(())
    };
    tokio::time::timeout(BODY_TIMEOUT, reading).await.map_err(|_| ApiError::BodyTimeout(BODY_TIMEOUT))??;
    // Most bodies come in one piece, which is used without a copy.
    let bytes = if rest.is_empty() { first } else { rest.freeze() };
    Ok(ReadBody { bytes, _paid: paid })
}

/// Reads the rest of a refused request's body and throws it away. If the server closed the connection before the client
/// has sent all, the connection would be reset and the answer lost: the client would not learn the reason and would
/// send everything again.
pub async fn discard(headers: &HeaderMap, body: &mut Incoming) {
    // A client that sent `Expect` waits for permission before it sends the body, and gets none.
    if headers.contains_key(EXPECT) {
        return;
    }
    let reading = async {
        let mut left = DISCARDED_BYTES_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            let Some(less) = left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else { return };
            left = less;
        }
    };
    // The result does not matter: the answer is sent in any case.
    tokio::time::timeout(BODY_TIMEOUT, reading).await.unwrap_or_default();
}

/// Decompresses a body; the result is charged to the budget too.
pub fn decompress(compression: Compression, raw: ReadBody, budget: &Budget) -> Result<ReadBody, ApiError> {
    if compression == Compression::Identity {
        return Ok(raw);
    }
    let mut left = budget.body_max;
    let mut room = BodyBudget { budget, left: &mut left, what: "body", too_large: "decompressed body" };
    room.decompress(compression, &raw.bytes)
}

/// Decompresses the parts of one body. All of them together may become as large as one body.
#[derive(Debug)]
pub struct Parts<'b> {
    budget: &'b Budget,
    left: usize,
}

impl<'b> Parts<'b> {
    /// Begins with the whole size limit of one body.
    pub fn new(budget: &'b Budget) -> Self {
        Self { budget, left: budget.body_max }
    }

    /// Decompresses one part. The decompressed bytes count even if the part turns out to be broken, because they cost
    /// work.
    pub fn decompress(&mut self, encoding: &str, part: &[u8]) -> Result<ReadBody, ApiError> {
        let compressions = Compression::listed([encoding].into_iter())?;
        let too_large = "sum of the request's decompressed parts";
        let mut room = BodyBudget { budget: self.budget, left: &mut self.left, what: "part", too_large };
        let (last, others) = compressions.split_last().unwrap_or((&Compression::Identity, &[]));
        let body = room.decompress(*last, part)?;
        others.iter().rev().try_fold(body, |body, compression| room.decompress(*compression, &body.bytes))
    }
}

/// How many bytes may come out of a decompressor, and the error when there are more.
struct BodyBudget<'b> {
    budget: &'b Budget,
    /// Bytes that may still come out.
    left: &'b mut usize,
    what: &'static str,
    too_large: &'static str,
}

impl BodyBudget<'_> {
    fn decompress(&mut self, compression: Compression, raw: &[u8]) -> Result<ReadBody, ApiError> {
        match compression {
            Compression::Identity => {
                let mut paid = self.budget.take(0)?;
                self.take(raw.len(), &mut paid)?;
                Ok(ReadBody { bytes: Bytes::copy_from_slice(raw), _paid: paid })
            }
            Compression::Gzip => match self.gunzip_at_once(raw)? {
                Some(body) => Ok(body),
                None => self.stream(flate2::bufread::MultiGzDecoder::new(raw), "gzip"),
            },
            Compression::Deflate => self.stream(flate2::bufread::ZlibDecoder::new(raw), "deflate (zlib)"),
            // A frame need not contain its size (the LangSmith SDK's frames do not), so zstd is always read as a
            // stream.
            Compression::Zstd => {
                let decoder = zstd::stream::read::Decoder::with_buffer(raw).and_then(|mut decoder| {
                    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                    Ok(decoder)
                });
                self.stream(decoder.map_err(|error| self.invalid("zstd", &error))?, "zstd")
            }
        }
    }

    /// Reads a decompressor to its end. Each piece is charged to the budget before it is kept, and the total is
    /// bounded. The ratio is not: 27 MB of zeros, which an attachment may be, are 840 bytes of zstd, which is the most
    /// that the format can do.
    fn stream(&mut self, mut decoder: impl Read, name: &'static str) -> Result<ReadBody, ApiError> {
        let mut paid = self.budget.take(0)?;
        let mut bytes = Vec::new();
        let mut chunk = [0; 64 << 10];
        loop {
            match decoder.read(&mut chunk) {
                Ok(0) => return Ok(ReadBody { bytes: bytes.into(), _paid: paid }),
                Ok(n) => {
                    self.take(n, &mut paid)?;
                    bytes.extend_from_slice(&chunk[..n]);
                }
                Err(error) => return Err(self.invalid(name, &error)),
            }
        }
    }

    fn take(&mut self, bytes: usize, paid: &mut OwnedSemaphorePermit) -> Result<(), ApiError> {
        let Some(left) = self.left.checked_sub(bytes) else {
            *self.left = 0;
            return Err(ApiError::TooLarge { what: self.too_large, limit: self.budget.body_max, unit: " bytes" });
        };
        *self.left = left;
        paid.merge(self.budget.take(bytes)?);
        Ok(())
    }

    fn invalid(&self, name: &'static str, error: &std::io::Error) -> ApiError {
        ApiError::Malformed(format!("the {} is not valid {name}: {error}", self.what))
    }

    /// Decompresses at once into a buffer of the size that the trailer names, which takes half the time of a stream.
    /// `None` if that size is wrong, as with several members: then the stream decides.
    fn gunzip_at_once(&mut self, raw: &[u8]) -> Result<Option<ReadBody>, ApiError> {
        let Some(trailer) = raw.last_chunk::<8>() else { return Ok(None) };
        let [c0, c1, c2, c3, s0, s1, s2, s3] = *trailer;
        let claimed = u32::from_le_bytes([s0, s1, s2, s3]) as usize;
        // Deflate cannot compress better than 1032:1. A larger size is wrong, or the body has several members; it must
        // not cost a buffer.
        if claimed > *self.left || claimed / 1032 > raw.len() {
            return Ok(None);
        }
        // A second member may be equal to the first, and then the trailer fits both.
        if memmem::find(raw.get(1..).unwrap_or_default(), GZIP_START).is_some() {
            return Ok(None);
        }
        let paid = self.budget.take(claimed)?;
        let mut bytes = vec![0; claimed];
        match libdeflater::Decompressor::new().gzip_decompress(raw, &mut bytes) {
            // The decompressor stops after the first member, which must be the one whose trailer was read at the end.
            Ok(n) if n == claimed && libdeflater::crc32(&bytes) == u32::from_le_bytes([c0, c1, c2, c3]) => {
                *self.left -= claimed;
                Ok(Some(ReadBody { bytes: bytes.into(), _paid: paid }))
            }
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::write::GzEncoder;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn budget() -> Budget {
        Budget::new(1 << 20, 4 << 20)
    }

    fn gunzip(raw: &[u8], budget: &Budget) -> Result<ReadBody, ApiError> {
        Parts::new(budget).decompress("gzip", raw)
    }

    #[test]
    fn gzip_of_one_or_several_members_is_decompressed() {
        let (a, b) = (gzip(b"hello "), gzip(&[b'x'; 70_000]));
        assert_eq!(gunzip(&a, &budget()).unwrap().bytes, b"hello "[..]);
        let both = [b"hello ".to_vec(), vec![b'x'; 70_000]].concat();
        assert_eq!(gunzip(&[&a[..], &b].concat(), &budget()).unwrap().bytes, both);
        assert_eq!(gunzip(&[&a[..], &a].concat(), &budget()).unwrap().bytes, b"hello hello "[..], "equal ones");
    }

    #[test]
    fn a_decompression_bomb_is_refused_and_its_memory_released() {
        let bomb = gzip(&vec![0; 3 << 20]);
        let budget = budget();
        assert!(matches!(gunzip(&bomb, &budget), Err(ApiError::TooLarge { .. })));
        // A trailer that names a smaller size than the real one must not bypass the limit either.
        let mut lying = bomb.clone();
        let at = lying.len() - 4;
        lying[at..].copy_from_slice(&100u32.to_le_bytes());
        assert!(gunzip(&lying, &budget).is_err());
        assert_eq!(budget.units.available_permits(), (4 << 20) / UNIT_BYTES);
    }

    fn zlib(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// A frame as the LangSmith SDK writes it, without the size of its content.
    fn zstd_stream(bytes: &[u8], level: i32) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn decompressed(compression: Compression, raw: &[u8], budget: &Budget) -> Result<Bytes, ApiError> {
        let raw = ReadBody { bytes: Bytes::copy_from_slice(raw), _paid: budget.take(0).unwrap() };
        decompress(compression, raw, budget).map(|body| body.bytes)
    }

    #[test]
    fn deflate_and_zstd_output_is_capped() {
        let text = b"hello ".repeat(20_000);
        type Compress = fn(&[u8]) -> Vec<u8>;
        let cases: [(Compression, Compress); 2] =
            [(Compression::Deflate, zlib), (Compression::Zstd, |bytes| zstd_stream(bytes, 3))];
        for (compression, compress) in cases {
            let budget = budget();
            let whole = compress(&text);
            assert_eq!(decompressed(compression, &whole, &budget).unwrap(), text);
            let bomb = compress(&vec![0; 3 << 20]);
            assert!(matches!(decompressed(compression, &bomb, &budget), Err(ApiError::TooLarge { .. })));
            assert!(matches!(decompressed(compression, b"neither", &budget), Err(ApiError::Malformed(_))));
            for end in 1..whole.len() {
                let cut = decompressed(compression, &whole[..end], &budget);
                assert!(matches!(cut, Err(ApiError::Malformed(_))), "{compression:?} cut at {end}: {cut:?}");
            }
            assert_eq!(budget.units.available_permits(), (4 << 20) / UNIT_BYTES);
        }
        let two = [zstd_stream(b"one ", 3), zstd_stream(b"two", 3)].concat();
        assert_eq!(decompressed(Compression::Zstd, &two, &budget()).unwrap(), b"one two"[..]);
    }

    #[test]
    fn a_zstd_window_larger_than_the_cap_is_refused() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        encoder.window_log(ZSTD_WINDOW_LOG_MAX + 1).unwrap();
        encoder.write_all(b"little").unwrap();
        let refused = decompressed(Compression::Zstd, &encoder.finish().unwrap(), &budget());
        assert!(matches!(refused, Err(ApiError::Malformed(_))), "{refused:?}");
    }

    #[test]
    fn garbage_and_cut_bodies_are_malformed() {
        let whole = gzip(&[7; 5_000]);
        for end in 0..whole.len() {
            match gunzip(&whole[..end], &budget()) {
                Err(ApiError::Malformed(_)) => {}
                // No bytes at all are an empty stream.
                Ok(body) if end == 0 => assert!(body.bytes.is_empty()),
                other => panic!("cut at {end}: {other:?}"),
            }
        }
        assert!(matches!(gunzip(b"not gzip at all", &budget()), Err(ApiError::Malformed(_))));
    }

    #[test]
    fn a_spent_memory_budget_asks_the_client_to_retry() {
        let budget = Budget::new(1 << 20, 8 << 10);
        let _held = budget.take(8 << 10).unwrap();
        assert!(matches!(gunzip(&gzip(&[1; 5_000]), &budget), Err(ApiError::Overloaded)));
    }

    #[test]
    fn parts_share_the_decompressed_size_limit_of_one_body() {
        let budget = budget();
        let mut parts = Parts::new(&budget);
        let small =
            [("gzip", gzip(&[1; 300_000])), ("Deflate", zlib(&[2; 300_000])), ("zstd", zstd_stream(&[3; 300_000], 3))];
        let kept: Vec<_> = small.iter().map(|(name, part)| parts.decompress(name, part).unwrap()).collect();
        assert!(kept.iter().zip(1..).all(|(part, byte)| *part.bytes == [byte; 300_000]));
        assert!(matches!(parts.decompress("br", b""), Err(ApiError::ContentEncoding { .. })));
        for (name, part) in &small {
            assert!(matches!(parts.decompress(name, part), Err(ApiError::TooLarge { .. })), "{name}");
        }
        drop(kept);
        assert_eq!(budget.units.available_permits(), (4 << 20) / UNIT_BYTES);
    }

    #[test]
    fn content_encodings_are_case_insensitive_and_decoded_in_reverse() {
        let listed = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(CONTENT_ENCODING, http::HeaderValue::from_static(value));
            }
            Compression::of(&headers)
        };
        use Compression::{Deflate, Gzip, Zstd};
        for (values, wanted) in [
            (&[][..], &[][..]),
            (&[""], &[]),
            (&["identity, Identity"], &[]),
            (&[" X-GZIP "], &[Gzip]),
            (&["gzip, identity"], &[Gzip]),
            (&["identity,,ZSTD,"], &[Zstd]),
            (&["deflate", "GZip"], &[Deflate, Gzip]),
        ] {
            assert_eq!(listed(values).unwrap(), wanted, "{values:?}");
        }
        for values in [&["br"][..], &["gzip, br"], &["gzip;q=1"], &["gzip gzip"], &["gzip, deflate", "zstd"]] {
            assert!(matches!(listed(values), Err(ApiError::ContentEncoding { .. })), "{values:?}");
        }
        let budget = budget();
        let twice = zstd_stream(&gzip(b"hello"), 3);
        assert_eq!(Parts::new(&budget).decompress("GZIP, identity, zstd", &twice).unwrap().bytes, b"hello"[..]);
        assert!(Parts::new(&budget).decompress("zstd, gzip", &twice).is_err());
    }

    #[test]
    fn a_truncated_part_counts_its_decompressed_bytes_against_the_limit() {
        let budget = budget();
        let mut parts = Parts::new(&budget);
        let random: Vec<u8> = (0..400_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let whole = zlib(&random);
        let cut = &whole[..whole.len() - 10];
        let tries =
            (0..).take_while(|_| matches!(parts.decompress("deflate", cut), Err(ApiError::Malformed(_)))).count();
        assert!((2..=3).contains(&tries), "{tries}");
    }
}
