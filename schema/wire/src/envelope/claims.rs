//! What bytes that look like an envelope say about themselves, unchecked: for counting and for display. Nothing is
//! stored, billed, parked or attributed to an org because of it; that takes a [`super::Verified`].

use model::meter::Meter;
use model::trace::UnixNanos;

use super::read::Reader;
use super::{DecodeError, Header};
use crate::tables::BILLING_METER;

/// What unchecked bytes say about themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The tenant and the request that the bytes name.
    pub header: Header,
    /// How many runs and spans the billing rows name.
    pub items: u64,
}

/// Reads what the bytes say about themselves. The envelope may lack some of its sections.
pub fn claims(bytes: &[u8]) -> Result<Claims, DecodeError> {
    let (header, ..) = Reader::new(bytes).header()?;
    Ok(Claims { header, items: billed(bytes, Meter::SpanIngested)? })
}

/// When the request was received, according to these first bytes of an envelope.
pub fn claimed_received_at(bytes: &[u8]) -> Option<UnixNanos> {
    Reader::new(bytes).header().ok().map(|(header, ..)| header.received_at)
}

/// The amount of a meter that the billing rows name.
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

/// Goes through the sections without decoding them. `see` gets the number of the table and the bytes of the section.
pub(super) fn each_section<'a>(bytes: &'a [u8], mut see: impl FnMut(u8, &'a [u8])) -> Result<(), DecodeError> {
    let mut reader = Reader::new(bytes);
    let (_, _, count) = reader.header()?;
    for _ in 0..count {
        let from = reader.at();
        let [table] = reader.array()?;
        // The table's version and the number of rows.
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
    fn the_claims_of_an_envelope_are_its_org_and_billed_amounts() {
        let mut bytes = sample(5);
        assert_eq!(claims(&bytes).unwrap(), Claims { header: header(), items: 9 });
        assert_eq!(Verified::check(&key(), &bytes).unwrap().billed(Meter::SpanIngested), Ok(9));
        assert_eq!(claimed_received_at(&bytes[..128]), Some(header().received_at));
        assert_eq!((claimed_received_at(&bytes[..100]), claimed_received_at(&[b'x'; 200])), (None, None));
        // Claims are what the bytes say, even if the code does not fit.
        bytes[4 + 16] ^= 1;
        assert_ne!(claims(&bytes).unwrap().header.org_id, header().org_id);
    }

    #[test]
    fn bytes_that_are_no_envelope_have_no_claims() {
        let bytes = sample(2);
        for end in 0..bytes.len() {
            assert!(claims(&bytes[..end]).is_err(), "cut at {end}");
        }
        assert_eq!(claims(&[&bytes[..], b"x"].concat()), Err(DecodeError::Trailing(1)));
    }
}
