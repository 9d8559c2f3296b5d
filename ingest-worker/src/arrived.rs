//! The bytes of an entry as they were read from Redis, checked once.

use wire::envelope::{DecodeError, Envelope, EnvelopeKey, Header, Unverified, Verified};

/// The bytes of an entry, and whether they are authentic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// An envelope that this deployment has sealed.
    Verified(Verified<Vec<u8>>),
    /// Any other bytes. Nothing they say is believed.
    Unverified(Unverified<Vec<u8>>),
}

impl Arrived {
    /// Checks the bytes with the deployment's envelope key.
    pub fn check(key: &EnvelopeKey, bytes: Vec<u8>) -> Self {
        Verified::check(key, bytes).map_or_else(Self::Unverified, Self::Verified)
    }

    /// The size of the envelope in bytes, which is what read-ahead is bounded by.
    pub fn len(&self) -> usize {
        match self {
            Self::Verified(verified) => verified.bytes().len(),
            Self::Unverified(unverified) => unverified.bytes.len(),
        }
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The envelope's header, which names its org; `None` if the bytes are not authentic.
    pub fn header(&self) -> Option<&Header> {
        match self {
            Self::Verified(verified) => Some(verified.header()),
            Self::Unverified(_) => None,
        }
    }

    /// The envelope with its rows. Fails if the bytes are not authentic or cannot be read.
    pub fn decode(&self) -> Result<Envelope<'_>, DecodeError> {
        match self {
            Self::Verified(verified) => verified.decode(),
            Self::Unverified(unverified) => Err(unverified.error.clone()),
        }
    }
}
