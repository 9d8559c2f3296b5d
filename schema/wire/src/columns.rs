//! Writes rows column by column, as ClickHouse's Native format needs them.
//!
//! A [`Column`] holds the rows of one request. Its bytes are those of the Native format, with two differences that make
//! it possible to append columns of many requests without looking into them:
//!
//! * Array and map offsets are kept as one `u32` length per row, because a length does not depend on earlier rows.
//! * A segment whose rows are all the same is kept as one row and a mark. Most segments of most requests are like that:
//!   almost no client sends links, every client sends one service name, the attributes' names repeat while their values
//!   differ. Repeating bytes later is cheaper than compressing them now.
//!
//! The other half is [`crate::block`]: it appends columns and turns lengths back into offsets.

use model::trace::{Attribute, Value};
use uuid::Uuid;

/// The most segments a column type has (`Array(Map(String, String))`).
pub const MAX_SEGMENTS: usize = 4;

/// The layout of the bytes of one segment of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Exactly this many bytes per element.
    Fixed(usize),
    /// Per element a LEB128 length and that many bytes.
    Strings,
    /// Per element one little-endian `u32`: how many elements of the following segments belong to this element.
    Lengths,
}

/// The column types in use. The name is the one in the Native header. The type in the table may be richer
/// (`LowCardinality(String)`, `DateTime64(9, 'UTC')`): the server converts, which costs nothing measurable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ColumnType {
    Uuid,
    UInt8,
    UInt16,
    UInt32,
    UInt64,
    FixedString16,
    DateTime64,
    NullableDecimal64,
    NullableFloat64,
    String,
    ArrayString,
    ArrayUInt32,
    ArrayUuid,
    ArrayDateTime64,
    Map,
    ArrayMap,
}

impl ColumnType {
    /// The type's name in a Native block.
    pub const fn native_name(self) -> &'static str {
        match self {
            ColumnType::Uuid => "UUID",
            ColumnType::UInt8 => "UInt8",
            ColumnType::UInt16 => "UInt16",
            ColumnType::UInt32 => "UInt32",
            ColumnType::UInt64 => "UInt64",
            ColumnType::FixedString16 => "FixedString(16)",
            ColumnType::DateTime64 => "DateTime64(9, 'UTC')",
            ColumnType::NullableDecimal64 => "Nullable(Decimal(18, 8))",
            ColumnType::NullableFloat64 => "Nullable(Float64)",
            ColumnType::String => "String",
            ColumnType::ArrayString => "Array(String)",
            ColumnType::ArrayUInt32 => "Array(UInt32)",
            ColumnType::ArrayUuid => "Array(UUID)",
            ColumnType::ArrayDateTime64 => "Array(DateTime64(9, 'UTC'))",
            ColumnType::Map => "Map(String, String)",
            ColumnType::ArrayMap => "Array(Map(String, String))",
        }
    }

    /// The segments of the type, outermost first, in the order in which the Native format writes them.
    pub const fn segments(self) -> &'static [Segment] {
        use Segment::{Fixed, Lengths, Strings};
        match self {
            ColumnType::UInt8 => &[Fixed(1)],
            ColumnType::UInt16 => &[Fixed(2)],
            ColumnType::UInt32 => &[Fixed(4)],
            ColumnType::UInt64 | ColumnType::DateTime64 => &[Fixed(8)],
            ColumnType::Uuid | ColumnType::FixedString16 => &[Fixed(16)],
            ColumnType::NullableDecimal64 | ColumnType::NullableFloat64 => &[Fixed(1), Fixed(8)],
            ColumnType::String => &[Strings],
            ColumnType::ArrayString => &[Lengths, Strings],
            ColumnType::ArrayUInt32 => &[Lengths, Fixed(4)],
            ColumnType::ArrayUuid => &[Lengths, Fixed(16)],
            ColumnType::ArrayDateTime64 => &[Lengths, Fixed(8)],
            ColumnType::Map => &[Lengths, Strings, Strings],
            ColumnType::ArrayMap => &[Lengths, Lengths, Strings, Strings],
        }
    }
}

/// A UUID as ClickHouse stores it: two 64-bit halves, each little-endian.
pub fn uuid_bytes(id: Uuid) -> [u8; 16] {
    let (high, low) = id.as_u64_pair();
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&high.to_le_bytes());
    bytes[8..].copy_from_slice(&low.to_le_bytes());
    bytes
}

/// The rows of one column of one request.
#[derive(Debug)]
pub struct Column {
    ty: ColumnType,
    rows: u32,
    segments: [SegmentBuf; MAX_SEGMENTS],
}

/// The bytes of one segment.
#[derive(Debug)]
struct SegmentBuf {
    bytes: Vec<u8>,
    /// While true, all rows equal the first one, and only that one is kept.
    constant: bool,
    /// Index of the first byte of the newest row.
    last: usize,
}

/// One segment as it is in an envelope.
#[derive(Clone, Copy, Debug)]
pub struct SegmentBytes<'a> {
    /// The rows, or the one row that stands for all.
    pub bytes: &'a [u8],
    /// Whether one row stands for all.
    pub constant: bool,
}

impl Column {
    /// An empty column of that type.
    pub fn new(ty: ColumnType) -> Self {
        Self { ty, rows: 0, segments: Default::default() }
    }

    /// Removes the rows, but keeps the memory.
    pub fn clear(&mut self) {
        self.rows = 0;
        for segment in &mut self.segments {
            segment.bytes.clear();
            segment.constant = true;
            segment.last = 0;
        }
    }

    /// How many rows were pushed.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// The column's segments, in the order of its type.
    pub fn segments(&self) -> impl Iterator<Item = SegmentBytes<'_>> {
        let segments = &self.segments[..self.ty.segments().len()];
        segments.iter().map(|s| SegmentBytes { bytes: &s.bytes, constant: s.constant })
    }

    /// Number of bytes that the column holds in memory.
    pub fn byte_len(&self) -> usize {
        self.segments.iter().map(|s| s.bytes.len()).sum()
    }

    /// About how many bytes the rows will have once written out. This is good enough for a limit: a constant segment is
    /// kept as one row and may stand for far more bytes than it has.
    pub fn expanded_len(&self) -> usize {
        let times = |s: &SegmentBuf| if s.constant { self.rows as usize } else { 1 };
        self.segments.iter().map(|s| s.bytes.len().saturating_mul(times(s))).sum()
    }

    /// Pushes a fixed-width value, little-endian.
    pub fn push_fixed<const W: usize>(&mut self, value: [u8; W]) {
        debug_assert_eq!(self.ty.segments(), [Segment::Fixed(W)]);
        let rows = self.rows;
        self.rows += 1;
        let segment = &mut self.segments[0];
        if segment.constant && rows > 0 {
            if segment.bytes.first_chunk() == Some(&value) {
                return;
            }
            segment.expand(rows);
        }
        segment.last = segment.bytes.len();
        segment.bytes.extend_from_slice(&value);
    }

    /// Pushes a UUID, in the byte order of ClickHouse.
    pub fn push_uuid(&mut self, id: Uuid) {
        self.push_fixed(uuid_bytes(id));
    }

    /// Pushes a nullable eight-byte value.
    pub fn push_nullable(&mut self, value: Option<[u8; 8]>) {
        let (is_null, bytes) = (u8::from(value.is_none()), value.unwrap_or_default());
        let [nulls, values, ..] = &self.segments;
        let constant = nulls.constant && values.constant;
        if constant && (nulls.bytes.first(), values.bytes.first_chunk()) == (Some(&is_null), Some(&bytes)) {
            self.rows += 1;
            return;
        }
        let mut row = self.row();
        row.segment(0).push(is_null);
        row.segment(1).extend_from_slice(&bytes);
        row.commit();
    }

    /// Pushes a text, as the bytes of its UTF-8.
    pub fn push_str(&mut self, value: &str) {
        self.push_bytes(value.as_bytes());
    }

    /// Pushes bytes, which need not be UTF-8, as a string.
    pub fn push_bytes(&mut self, value: &[u8]) {
        debug_assert_eq!(self.ty, ColumnType::String);
        let rows = self.rows;
        self.rows += 1;
        let segment = &mut self.segments[0];
        if segment.constant && rows > 0 {
            let first = &segment.bytes;
            let prefix = varint_len(value.len());
            let same_len = first.len() == prefix + value.len();
            if same_len && (value.is_empty() || &first[prefix..] == value) {
                return;
            }
            segment.expand(rows);
        }
        segment.last = segment.bytes.len();
        write_str(&mut segment.bytes, value);
    }

    /// Pushes an array of strings.
    pub fn push_strs<S: AsRef<str>>(&mut self, values: impl ExactSizeIterator<Item = S>) {
        debug_assert_eq!(self.ty, ColumnType::ArrayString);
        if values.len() == 0 && self.repeats_empty() {
            return;
        }
        let mut row = self.row();
        write_len(row.segment(0), values.len());
        for value in values {
            write_str(row.segment(1), value.as_ref().as_bytes());
        }
        row.commit();
    }

    /// Pushes an array of fixed-width values, each little-endian.
    pub fn push_array<const W: usize>(&mut self, values: impl ExactSizeIterator<Item = [u8; W]>) {
        debug_assert_eq!(self.ty.segments(), [Segment::Lengths, Segment::Fixed(W)]);
        if values.len() == 0 && self.repeats_empty() {
            return;
        }
        let mut row = self.row();
        write_len(row.segment(0), values.len());
        for value in values {
            row.segment(1).extend_from_slice(&value);
        }
        row.commit();
    }

    /// Pushes a map: attributes with their values as text (the types go to a column of their own, see [`type_tags`]).
    pub fn push_map(&mut self, attributes: &[Attribute<'_>]) {
        debug_assert_eq!(self.ty, ColumnType::Map);
        if attributes.is_empty() && self.repeats_empty() {
            return;
        }
        let mut row = self.row();
        write_len(row.segment(0), attributes.len());
        for attribute in attributes {
            write_str(row.segment(1), attribute.key.as_bytes());
            write_value(row.segment(2), &attribute.value);
        }
        row.commit();
    }

    /// Pushes an array of maps.
    pub fn push_maps<'a>(&mut self, maps: impl ExactSizeIterator<Item = &'a [Attribute<'a>]>) {
        debug_assert_eq!(self.ty, ColumnType::ArrayMap);
        if maps.len() == 0 && self.repeats_empty() {
            return;
        }
        let mut row = self.row();
        write_len(row.segment(0), maps.len());
        for attributes in maps {
            write_len(row.segment(1), attributes.len());
            for attribute in attributes {
                write_str(row.segment(2), attribute.key.as_bytes());
                write_value(row.segment(3), &attribute.value);
            }
        }
        row.commit();
    }

    /// Pushes the newest row once more, for values that consecutive rows share. The column must not be empty.
    pub fn repeat_last(&mut self) {
        debug_assert!(self.rows > 0, "nothing to repeat");
        for segment in self.segments.iter_mut().filter(|s| !s.constant) {
            let end = segment.bytes.len();
            segment.bytes.extend_from_within(segment.last..);
            segment.last = end;
        }
        self.rows += 1;
    }

    /// Counts one more empty array, if all rows so far are empty. This is by far the most common case for a dozen
    /// columns. Writing such a row first and then finding it equal would cost more than everything else about these
    /// columns.
    fn repeats_empty(&mut self) -> bool {
        let lengths = &self.segments[0];
        let repeats = lengths.constant && lengths.bytes.first_chunk() == Some(&[0; 4]);
        self.rows += u32::from(repeats);
        repeats
    }

    fn row(&mut self) -> Row<'_> {
        let starts = std::array::from_fn(|i| self.segments[i].bytes.len());
        Row { column: self, starts }
    }
}

impl Default for SegmentBuf {
    fn default() -> Self {
        Self { bytes: Vec::new(), constant: true, last: 0 }
    }
}

impl SegmentBuf {
    /// Writes out `rows` rows that were only counted so far.
    fn expand(&mut self, rows: u32) {
        self.constant = false;
        let row = self.bytes.len();
        repeat_from(&mut self.bytes, 0, rows.saturating_sub(1) as usize);
        self.last = self.bytes.len() - row;
    }

    /// Keeps the row that begins at `start`, which is row number `rows + 1`: it is counted if it equals all rows before
    /// it, and written out otherwise.
    fn commit(&mut self, start: usize, rows: u32) {
        if self.constant && rows > 0 {
            if self.bytes[..start] == self.bytes[start..] {
                self.bytes.truncate(start);
                return;
            }
            // The first row must be repeated *before* the new one. This happens at most once per segment and request.
            let row = self.bytes.split_off(start);
            self.expand(rows);
            self.last = self.bytes.len();
            self.bytes.extend_from_slice(&row);
        } else {
            self.last = start;
        }
    }
}

/// A row that is being written at the end of a column's segments.
struct Row<'c> {
    column: &'c mut Column,
    starts: [usize; MAX_SEGMENTS],
}

impl Row<'_> {
    fn segment(&mut self, i: usize) -> &mut Vec<u8> {
        &mut self.column.segments[i].bytes
    }

    fn commit(self) {
        let Column { ty, rows, segments } = self.column;
        for (segment, start) in segments[..ty.segments().len()].iter_mut().zip(self.starts) {
            segment.commit(start, *rows);
        }
        *rows += 1;
    }
}

/// Appends the bytes from `start` to the end another `times` times.
pub(crate) fn repeat_from(bytes: &mut Vec<u8>, start: usize, times: usize) {
    let unit = bytes.len() - start;
    bytes.reserve(unit * times);
    let mut copies = 1;
    let wanted = times + 1;
    while copies < wanted {
        let take = copies.min(wanted - copies);
        bytes.extend_from_within(start..start + take * unit);
        copies += take;
    }
}

/// The types of attributes as text, one letter each ([`Value::type_tag`]).
pub fn type_tags<'b>(attributes: &[Attribute<'_>], buffer: &'b mut String) -> &'b str {
    buffer.clear();
    buffer.extend(attributes.iter().map(|a| char::from(a.value.type_tag())));
    buffer
}

fn write_len(out: &mut Vec<u8>, len: usize) {
    // A request has far fewer than 4 Gi elements, because the bytes of a request are limited.
    out.extend_from_slice(&(len as u32).to_le_bytes());
}

pub(crate) fn write_varint(out: &mut Vec<u8>, mut n: usize) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

const fn varint_len(n: usize) -> usize {
    let bits = usize::BITS - (n | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

pub(crate) fn write_str(out: &mut Vec<u8>, text: &[u8]) {
    write_varint(out, text.len());
    out.extend_from_slice(text);
}

fn write_value(out: &mut Vec<u8>, value: &Value<'_>) {
    match value {
        Value::Empty => out.push(0),
        Value::Str(text) | Value::Array(text) | Value::Map(text) => write_str(out, text.as_bytes()),
        Value::Bool(true) => write_str(out, b"true"),
        Value::Bool(false) => write_str(out, b"false"),
        Value::Int(n) => write_str(out, itoa::Buffer::new().format(*n).as_bytes()),
        Value::Double(n) => write_str(out, ryu::Buffer::new().format(*n).as_bytes()),
        Value::Bytes(bytes) => {
            use base64::Engine;
            write_str(out, base64::engine::general_purpose::STANDARD.encode(bytes).as_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
