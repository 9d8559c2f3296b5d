//! The content id: recognises a client's retry of a request.

use std::fmt;

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// What a request says, as a hash of 16 bytes. A client that sends the same request again, because it got no answer,
/// makes an envelope with another id and time and with the same content id.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentId(pub [u8; 16]);

impl ContentId {
    /// For an envelope that is not made of a client's request, or whose request may be sent twice on purpose. It never
    /// counts as repeated.
    pub const NONE: Self = Self([0; 16]);

    /// The hash of a body, and of everything beside it that decides what the body means and which API key sent it.
    ///
    /// XXH3 is not a cryptographic hash: a client that wants two bodies with the same id can make them. Both bodies are
    /// then of one API key, and only that client loses the second.
    pub fn of(beside: &[&[u8]], body: &[u8]) -> Self {
        let mut hash = Xxh3::new();
        for part in beside {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.update(&xxh3_128(body).to_le_bytes());
        Self(hash.digest128().to_le_bytes())
    }

    /// Whether it is [`Self::NONE`].
    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }
}

impl fmt::Debug for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentId({:032x})", u128::from_be_bytes(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_id_is_equal_only_for_the_same_request() {
        let id = ContentId::of(&[b"org", b"key"], b"body");
        assert_eq!(ContentId::of(&[b"org", b"key"], b"body"), id);
        assert!(!id.is_none() && ContentId::NONE.is_none());
        for (beside, body) in [
            (&[&b"org"[..], b"kez"][..], &b"body"[..]),
            (&[b"org", b"key"], b"bodz"),
            (&[b"orgk", b"ey"], b"body"),
            (&[b"org", b"key", b""], b"body"),
            (&[], b""),
        ] {
            assert_ne!(ContentId::of(beside, body), id, "{beside:?}");
        }
    }
}
