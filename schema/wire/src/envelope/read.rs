//! Reads an envelope's bytes, field by field.

use model::ids::{ApiKeyId, EnvelopeId, OrgId, ProjectId, WorkspaceId};
use uuid::Uuid;

use super::check::check_segments;
use super::seal::SEAL_BYTES;
use super::{ColumnBytes, ContentId, DecodeError, EXEMPT, Header, MAGIC, SECTION_ROWS_MAX, Section, Source};
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

    /// Number of bytes that were read.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Number of bytes that are left to read.
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

    /// Reads the whole header: the tenant and the request, whether the envelope is exempt from monthly limits, and the
    /// number of sections. Does not check the code.
    pub(super) fn header(&mut self) -> Result<(Header, bool, u8), DecodeError> {
        if self.take(MAGIC.len())? != MAGIC {
            return Err(DecodeError::Magic);
        }
        let [envelope_id, org_id, workspace_id, project_id, api_key_id] =
            [self.uuid()?, self.uuid()?, self.uuid()?, self.uuid()?, self.uuid()?];
        let (content_id, received_at) = (ContentId(self.array()?), i64::from_le_bytes(self.array()?));
        let [source, sections] = self.array()?;
        self.take(SEAL_BYTES)?;
        let (is_exempt, source) = (source & EXEMPT != 0, source & !EXEMPT);
        let header = Header {
            envelope_id: EnvelopeId(envelope_id),
            org_id: OrgId(org_id),
            workspace_id: WorkspaceId(workspace_id),
            project_id: ProjectId(project_id),
            api_key_id: ApiKeyId(api_key_id),
            content_id,
            received_at,
            source: *Source::ALL.iter().find(|s| s.number() == source).ok_or(DecodeError::Source(source))?,
        };
        Ok((header, is_exempt, sections))
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
