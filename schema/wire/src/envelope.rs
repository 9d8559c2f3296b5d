//! The envelope: the rows of one accepted request of one org, as appended to a shard's stream.
//!
//! All integers are little-endian. Everything before a length has a fixed size, so a reader never searches.
//!
//! ```text
//! "TBE2"                                   magic and format version
//! envelope_id org_id workspace_id          16 bytes each, as in RFC 9562
//! project_id api_key_id
//! content_id                               16 bytes, see ContentId
//! received_at                              i64, Unix nanoseconds
//! source                                   u8, see Source; its highest bit: exempt from its org's monthly limits
//! sections                                 u8, how many follow
//! code                                     16 bytes, see EnvelopeKey; it authenticates every other byte
//! per section:
//!   table u8, version u16, rows u32, bytes u32
//!   per column of that table version:
//!     constant u8                          bit i: segment i holds one row, to be repeated
//!     per segment of the column's type: its length u32
//!     the segments' bytes
//! ```
//!
//! | module | one idea |
//! | --- | --- |
//! | `seal` | the key, and the code that can be made only with it |
//! | `verified` | an envelope whose code was checked, and what may be done with it |
//! | `claims` | what unchecked bytes say about themselves |
//! | `content` | the content id, by which a retry is recognised |
//! | `read`, `check` | sections, and whether their columns hold what they say |

use model::ids::{ApiKeyId, EnvelopeId, OrgId, ProjectId, WorkspaceId};
use model::meter::Meter;
use model::trace::UnixNanos;
use model::words;

use crate::columns::{MAX_SEGMENTS, SegmentBytes};
use crate::tables::{BILLING_METER, Rows, Table, versions};

mod check;
mod claims;
mod content;
mod read;
mod seal;
mod verified;

pub use claims::{Claims, claimed_received_at, claims};
pub use content::ContentId;
use seal::SEAL_BYTES;
pub use seal::{ENVELOPE_KEY_BYTES, EnvelopeKey};
pub use verified::{Unverified, Verified};

/// The field of a stream entry that holds the envelope.
pub const ENVELOPE_FIELD: &str = "e";
const MAGIC: &[u8; 4] = b"TBE2";
/// Most rows of one table in an envelope. `ingest-api` refuses requests with more, because an envelope is never split:
/// its rows must fit into one insert.
pub const SECTION_ROWS_MAX: u32 = 500_000;
/// Most bytes of an envelope's rows once written out ([`Envelope::expanded_len`]). `ingest-api` refuses requests with
/// more, and so does [`Envelope::decode`]: one row may stand for all rows of a section, so a few bytes could ask for
/// any amount of memory.
pub const EXPANDED_BYTES_MAX: usize = 160 << 20;

words! {
    /// The protocol of the request. Its word is stored in the `source` column.
    Source, "protocol" {
        /// OTLP/HTTP in protobuf.
        OtlpProtobuf = "otlp_protobuf",
        /// OTLP/HTTP in JSON.
        OtlpJson = "otlp_json",
        /// A batch in JSON of our own protocol.
        Native = "native",
        /// OTLP over gRPC, whose messages are protobuf.
        OtlpGrpc = "otlp_grpc",
        /// LangSmith's own protocol: single runs, batches and multipart bodies.
        LangSmith = "langsmith",
    }
}

impl Source {
    /// The number in an envelope. One that was given is never given again: envelopes of other releases may have it.
    pub const fn number(self) -> u8 {
        match self {
            Self::OtlpProtobuf => 1,
            Self::OtlpJson => 2,
            Self::Native => 3,
            Self::OtlpGrpc => 4,
            Self::LangSmith => 5,
        }
    }
}

/// The tenant and the request of an envelope. Made only from a resolved tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Header {
    pub envelope_id: EnvelopeId,
    pub org_id: OrgId,
    pub workspace_id: WorkspaceId,
    pub project_id: ProjectId,
    pub api_key_id: ApiKeyId,
    pub content_id: ContentId,
    /// When the request was received.
    pub received_at: UnixNanos,
    pub source: Source,
}

/// Offsets of the fields that are changed after they were written.
const CONTENT_AT: usize = MAGIC.len() + 5 * 16;
const SOURCE_AT: usize = CONTENT_AT + 16 + 8;
const SECTIONS_AT: usize = SOURCE_AT + 1;
const SEAL_AT: usize = SECTIONS_AT + 1;
/// Bytes of an envelope before its first section.
pub const HEADER_BYTES: usize = SEAL_AT + SEAL_BYTES;
/// The bit in the byte of the source that marks an envelope as exempt from monthly limits.
const EXEMPT: u8 = 0x80;

/// Writes an envelope, section by section. It gives out no bytes before it has sealed them with the deployment's key.
#[derive(Debug, PartialEq, Eq)]
pub struct Writer {
    out: Vec<u8>,
}

impl Writer {
    /// Starts an envelope. `capacity` is a guess at its final size in bytes.
    pub fn new(header: &Header, capacity: usize) -> Self {
        let mut out = Vec::with_capacity(capacity.max(256));
        out.extend_from_slice(MAGIC);
        for id in
            [header.envelope_id.0, header.org_id.0, header.workspace_id.0, header.project_id.0, header.api_key_id.0]
        {
            out.extend_from_slice(id.as_bytes());
        }
        out.extend_from_slice(&header.content_id.0);
        out.extend_from_slice(&header.received_at.to_le_bytes());
        out.push(header.source.number());
        out.push(0);
        out.extend_from_slice(&[0; SEAL_BYTES]);
        Self { out }
    }

    /// Marks the envelope to be stored even if its org is over a monthly limit.
    pub fn exempt(&mut self) {
        self.out[SOURCE_AT] |= EXEMPT;
    }

    /// Adds the rows of a table; nothing if there are none.
    pub fn section(&mut self, rows: &impl Rows) {
        if rows.rows() == 0 {
            return;
        }
        let (table, out) = (versions::newest(rows.table()), &mut self.out);
        out[SECTIONS_AT] += 1;
        out.push(table.id);
        out.extend_from_slice(&table.version.to_le_bytes());
        out.extend_from_slice(&rows.rows().to_le_bytes());
        let length_at = out.len();
        out.extend_from_slice(&[0; 4]);
        for column in rows.columns().take(table.columns.len()) {
            debug_assert_eq!(column.rows(), rows.rows(), "ragged columns");
            out.push(column.segments().enumerate().map(|(i, s)| u8::from(s.constant) << i).sum());
            for segment in column.segments() {
                out.extend_from_slice(&(segment.bytes.len() as u32).to_le_bytes());
            }
            for segment in column.segments() {
                out.extend_from_slice(segment.bytes);
            }
        }
        let length = (out.len() - length_at - 4) as u32;
        out[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }

    /// How many bytes the envelope has so far.
    pub fn byte_len(&self) -> usize {
        self.out.len()
    }

    /// Seals the envelope and returns its bytes.
    pub fn finish(self, key: &EnvelopeKey) -> Vec<u8> {
        verified::seal(key, self.out)
    }
}

/// Why this release cannot read bytes as an envelope.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum DecodeError {
    #[error("not an envelope: it does not begin with {MAGIC:?}")]
    Magic,
    #[error("not written by this deployment, or changed since: its code is not that of its bytes")]
    Unauthenticated,
    #[error("cut off at byte {0}")]
    Truncated(usize),
    #[error("{0} bytes follow the last section")]
    Trailing(usize),
    #[error("unknown source {0}")]
    Source(u8),
    #[error("unknown table {id} version {version}; was it written by a newer release?")]
    Table { id: u8, version: u16 },
    #[error("{table}: {rows} rows, more than {SECTION_ROWS_MAX}")]
    Rows { table: &'static str, rows: u32 },
    #[error("{table}.{column}: segment {segment} has {bytes} bytes, which are not its {elements} elements")]
    Segment { table: &'static str, column: &'static str, segment: usize, bytes: usize, elements: u64 },
    #[error("its rows are {0} bytes when they are written out, more than {EXPANDED_BYTES_MAX}")]
    Expanded(usize),
}

/// A decoded envelope, which borrows its bytes. Only a [`Verified`] can make one.
#[derive(Debug)]
#[non_exhaustive]
pub struct Envelope<'a> {
    /// The tenant and the request that the rows belong to.
    pub header: Header,
    /// Whether the rows are stored even if the org is over a monthly limit. An operator has decided so.
    pub is_exempt: bool,
    /// The rows, one section per table.
    pub sections: Vec<Section<'a>>,
}

/// The rows of one table in an envelope.
#[derive(Debug)]
pub struct Section<'a> {
    /// The table and its version.
    pub table: &'static Table,
    /// Number of rows; every column has this many values.
    pub rows: u32,
    /// The columns in the table's order, checked against their types.
    pub columns: Vec<ColumnBytes<'a>>,
}

/// One column in an envelope.
#[derive(Clone, Copy, Debug)]
pub struct ColumnBytes<'a> {
    /// The segments of the column's type; further elements are empty.
    pub segments: [SegmentBytes<'a>; MAX_SEGMENTS],
}

impl<'a> Envelope<'a> {
    /// About how many bytes the rows will have in blocks, where constant columns are written out.
    pub fn expanded_len(&self) -> usize {
        self.sections.iter().map(Section::expanded_len).fold(0, usize::saturating_add)
    }

    /// Decodes bytes that may be an envelope. Checks every length and counts every string. So appending a section to a
    /// block cannot fail, takes no more memory than a small multiple of [`EXPANDED_BYTES_MAX`], and puts each value
    /// into its own row.
    pub fn decode(key: &EnvelopeKey, bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let verified = Verified::check(key, bytes).map_err(|unverified| unverified.error)?;
        verified::decode(bytes, *verified.header(), verified.is_exempt())
    }

    /// The amount of a meter that the billing rows name.
    pub fn billed(&self, meter: Meter) -> u64 {
        let section = self.sections.iter().find(|section| section.table == &BILLING_METER);
        section.map_or(0, |section| section.billed(meter))
    }
}

impl Section<'_> {
    /// The amount of a meter that the rows name; 0 if they are not billing rows.
    fn billed(&self, meter: Meter) -> u64 {
        let column = |name: &str| {
            let at = self.table.columns.iter().position(|column| column.name == name);
            at.and_then(|at| self.columns.get(at)).map(|column| column.segments[0])
        };
        let (Some(meters), Some(quantities)) = (column("meter"), column("quantity")) else { return 0 };
        let at = |segment: SegmentBytes<'_>, row: usize| if segment.constant { 0 } else { row };
        let mut sum = 0_u64;
        for row in 0..self.rows as usize {
            // The names of meters are shorter than 128 bytes, so their length takes one byte.
            let mut rest = meters.bytes;
            for _ in 0..at(meters, row) {
                rest = rest.split_first().and_then(|(len, rest)| rest.get(usize::from(*len)..)).unwrap_or_default();
            }
            let name = rest.split_first().and_then(|(len, rest)| rest.get(..usize::from(*len))).unwrap_or_default();
            let from = 8 * at(quantities, row);
            if name == meter.as_str().as_bytes()
                && let Some(Ok(quantity)) = quantities.bytes.get(from..from + 8).map(TryInto::try_into)
            {
                sum = sum.saturating_add(u64::from_le_bytes(quantity));
            }
        }
        sum
    }

    fn expanded_len(&self) -> usize {
        let times = |s: &SegmentBytes<'_>| if s.constant { self.rows as usize } else { 1 };
        let segments = self.columns.iter().flat_map(|c| &c.segments);
        segments.map(|s| s.bytes.len().saturating_mul(times(s))).fold(0, usize::saturating_add)
    }
}

/// The values of a lengths segment.
pub(crate) fn lengths(bytes: &[u8]) -> impl Iterator<Item = u32> + Clone {
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

#[cfg(test)]
pub(crate) mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::tables::{BillingRows, RunRows, SpanRows};
    use model::meter::Meter;
    use model::trace::{Attribute, Event, Llm, Origin, Run, Span, Value};

    pub(crate) fn key() -> EnvelopeKey {
        EnvelopeKey::new(&[8; ENVELOPE_KEY_BYTES])
    }

    pub(crate) fn header() -> Header {
        let id = |n: u128| Uuid::from_u128(n);
        Header {
            envelope_id: EnvelopeId(id(1)),
            org_id: OrgId(id(2)),
            workspace_id: WorkspaceId(id(3)),
            project_id: ProjectId(id(4)),
            api_key_id: ApiKeyId(id(5)),
            content_id: ContentId([6; 16]),
            received_at: 1_795_241_935_570_826_453,
            source: Source::OtlpProtobuf,
        }
    }

    /// An envelope with rows of all three tables, with `n` different spans.
    pub(crate) fn sample(n: usize) -> Vec<u8> {
        let header = header();
        let (mut spans, mut runs, mut bills) = (SpanRows::default(), RunRows::default(), BillingRows::default());
        let origin = Origin { service_name: "svc".into(), ..Default::default() };
        for i in 0..n {
            let attribute = |k: &'static str, v: usize| Attribute { key: k.into(), value: Value::Int(v as i64) };
            let span = Span {
                run_id: Uuid::from_u128(i as u128),
                name: format!("span {i}").into(),
                attributes: (0..i % 4).map(|k| attribute("k", k)).collect(),
                events: (0..i % 3)
                    .map(|e| Event { attributes: vec![attribute("e", e); e], ..Default::default() })
                    .collect(),
                llm: Llm { temperature: (i % 2 == 0).then_some(0.5), ..Default::default() },
                ..Default::default()
            };
            spans.push(header.project_id, &origin, i > 0, &span);
        }
        runs.push(header.project_id, &Run::default(), 7);
        bills.push(
            header.project_id,
            header.api_key_id,
            header.envelope_id,
            header.received_at,
            Meter::SpanIngested,
            9,
        );
        let mut writer = Writer::new(&header, 0);
        writer.section(&spans);
        writer.section(&runs);
        writer.section(&bills);
        writer.finish(&key())
    }

    #[test]
    fn an_envelope_reads_back() {
        let bytes = sample(5);
        let envelope = Envelope::decode(&key(), &bytes).unwrap();
        assert_eq!(envelope.header, header());
        let tables: Vec<_> = envelope.sections.iter().map(|s| (s.table.name, s.rows)).collect();
        assert_eq!(tables, [("span", 5), ("run", 1), ("billing_meter", 1)]);
    }

    #[test]
    fn the_number_of_a_protocol_is_its_own() {
        for source in Source::ALL {
            let same = Source::ALL.iter().filter(|other| other.number() == source.number()).count();
            assert_eq!((same, source.number() & EXEMPT), (1, 0), "{source}");
        }
    }

    #[test]
    fn billed_amounts_are_read_from_an_envelope() {
        let bytes = sample(5);
        let envelope = Envelope::decode(&key(), &bytes).unwrap();
        assert_eq!((envelope.billed(Meter::SpanIngested), envelope.billed(Meter::SpanBytes)), (9, 0));
    }

    #[test]
    fn an_empty_table_is_left_out() {
        let mut writer = Writer::new(&header(), 0);
        writer.section(&SpanRows::default());
        assert!(Envelope::decode(&key(), &writer.finish(&key())).unwrap().sections.is_empty());
    }

    #[test]
    fn an_envelope_with_any_changed_byte_fails_authentication() {
        let bytes = sample(3);
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            let error = Envelope::decode(&key(), &changed).unwrap_err();
            // An unknown magic or source is found before the code is checked.
            let other = at < MAGIC.len() || at == SOURCE_AT;
            assert!(other || error == DecodeError::Unauthenticated, "byte {at}: {error}");
        }
        let other = EnvelopeKey::new(&[9; ENVELOPE_KEY_BYTES]);
        assert_eq!(Envelope::decode(&other, &bytes).unwrap_err(), DecodeError::Unauthenticated);
        // An envelope of an earlier release.
        let old = [b"TBE1", &bytes[4..]].concat();
        assert_eq!(Envelope::decode(&key(), &old).unwrap_err(), DecodeError::Magic);
    }

    #[test]
    fn an_envelope_truncated_anywhere_is_an_error_and_not_a_panic() {
        let bytes = sample(3);
        for end in 0..bytes.len() {
            assert!(Envelope::decode(&key(), &bytes[..end]).is_err(), "cut at {end}");
            assert!(
                Envelope::decode(&key(), &key().sealed(bytes[..end].to_vec())).is_err(),
                "cut at {end}, with its code"
            );
        }
        let longer = key().sealed([&bytes[..], b"x"].concat());
        assert_eq!(Envelope::decode(&key(), &longer).unwrap_err(), DecodeError::Trailing(1));
    }

    #[test]
    fn a_row_count_that_was_raised_is_refused() {
        let mut spans = SpanRows::default();
        let span = Span { name: "x".repeat(1_000).into(), ..Default::default() };
        spans.push(header().project_id, &Origin::default(), false, &span);
        let mut writer = Writer::new(&header(), 0);
        writer.section(&spans);
        let bytes = writer.finish(&key());
        let rows_at = HEADER_BYTES + 3;
        assert_eq!(bytes[rows_at..rows_at + 4], 1_u32.to_le_bytes());
        let with_rows = |rows: u32| {
            let mut changed = bytes.clone();
            changed[rows_at..rows_at + 4].copy_from_slice(&rows.to_le_bytes());
            key().sealed(changed)
        };
        // Every column of a single row is constant, so any number of rows fits.
        let taken = with_rows(2);
        assert_eq!(Envelope::decode(&key(), &taken).unwrap().sections[0].rows, 2);
        let expanded = Envelope::decode(&key(), &with_rows(SECTION_ROWS_MAX)).err();
        assert!(matches!(expanded, Some(DecodeError::Expanded(bytes)) if bytes > EXPANDED_BYTES_MAX), "{expanded:?}");
        let more = Envelope::decode(&key(), &with_rows(SECTION_ROWS_MAX + 1)).err();
        assert_eq!(more, Some(DecodeError::Rows { table: "span", rows: SECTION_ROWS_MAX + 1 }));
    }

    /// The names are the same bytes in the same order, so they are kept once, although the events group them
    /// differently.
    #[test]
    fn events_with_equal_attribute_names_grouped_differently_are_read() {
        let header = header();
        let mut spans = SpanRows::default();
        for has_attribute in [[true, false], [false, true]] {
            let attribute = Attribute { key: "k".into(), value: Value::Int(1) };
            let events = has_attribute
                .map(|has| Event { attributes: vec![attribute.clone(); has.into()], ..Default::default() });
            let span = Span { events: events.to_vec(), ..Default::default() };
            spans.push(header.project_id, &Origin::default(), false, &span);
        }
        let mut writer = Writer::new(&header, 0);
        writer.section(&spans);
        assert_eq!(Envelope::decode(&key(), &writer.finish(&key())).unwrap().sections[0].rows, 2);
    }

    #[test]
    fn any_flipped_byte_is_read_or_refused_without_a_panic() {
        let bytes = sample(3);
        for at in 0..bytes.len() {
            for bit in [0x01, 0x80] {
                let mut broken = bytes.clone();
                broken[at] ^= bit;
                if let Ok(envelope) = Envelope::decode(&key(), &key().sealed(broken)) {
                    let mut block = crate::block::Block::new(envelope.sections[0].table);
                    block.append(&envelope.header, &envelope.sections[0]);
                }
            }
        }
    }
}
