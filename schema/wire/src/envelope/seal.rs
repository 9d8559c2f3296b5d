//! The code that proves that a process of this deployment has written an envelope.
//!
//! It is made in two steps, because a cryptographic hash over all rows would cost more than everything else that a
//! worker does with a span. XXH3 under a secret of 192 bytes reduces the sections to 16 bytes; keyed BLAKE2b
//! authenticates these and the header. The 16 bytes are not in the envelope, so a client without the key never sees a
//! result of XXH3. `docs/decisions/0012-envelopes-are-authenticated.md` says how strong this is and what it costs.

use std::fmt;
use std::sync::Arc;

use blake2::Blake2bMac;
use blake2::digest::consts::{U16, U64};
use blake2::digest::{FixedOutput, KeyInit, Mac};
use subtle::ConstantTimeEq;
use xxhash_rust::xxh3::{SecretInput, xxh3_128_with_secret_input};

/// Size of the secret that an [`EnvelopeKey`] is made of, in bytes.
pub const ENVELOPE_KEY_BYTES: usize = 32;
/// Size of the code that authenticates an envelope, in bytes.
pub(super) const SEAL_BYTES: usize = 16;
/// Size of BLAKE2b's key block, in bytes.
const KEY_BLOCK_BYTES: usize = 64;
/// Size of XXH3's secret, in bytes: its own default, which its loop is laid out for.
const XXH3_SECRET_BYTES: usize = 192;

/// The key with which a deployment seals and checks its envelopes. With this key one can make an envelope of any org.
/// Cheap to clone; never printed.
#[derive(Clone)]
pub struct EnvelopeKey(Arc<Keys>);

struct Keys {
    /// BLAKE2b that has read its key already, to be cloned.
    mac: Blake2bMac<U16>,
    secret: SecretInput<[u8; XXH3_SECRET_BYTES]>,
}

impl EnvelopeKey {
    /// Derives the key from a deployment's secret, all of whose bytes must be random.
    pub fn new(secret: &[u8; ENVELOPE_KEY_BYTES]) -> Self {
        let mut key_block = [0; KEY_BLOCK_BYTES];
        key_block[..ENVELOPE_KEY_BYTES].copy_from_slice(secret);
        // Each derived part serves one purpose only.
        let derive = |purpose: &[u8]| -> [u8; 64] {
            let mut mac = Blake2bMac::<U64>::new(&key_block.into());
            mac.update(purpose);
            mac.finalize_fixed().into()
        };
        let mut xxh3 = [0; XXH3_SECRET_BYTES];
        for (part, number) in xxh3.chunks_exact_mut(64).zip(*b"012") {
            part.copy_from_slice(&derive(&[b"envelope sections ", &[number][..]].concat()));
        }
        let mac = Blake2bMac::<U16>::new(&derive(b"envelope header").into());
        Self(Arc::new(Keys { mac, secret: SecretInput::new(xxh3) }))
    }

    /// Writes a valid code into those bytes, for tests of what an attacker with the key could do.
    pub fn sealed(&self, bytes: Vec<u8>) -> Vec<u8> {
        if bytes.len() < super::HEADER_BYTES { bytes } else { super::verified::seal(self, bytes) }
    }

    /// The code over a header, up to the place of the code, and over the sections.
    pub(super) fn seal(&self, header: &[u8], sections: &[u8]) -> [u8; SEAL_BYTES] {
        let mut mac = self.0.mac.clone();
        mac.update(header);
        mac.update(&xxh3_128_with_secret_input(sections, &self.0.secret).to_le_bytes());
        mac.finalize_fixed().into()
    }

    /// Whether that is the right code. The time of the check does not depend on how many bytes are right.
    pub(super) fn is_seal(&self, seal: &[u8], header: &[u8], sections: &[u8]) -> bool {
        self.seal(header, sections).ct_eq(seal).into()
    }
}

impl fmt::Debug for EnvelopeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EnvelopeKey(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_depends_on_every_byte_and_on_the_key() {
        let key = EnvelopeKey::new(&[1; ENVELOPE_KEY_BYTES]);
        let (header, sections) = ([2_u8; 110], [3_u8; 1_000]);
        let seal = key.seal(&header, &sections);
        assert!(key.is_seal(&seal, &header, &sections));
        assert!(EnvelopeKey::new(&[1; ENVELOPE_KEY_BYTES]).is_seal(&seal, &header, &sections), "the same key");
        assert!(!EnvelopeKey::new(&[9; ENVELOPE_KEY_BYTES]).is_seal(&seal, &header, &sections), "another key");
        assert!(!key.is_seal(&seal[..8], &header, &sections), "half of it");
        for at in 0..header.len() {
            let mut changed = header;
            changed[at] ^= 1;
            assert!(!key.is_seal(&seal, &changed, &sections), "byte {at} of the header");
        }
        for at in 0..sections.len() {
            let mut changed = sections;
            changed[at] ^= 1;
            assert!(!key.is_seal(&seal, &header, &changed), "byte {at} of the sections");
        }
    }

    #[test]
    fn a_key_is_not_printed() {
        assert_eq!(format!("{:?}", EnvelopeKey::new(&[65; ENVELOPE_KEY_BYTES])), "EnvelopeKey(***)");
    }
}
