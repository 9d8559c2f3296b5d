//! What can be asked of an envelope's bytes, and done to them, without reading its rows: also by a release that does not know
//! its tables.

use uuid::Uuid;

use super::{DecodeError, EXEMPT, MAGIC, Reader, SECTIONS_AT, SOURCE_AT};
use crate::ids::OrgId;
use crate::model::UnixNanos;

const ORG_AT: usize = MAGIC.len() + 16;
const RECEIVED_AT: usize = MAGIC.len() + 5 * 16;

/// Whose an envelope is. `None` if it is none.
pub fn org_of(bytes: &[u8]) -> Option<OrgId> {
    field(bytes, ORG_AT).map(|org: [u8; 16]| OrgId(Uuid::from_bytes(org)))
}

/// When the edge read its request. `None` if it is no envelope.
pub fn received_at_of(bytes: &[u8]) -> Option<UnixNanos> {
    field(bytes, RECEIVED_AT).map(i64::from_le_bytes)
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    let field = bytes.get(at..at + N)?;
    bytes.starts_with(MAGIC).then(|| field.try_into().ok())?
}

/// Has an envelope stored even if its org is over a monthly limit. Does nothing to what is none.
pub fn exempt(bytes: &mut [u8]) {
    if bytes.starts_with(MAGIC)
        && let Some(source) = bytes.get_mut(SOURCE_AT)
    {
        *source |= EXEMPT;
    }
}

/// The same envelope with its rows of those tables, by number, and no others.
pub fn keep_tables(bytes: &[u8], tables: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let head = reader.take(SECTIONS_AT)?;
    if !head.starts_with(MAGIC) {
        return Err(DecodeError::Magic);
    }
    let [count] = reader.array()?;
    let mut kept = Vec::with_capacity(bytes.len());
    kept.extend_from_slice(head);
    kept.push(0);
    for _ in 0..count {
        let from = reader.at();
        let [table] = reader.array()?;
        // Its version and how many rows it has, which are kept as they are.
        reader.take(2 + 4)?;
        let length = reader.u32()? as usize;
        reader.take(length)?;
        if tables.contains(&table) {
            kept[SECTIONS_AT] += 1;
            kept.extend_from_slice(&bytes[from..reader.at()]);
        }
    }
    match reader.left() {
        0 => Ok(kept),
        left => Err(DecodeError::Trailing(left)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Envelope;
    use super::super::tests::{header, sample};
    use super::*;
    use crate::tables::{BILLING_METER, RUN, SPAN};

    #[test]
    fn the_header_is_read_alone() {
        let bytes = sample(5);
        assert_eq!(org_of(&bytes), Some(header().org_id));
        assert_eq!(received_at_of(&bytes), Some(header().received_at));
        assert_eq!((org_of(&bytes[..30]), received_at_of(&bytes[..90])), (None, None));
        assert_eq!(org_of(b"something else, but as long as a header"), None);
    }

    #[test]
    fn an_exempt_envelope_is_the_same_otherwise() {
        let mut bytes = sample(5);
        let before = Envelope::decode(&bytes).unwrap().header;
        exempt(&mut bytes);
        let after = Envelope::decode(&bytes).unwrap();
        assert_eq!((after.header, after.is_exempt, after.sections.len()), (before, true, 3));
        assert!(!Envelope::decode(&sample(5)).unwrap().is_exempt);
        let kept = keep_tables(&bytes, &[SPAN.id]).unwrap();
        assert!(Envelope::decode(&kept).unwrap().is_exempt);
        let mut other = *b"no envelope";
        exempt(&mut other);
        assert_eq!(&other, b"no envelope");
    }

    #[test]
    fn only_the_named_tables_are_kept() {
        let bytes = sample(5);
        let whole = Envelope::decode(&bytes).unwrap();
        let kept = keep_tables(&bytes, &[RUN.id, BILLING_METER.id, 99]).unwrap();
        let kept = Envelope::decode(&kept).unwrap();
        assert_eq!(kept.header, whole.header);
        let tables: Vec<_> = kept.sections.iter().map(|s| (s.table.name, s.rows)).collect();
        assert_eq!(tables, [("run", 1), ("billing_meter", 1)]);
        assert_eq!(kept.expanded_len() + whole.sections[0].expanded_len(), whole.expanded_len());
        assert_eq!(keep_tables(&bytes, &[SPAN.id, RUN.id, BILLING_METER.id]).unwrap(), bytes);
        assert!(Envelope::decode(&keep_tables(&bytes, &[]).unwrap()).unwrap().sections.is_empty());
    }

    #[test]
    fn what_is_no_envelope_is_not_cut() {
        let bytes = sample(2);
        for end in 0..bytes.len() {
            assert!(keep_tables(&bytes[..end], &[SPAN.id]).is_err(), "cut at {end}");
        }
        assert_eq!(keep_tables(&[&bytes[..], b"x"].concat(), &[]).unwrap_err(), DecodeError::Trailing(1));
        assert_eq!(keep_tables(&[b'x'; 200], &[]).unwrap_err(), DecodeError::Magic);
    }
}
