//! Reading an envelope's bytes, piece by piece.

use uuid::Uuid;

use super::check::check_segments;
use super::{ColumnBytes, DecodeError, SECTION_ROWS_MAX, Section};
use crate::columns::{MAX_SEGMENTS, SegmentBytes};
use crate::tables::Table;

pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// How far it has come, in bytes.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Bytes that were not read yet.
    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(super) fn take(&mut self, n: usize) -> Result<&'a [u8], DecodeError> {
        let end = self.at.checked_add(n).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(DecodeError::Truncated(self.bytes.len()))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(super) fn uuid(&mut self) -> Result<Uuid, DecodeError> {
        Ok(Uuid::from_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn section(&mut self) -> Result<Section<'a>, DecodeError> {
        let [id] = self.array()?;
        let version = u16::from_le_bytes(self.array()?);
        let rows = self.u32()?;
        let length = self.u32()? as usize;
        let mut body = Reader::new(self.take(length)?);
        let table = Table::find(id, version).ok_or(DecodeError::Table { id, version })?;
        if rows > SECTION_ROWS_MAX {
            return Err(DecodeError::Rows { table: table.name, rows });
        }
        let mut columns = Vec::with_capacity(table.columns.len());
        for spec in table.columns {
            let [constant] = body.array()?;
            let types = spec.ty.segments();
            let mut lengths = [0; MAX_SEGMENTS];
            for length in &mut lengths[..types.len()] {
                *length = body.u32()? as usize;
            }
            let mut segments = [SegmentBytes { bytes: &[], constant: false }; MAX_SEGMENTS];
            for (i, segment) in segments.iter_mut().enumerate() {
                *segment = SegmentBytes { bytes: body.take(lengths[i])?, constant: constant >> i & 1 == 1 };
            }
            let column = ColumnBytes { segments };
            check_segments(types, rows, &column).map_err(|(segment, elements)| DecodeError::Segment {
                table: table.name,
                column: spec.name,
                segment,
                bytes: lengths[segment],
                elements,
            })?;
            columns.push(column);
        }
        match body.left() {
            0 => Ok(Section { table, rows, columns }),
            left => Err(DecodeError::Trailing(left)),
        }
    }
}
