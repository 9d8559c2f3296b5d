//! An envelope that this deployment has written. There is no other way to its rows.

use super::read::Reader;
use super::{
    CONTENT_AT, ContentId, DecodeError, EXEMPT, EXPANDED_BYTES_MAX, Envelope, EnvelopeKey, HEADER_BYTES, Header,
    SEAL_AT, SECTIONS_AT, SOURCE_AT, claims,
};
use model::meter::Meter;

/// The bytes of an envelope whose code was checked: from its first byte to its last they are what the edge wrote, or
/// what somebody with the key made of that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<B> {
    bytes: B,
    header: Header,
    is_exempt: bool,
}

/// Bytes that are not [`Verified`]. Nothing that they say may be believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unverified<B> {
    /// As they came.
    pub bytes: B,
    /// Why.
    pub error: DecodeError,
}

impl<B: AsRef<[u8]>> Verified<B> {
    /// Checks bytes that may be an envelope.
    pub fn check(key: &EnvelopeKey, bytes: B) -> Result<Self, Unverified<B>> {
        match authenticate(key, bytes.as_ref()) {
            Ok((header, is_exempt)) => Ok(Self { bytes, header, is_exempt }),
            Err(error) => Err(Unverified { bytes, error }),
        }
    }

    /// Whose it is.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    /// Whether its rows are stored even if its org is over a monthly limit.
    pub fn is_exempt(&self) -> bool {
        self.is_exempt
    }

    /// Its rows. Fails if they are of a table that this release does not know, or more than any edge puts into one.
    pub fn decode(&self) -> Result<Envelope<'_>, DecodeError> {
        decode(self.bytes.as_ref(), self.header, self.is_exempt)
    }

    /// How much of a meter its billing rows name. Reads nothing else of it.
    pub fn billed(&self, meter: Meter) -> Result<u64, DecodeError> {
        claims::billed(self.bytes.as_ref(), meter)
    }

    /// The same envelope, to be stored even if its org is over a monthly limit.
    pub fn exempt(&self, key: &EnvelopeKey) -> Vec<u8> {
        let mut bytes = self.bytes.as_ref().to_vec();
        bytes[SOURCE_AT] |= EXEMPT;
        forget_content(&mut bytes);
        seal(key, bytes)
    }

    /// The same envelope with its rows of those tables, by number, and no others. Also when a table is of another
    /// release.
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

/// The sections of bytes that were authenticated, each looked into as far as it takes to know that it can be appended.
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

/// What comes back to a stream was in it before, and must not be taken for a client's retry of itself.
fn forget_content(bytes: &mut [u8]) {
    bytes[CONTENT_AT..CONTENT_AT + ContentId::NONE.0.len()].copy_from_slice(&ContentId::NONE.0);
}

/// Writes the code over an envelope's bytes into its place.
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

    /// That of what comes back to a stream: it is no retry of itself.
    fn header_without_content() -> Header {
        Header { content_id: ContentId::NONE, ..header() }
    }

    #[test]
    fn an_exempt_envelope_is_the_same_otherwise() {
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
    fn bytes_come_back_that_are_no_envelope() {
        for bytes in [&b""[..], b"TBE2", &[b'x'; 500]] {
            assert_eq!(Verified::check(&key(), bytes.to_vec()).unwrap_err().bytes, bytes);
        }
    }
}
