//! An envelope that this deployment has written. There is no other way to an envelope's rows.

use model::meter::Meter;

use super::read::Reader;
use super::{
    CONTENT_AT, ContentId, DecodeError, EXEMPT, EXPANDED_BYTES_MAX, Envelope, EnvelopeKey, HEADER_BYTES, Header,
    SEAL_AT, SECTIONS_AT, SOURCE_AT, claims,
};

/// The bytes of an envelope whose code was checked: a process with the deployment's key has written every one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<B> {
    bytes: B,
    header: Header,
    is_exempt: bool,
}

/// Bytes that are not [`Verified`]. Nothing they say may be believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unverified<B> {
    /// The bytes that [`Verified::check`] was given, to be handed on as they are.
    pub bytes: B,
    /// Why the check failed.
    pub error: DecodeError,
}

impl<B: AsRef<[u8]>> Verified<B> {
    /// Checks the code of bytes that may be an envelope.
    pub fn check(key: &EnvelopeKey, bytes: B) -> Result<Self, Unverified<B>> {
        match authenticate(key, bytes.as_ref()) {
            Ok((header, is_exempt)) => Ok(Self { bytes, header, is_exempt }),
            Err(error) => Err(Unverified { bytes, error }),
        }
    }

    /// The tenant and the request of the envelope.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The bytes of the whole envelope.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    /// Whether the rows are stored even if the org is over a monthly limit.
    pub fn is_exempt(&self) -> bool {
        self.is_exempt
    }

    /// Decodes the rows. Fails if this release does not know one of the tables, or if there are more rows than an
    /// envelope may have.
    pub fn decode(&self) -> Result<Envelope<'_>, DecodeError> {
        decode(self.bytes.as_ref(), self.header, self.is_exempt)
    }

    /// The amount of a meter that the billing rows name. Reads nothing else of the envelope.
    pub fn billed(&self, meter: Meter) -> Result<u64, DecodeError> {
        claims::billed(self.bytes.as_ref(), meter)
    }

    /// The same envelope, marked to be stored even if its org is over a monthly limit.
    pub fn exempt(&self, key: &EnvelopeKey) -> Vec<u8> {
        let mut bytes = self.bytes.as_ref().to_vec();
        bytes[SOURCE_AT] |= EXEMPT;
        forget_content(&mut bytes);
        seal(key, bytes)
    }

    /// The same envelope with the rows of those tables only, which are named by number. Also works for tables of
    /// another release.
    pub fn keep_tables(&self, key: &EnvelopeKey, tables: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let bytes = self.bytes.as_ref();
        let mut kept = Vec::with_capacity(bytes.len());
        kept.extend_from_slice(&bytes[..HEADER_BYTES]);
        kept[SECTIONS_AT] = 0;
        claims::each_section(bytes, |table, section| {
            if tables.contains(&table) {
                kept[SECTIONS_AT] += 1;
                kept.extend_from_slice(section);
            }
        })?;
        forget_content(&mut kept);
        Ok(seal(key, kept))
    }
}

fn authenticate(key: &EnvelopeKey, bytes: &[u8]) -> Result<(Header, bool), DecodeError> {
    let (header, is_exempt, _) = Reader::new(bytes).header()?;
    let (head, sections) = bytes.split_at(HEADER_BYTES);
    let (signed, code) = head.split_at(SEAL_AT);
    if key.is_seal(code, signed, sections) { Ok((header, is_exempt)) } else { Err(DecodeError::Unauthenticated) }
}

/// The sections of authenticated bytes. Each is checked as far as it takes to append it to a block.
pub(super) fn decode(bytes: &[u8], header: Header, is_exempt: bool) -> Result<Envelope<'_>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let (_, _, count) = reader.header()?;
    let sections = (0..count).map(|_| reader.section()).collect::<Result<_, _>>()?;
    if reader.left() > 0 {
        return Err(DecodeError::Trailing(reader.left()));
    }
    let envelope = Envelope { header, is_exempt, sections };
    match envelope.expanded_len() {
        ..=EXPANDED_BYTES_MAX => Ok(envelope),
        expanded => Err(DecodeError::Expanded(expanded)),
    }
}

/// An envelope that goes back to a stream was in one before, and must not count as a client's retry of itself.
fn forget_content(bytes: &mut [u8]) {
    bytes[CONTENT_AT..CONTENT_AT + ContentId::NONE.0.len()].copy_from_slice(&ContentId::NONE.0);
}

/// Computes the code and writes it into the envelope's bytes.
pub(super) fn seal(key: &EnvelopeKey, mut bytes: Vec<u8>) -> Vec<u8> {
    let (header, sections) = bytes.split_at(HEADER_BYTES);
    let code = key.seal(&header[..SEAL_AT], sections);
    bytes[SEAL_AT..HEADER_BYTES].copy_from_slice(&code);
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::tests::{header, key, sample};
    use super::*;
    use crate::tables::{BILLING_METER, RUN, SPAN};

    fn verified(bytes: &[u8]) -> Verified<&[u8]> {
        Verified::check(&key(), bytes).unwrap()
    }

    /// The header of an envelope that goes back to a stream: it has no content id.
    fn header_without_content() -> Header {
        Header { content_id: ContentId::NONE, ..header() }
    }

    #[test]
    fn marking_an_envelope_exempt_changes_nothing_else() {
        let bytes = sample(5);
        assert!(!verified(&bytes).is_exempt());
        let exempt = verified(&bytes).exempt(&key());
        let exempt = verified(&exempt);
        assert_eq!((*exempt.header(), exempt.is_exempt()), (header_without_content(), true));
        assert_eq!(exempt.decode().unwrap().sections.len(), 3);
        let kept = exempt.keep_tables(&key(), &[SPAN.id]).unwrap();
        assert!(verified(&kept).is_exempt());
    }

    #[test]
    fn only_the_named_tables_are_kept() {
        let bytes = sample(5);
        let (whole, rows) = (verified(&bytes), Envelope::decode(&key(), &bytes).unwrap());
        let kept = whole.keep_tables(&key(), &[RUN.id, BILLING_METER.id, 99]).unwrap();
        let kept = Envelope::decode(&key(), &kept).unwrap();
        assert_eq!(kept.header, header_without_content());
        let tables: Vec<_> = kept.sections.iter().map(|s| (s.table.name, s.rows)).collect();
        assert_eq!(tables, [("run", 1), ("billing_meter", 1)]);
        assert_eq!(kept.expanded_len() + rows.sections[0].expanded_len(), rows.expanded_len());
        let all = whole.keep_tables(&key(), &[SPAN.id, RUN.id, BILLING_METER.id]).unwrap();
        assert_eq!(all[HEADER_BYTES..], bytes[HEADER_BYTES..]);
        let none = whole.keep_tables(&key(), &[]).unwrap();
        assert!(Envelope::decode(&key(), &none).unwrap().sections.is_empty());
    }

    #[test]
    fn a_failed_check_returns_the_bytes() {
        for bytes in [&b""[..], b"TBE2", &[b'x'; 500]] {
            assert_eq!(Verified::check(&key(), bytes.to_vec()).unwrap_err().bytes, bytes);
        }
    }
}
