//! Appends envelopes of one table into one block in ClickHouse's Native format, which is one insert.
//!
//! Appending does not look at single rows: it copies bytes, turns lengths into running offsets and repeats constant
//! columns. ClickHouse gets the bytes that `ingest-api` encoded.
//!
//! Format: ClickHouse "Native" without block info, as `FORMAT Native` over HTTP reads it: column count, row count, then
//! per column its name, its type and its data (`src/Formats/NativeReader.cpp`).

use bytes::Bytes;

use crate::columns::{
    ColumnType, MAX_SEGMENTS, Segment, SegmentBytes, repeat_from, uuid_bytes, write_str, write_varint,
};
use crate::envelope::{ColumnBytes, Header, Section, lengths};
use crate::tables::{RUN, STAMPS, Table};

/// Rows of many envelopes for one table.
#[derive(Debug)]
pub struct Block {
    table: &'static Table,
    rows: usize,
    stamps: [BlockColumn; STAMPS.len()],
    columns: Vec<BlockColumn>,
}

impl Block {
    /// An empty block for that table.
    pub fn new(table: &'static Table) -> Self {
        Self {
            table,
            rows: 0,
            stamps: STAMPS.map(|spec| BlockColumn::new(spec.ty)),
            columns: table.columns.iter().map(|spec| BlockColumn::new(spec.ty)).collect(),
        }
    }

    /// The table and version that the rows are for.
    pub fn table(&self) -> &'static Table {
        self.table
    }

    /// Number of rows appended so far.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of bytes so far, close to the size of the finished block.
    pub fn byte_len(&self) -> usize {
        self.stamps.iter().chain(&self.columns).map(BlockColumn::byte_len).sum()
    }

    /// Appends a section of this block's table and adds the header's tenant and time of receipt to each row. Each row
    /// of `run` gets a nanosecond more than the row before. A section of another table would be a bug: it would put
    /// bytes under the wrong columns.
    pub fn append(&mut self, header: &Header, section: &Section<'_>) {
        assert_eq!(self.table, section.table, "a section goes into a block of its own table");
        let rows = section.rows as usize;
        if rows == 0 {
            return;
        }
        let [org, workspace, received, source] = &mut self.stamps;
        org.append_value(&uuid_bytes(header.org_id.0), rows);
        workspace.append_value(&uuid_bytes(header.workspace_id.0), rows);
        if self.table.id == RUN.id {
            // `run_of` shows the write that was received last, and the writes of one request are in the order in which
            // the request has them.
            let each = (0..section.rows).map(|row| header.received_at.saturating_add(row.into()));
            received.segments[0].extend(each.flat_map(i64::to_le_bytes));
        } else {
            received.append_value(&header.received_at.to_le_bytes(), rows);
        }
        let mut text = Vec::new();
        write_str(&mut text, header.source.as_str().as_bytes());
        source.append_value(&text, rows);
        for (column, bytes) in self.columns.iter_mut().zip(&section.columns) {
            column.append(bytes, rows);
        }
        self.rows += rows;
    }

    /// Finishes the block, so that it can be inserted.
    pub fn seal(self) -> SealedBlock {
        let mut pieces = Vec::with_capacity(3 * (STAMPS.len() + self.columns.len()));
        let mut head = Vec::new();
        write_varint(&mut head, STAMPS.len() + self.columns.len());
        write_varint(&mut head, self.rows);
        let specs = STAMPS.iter().chain(self.table.columns);
        for (spec, column) in specs.zip(self.stamps.into_iter().chain(self.columns)) {
            write_str(&mut head, spec.name.as_bytes());
            write_str(&mut head, spec.ty.native_name().as_bytes());
            pieces.push(Bytes::from(std::mem::take(&mut head)));
            let segments = spec.ty.segments().len();
            pieces.extend(column.segments.into_iter().take(segments).map(Bytes::from));
        }
        SealedBlock { table: self.table, rows: self.rows, pieces }
    }
}

/// A finished block: its bytes in order, in pieces, so that no column has to be copied again.
#[derive(Debug)]
pub struct SealedBlock {
    table: &'static Table,
    rows: usize,
    /// Per column its head, then each segment of its type.
    pieces: Vec<Bytes>,
}

impl SealedBlock {
    /// The table and version that the rows are for.
    pub fn table(&self) -> &'static Table {
        self.table
    }

    /// Number of rows that one insert of it stores.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The bytes of the block, in order.
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// Size of all pieces together, in bytes.
    pub fn byte_len(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    /// An empty block that uses the memory of this one, as far as nothing else still holds it. Filling new memory pages
    /// costs more than everything else that a worker does with a row.
    pub fn reuse(self) -> Block {
        let mut block = Block::new(self.table);
        let mut pieces = self.pieces.into_iter();
        for column in block.stamps.iter_mut().chain(&mut block.columns) {
            let _head = pieces.next();
            for segment in column.segments.iter_mut().take(column.ty.segments().len()) {
                let mut bytes = pieces.next().unwrap_or_default();
                bytes.clear();
                *segment = Vec::from(bytes);
            }
        }
        block
    }
}

/// One column of a block, in Native form.
#[derive(Debug)]
struct BlockColumn {
    ty: ColumnType,
    segments: [Vec<u8>; MAX_SEGMENTS],
    /// The last offset that was written, per lengths segment.
    offsets: [u64; MAX_SEGMENTS],
}

impl BlockColumn {
    fn new(ty: ColumnType) -> Self {
        Self { ty, segments: Default::default(), offsets: Default::default() }
    }

    fn byte_len(&self) -> usize {
        self.segments.iter().map(Vec::len).sum()
    }

    /// Appends one plain value `rows` times.
    fn append_value(&mut self, value: &[u8], rows: usize) {
        let segment = &mut self.segments[0];
        let start = segment.len();
        segment.extend_from_slice(value);
        repeat_from(segment, start, rows - 1);
    }

    fn append(&mut self, column: &ColumnBytes<'_>, rows: usize) {
        for (i, kind) in self.ty.segments().iter().enumerate() {
            let (SegmentBytes { bytes, constant }, to) = (column.segments[i], &mut self.segments[i]);
            let times = if constant { rows } else { 1 };
            match kind {
                Segment::Fixed(_) | Segment::Strings => {
                    let start = to.len();
                    to.extend_from_slice(bytes);
                    repeat_from(to, start, times - 1);
                }
                Segment::Lengths => {
                    let offset = &mut self.offsets[i];
                    to.reserve(bytes.len() * 2 * times);
                    for _ in 0..times {
                        for length in lengths(bytes) {
                            *offset += u64::from(length);
                            to.extend_from_slice(&offset.to_le_bytes());
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::tests::{header, key, sample};
    use crate::envelope::{Envelope, Writer};
    use crate::tables::{SPAN, SpanRows};
    use model::trace::{Attribute, Llm, Origin, Span, Value};

    fn spans(from: usize, to: usize) -> Vec<u8> {
        let mut rows = SpanRows::default();
        for i in from..to {
            let tags = (0..i % 3).map(|t| format!("tag{t}").into()).collect();
            let attributes = (0..i % 4).map(|k| Attribute { key: "k".into(), value: Value::Int(k as i64) }).collect();
            let span = Span { llm: Llm { tags, ..Default::default() }, attributes, ..Default::default() };
            rows.push(header().project_id, &Origin::default(), false, &span);
        }
        let mut writer = Writer::new(&header(), 0);
        writer.section(&rows);
        writer.finish(&key())
    }

    fn block(envelopes: &[Vec<u8>]) -> Vec<u8> {
        let mut block = Block::new(&SPAN);
        for bytes in envelopes {
            let envelope = Envelope::decode(&key(), bytes).unwrap();
            for section in envelope.sections.iter().filter(|s| s.table == &SPAN) {
                block.append(&envelope.header, section);
            }
        }
        block.seal().pieces().concat()
    }

    #[test]
    fn rows_split_over_envelopes_make_the_same_block() {
        let whole = block(&[spans(0, 12)]);
        assert_eq!(block(&[spans(0, 1), spans(1, 5), spans(5, 12)]), whole);
        assert_eq!(block(&(0..12).map(|i| spans(i, i + 1)).collect::<Vec<_>>()), whole);
    }

    #[test]
    fn a_reused_block_encodes_like_a_new_one() {
        let envelopes = [spans(0, 4), spans(4, 9)];
        let fresh = block(&envelopes);
        let mut reused = Block::new(&SPAN);
        for round in 0..3 {
            for bytes in &envelopes {
                let envelope = Envelope::decode(&key(), bytes).unwrap();
                reused.append(&envelope.header, &envelope.sections[0]);
            }
            let sealed = reused.seal();
            assert_eq!(sealed.pieces().concat(), fresh, "round {round}");
            reused = sealed.reuse();
            assert_eq!((reused.rows(), reused.byte_len()), (0, 0));
            assert!(reused.columns[0].segments[0].capacity() >= 9 * 16, "the memory is kept");
        }
    }

    #[test]
    fn header_names_every_column_once_and_in_order() {
        let bytes = block(&[sample(2)]);
        let mut at = 0;
        for spec in STAMPS.iter().chain(SPAN.columns) {
            let mut wanted = Vec::new();
            write_str(&mut wanted, spec.name.as_bytes());
            write_str(&mut wanted, spec.ty.native_name().as_bytes());
            let found = bytes[at..].windows(wanted.len()).position(|w| w == wanted);
            at += found.unwrap_or_else(|| panic!("{} is missing or out of order", spec.name)) + wanted.len();
        }
    }
}
