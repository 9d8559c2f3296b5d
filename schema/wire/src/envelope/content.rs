//! Which request an envelope is made of.

use std::fmt;

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// What a request says, in 16 bytes: a client that sends the same once more, because it has not heard the answer, makes
/// an envelope of another id and time and of the same content.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentId(pub [u8; 16]);

impl ContentId {
    /// Of what is no request, or may be sent twice and be meant twice. It is never taken for a repetition.
    pub const NONE: Self = Self([0; 16]);

    /// Of a body, and of everything beside it that decides what the body means and whose it is.
    ///
    /// XXH3 is no cryptographic hash: who wants two bodies of one id can make them. Both are of one API key, so that is
    /// who loses the second.
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
    fn the_same_request_has_the_same_id_and_no_other_has() {
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
