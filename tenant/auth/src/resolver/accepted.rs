//! Secrets that argon2 has accepted, as digests that processes may share: only this deployment can create one.

use std::fmt;

use blake2::Blake2bMac;
use blake2::digest::consts::U32;
use blake2::digest::{FixedOutput, KeyInit, Mac};
use stores::secret::{REDACTED, Secret};
use subtle::ConstantTimeEq;

/// Bytes of the cache key, and of a digest.
pub(super) const CACHE_KEY_BYTES: usize = 32;

/// The secret of this deployment that shared digests are made with; see `deployment` in the registry.
#[derive(Clone, PartialEq, Eq)]
pub struct CacheKey(Secret<[u8; CACHE_KEY_BYTES]>);

impl CacheKey {
    /// Wraps the bytes from the registry.
    pub const fn new(bytes: [u8; CACHE_KEY_BYTES]) -> Self {
        Self(Secret::new(bytes))
    }

    /// A digest over `parts`, each preceded by its length, for one `purpose`.
    pub(super) fn digest(&self, purpose: &[u8], parts: &[&[u8]]) -> [u8; CACHE_KEY_BYTES] {
        let mut padded = [0; 64];
        padded[..CACHE_KEY_BYTES].copy_from_slice(self.0.expose());
        let mut mac = Blake2bMac::<U32>::new(&padded.into());
        for part in std::iter::once(&purpose).chain(parts) {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac.finalize_fixed().into()
    }

    /// The digest that stands for a secret accepted for that key.
    pub fn accept(&self, public_id: &str, secret: &str) -> AcceptedSecret {
        let digest = self.digest(b"accepted secret", &[public_id.as_bytes(), secret.as_bytes()]);
        AcceptedSecret { key: self.clone(), digest }
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

/// A secret that argon2 has accepted, as a digest.
#[derive(Clone, Debug)]
pub struct AcceptedSecret {
    key: CacheKey,
    digest: [u8; CACHE_KEY_BYTES],
}

impl AcceptedSecret {
    /// A digest that was read from the shared cache.
    pub(super) const fn new(key: CacheKey, digest: [u8; CACHE_KEY_BYTES]) -> Self {
        Self { key, digest }
    }

    /// The digest, to be written to the shared cache.
    pub(super) const fn digest(&self) -> &[u8; CACHE_KEY_BYTES] {
        &self.digest
    }

    /// Whether this is the digest of `secret`. Compares in constant time.
    pub fn is(&self, public_id: &str, secret: &str) -> bool {
        self.key.accept(public_id, secret).digest.ct_eq(&self.digest).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_key_id_and_secret_are_accepted() {
        let key = CacheKey::new([7; CACHE_KEY_BYTES]);
        let accepted = key.accept("id", "secret");
        assert!(accepted.is("id", "secret"));
        for (public_id, secret) in [("id", "secres"), ("ids", "ecret"), ("", "idsecret"), ("id", "")] {
            assert!(!accepted.is(public_id, secret), "{public_id} {secret}");
        }
        let elsewhere = AcceptedSecret::new(CacheKey::new([8; CACHE_KEY_BYTES]), *accepted.digest());
        assert!(!elsewhere.is("id", "secret"), "made with another key");
        assert_eq!(format!("{key:?}"), REDACTED);
    }
}
