//! The bytes of an entry as they came, checked once.

use wire::envelope::{DecodeError, Envelope, EnvelopeKey, Header, Unverified, Verified};

/// What an entry holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// An envelope of this deployment.
    Verified(Verified<Vec<u8>>),
    /// Anything else, of which nothing is believed.
    Unverified(Unverified<Vec<u8>>),
}

impl Arrived {
    /// Checks what was read.
    pub fn check(key: &EnvelopeKey, bytes: Vec<u8>) -> Self {
        Verified::check(key, bytes).map_or_else(Self::Unverified, Self::Verified)
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Verified(verified) => verified.bytes().len(),
            Self::Unverified(unverified) => unverified.bytes.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whose it is, if that is known.
    pub fn header(&self) -> Option<&Header> {
        match self {
            Self::Verified(verified) => Some(verified.header()),
            Self::Unverified(_) => None,
        }
    }

    /// Its rows.
    pub fn decode(&self) -> Result<Envelope<'_>, DecodeError> {
        match self {
            Self::Verified(verified) => verified.decode(),
            Self::Unverified(unverified) => Err(unverified.error.clone()),
        }
    }
}
