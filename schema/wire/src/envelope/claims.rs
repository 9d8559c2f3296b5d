//! What bytes say of themselves that look like an envelope: for counting and for showing. Nothing is stored, billed,
//! parked or attributed to an org by it; that takes a [`super::Verified`].

use super::read::Reader;
use super::{DecodeError, Header};
use crate::tables::BILLING_METER;
use model::meter::Meter;
use model::trace::UnixNanos;

/// What an envelope claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Whose it is.
    pub header: Header,
    /// How many runs and spans its org is billed for.
    pub items: u64,
}

/// What bytes claim; also of an envelope that lacks some of its sections.
pub fn claims(bytes: &[u8]) -> Result<Claims, DecodeError> {
    let (header, ..) = Reader::new(bytes).header()?;
    Ok(Claims { header, items: billed(bytes, Meter::SpanIngested)? })
}

/// When the edge read its request, as an envelope says that begins with these bytes.
pub fn claimed_received_at(bytes: &[u8]) -> Option<UnixNanos> {
    Reader::new(bytes).header().ok().map(|(header, ..)| header.received_at)
}

/// How much of a meter the billing rows name.
pub(super) fn billed(bytes: &[u8], meter: Meter) -> Result<u64, DecodeError> {
    let mut sum = 0_u64;
    let mut failed = None;
    each_section(bytes, |table, section| {
        if table == BILLING_METER.id {
            match Reader::new(section).section() {
                Ok(section) => sum = sum.saturating_add(section.billed(meter)),
                Err(error) => failed = Some(error),
            }
        }
    })?;
    failed.map_or(Ok(sum), Err)
}

/// Goes through the sections without reading them: the number of the table, and the section from its first byte to its
/// last.
pub(super) fn each_section<'a>(bytes: &'a [u8], mut see: impl FnMut(u8, &'a [u8])) -> Result<(), DecodeError> {
    let mut reader = Reader::new(bytes);
    let (_, _, count) = reader.header()?;
    for _ in 0..count {
        let from = reader.at();
        let [table] = reader.array()?;
        // Its version and how many rows it has.
        reader.take(2 + 4)?;
        let length = reader.u32()? as usize;
        reader.take(length)?;
        see(table, &bytes[from..reader.at()]);
    }
    match reader.left() {
        0 => Ok(()),
        left => Err(DecodeError::Trailing(left)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verified;
    use super::super::tests::{header, key, sample};
    use super::*;

    #[test]
    fn an_envelope_says_whose_it_is_and_what_it_bills() {
        let mut bytes = sample(5);
        assert_eq!(claims(&bytes).unwrap(), Claims { header: header(), items: 9 });
        assert_eq!(Verified::check(&key(), &bytes).unwrap().billed(Meter::SpanIngested), Ok(9));
        assert_eq!(claimed_received_at(&bytes[..128]), Some(header().received_at));
        assert_eq!((claimed_received_at(&bytes[..100]), claimed_received_at(&[b'x'; 200])), (None, None));
        // A claim is what the bytes say, whoever has written them.
        bytes[4 + 16] ^= 1;
        assert_ne!(claims(&bytes).unwrap().header.org_id, header().org_id);
    }

    #[test]
    fn what_is_no_envelope_claims_nothing() {
        let bytes = sample(2);
        for end in 0..bytes.len() {
            assert!(claims(&bytes[..end]).is_err(), "cut at {end}");
        }
        assert_eq!(claims(&[&bytes[..], b"x"].concat()), Err(DecodeError::Trailing(1)));
    }
}
