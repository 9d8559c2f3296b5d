//! API keys: `tb_<public_id>.<secret>`.
//!
//! The public id (96 random bits, hex) finds the row and may be shown; the secret (256 random bits, hex) exists in
//! clear only where it was issued and in the client. At rest there is an argon2id hash of it.

use std::fmt;
use std::sync::LazyLock;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use stores::secret::{REDACTED, Secret};
use thiserror::Error;

/// The start of every key, so that scanners for leaked secrets can find one.
pub const KEY_PREFIX: &str = "tb_";
/// Hex digits of a public id: 96 bits.
pub const PUBLIC_ID_LEN: usize = 24;
/// Hex digits of a secret: 256 bits.
pub const SECRET_LEN: usize = 64;
/// The length of a whole key.
pub const KEY_LEN: usize = KEY_PREFIX.len() + PUBLIC_ID_LEN + 1 + SECRET_LEN;

/// Memory of one hashing, in KiB. A slow hash protects secrets that people choose; ours have 256 random bits, which
/// cannot be searched at any cost per guess. So the cost should stay negligible: with 1 MiB a hashing takes well under
/// a millisecond, and ten thousand keys that are each verified once a minute take a small part of one core.
pub const HASH_MEMORY_KIB: u32 = 1024;
/// Passes over that memory.
pub const HASH_PASSES: u32 = 2;

/// A key as the client sent it: parsed, but not yet verified. Borrowed from the request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PresentedKey<'a> {
    public_id: &'a str,
    secret: &'a str,
}

/// Why a text cannot be a key; found without asking the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyFormatError {
    /// The text is not [`KEY_LEN`] bytes long.
    #[error("an API key has {KEY_LEN} characters")]
    Length,
    /// The text does not start with [`KEY_PREFIX`]: another product's key, or a part of one.
    #[error("an API key starts with {KEY_PREFIX}")]
    Prefix,
    /// The dot is missing, or a part is not lower-case hex.
    #[error("an API key looks like tb_<public id>.<secret>, both in lower-case hex")]
    Shape,
}

impl<'a> PresentedKey<'a> {
    /// Parses a key. The length is checked first, so that the work is bounded for any input.
    pub fn parse(text: &'a str) -> Result<Self, KeyFormatError> {
        let rest = text.strip_prefix(KEY_PREFIX).ok_or(KeyFormatError::Prefix)?;
        if text.len() != KEY_LEN {
            return Err(KeyFormatError::Length);
        }
        let (public_id, secret) = rest.split_once('.').ok_or(KeyFormatError::Shape)?;
        if is_public_id(public_id) && is_hex(secret) {
            Ok(Self { public_id, secret })
        } else {
            Err(KeyFormatError::Shape)
        }
    }

    /// The public half, by which the registry finds the key.
    pub const fn public_id(&self) -> &'a str {
        self.public_id
    }

    /// The secret half, which proves the key. Never pass it to a log, an error or a metric.
    pub const fn secret(&self) -> &'a str {
        self.secret
    }
}

impl fmt::Debug for PresentedKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{KEY_PREFIX}{}.{REDACTED}", self.public_id)
    }
}

/// Whether a text has the form of a public id.
pub fn is_public_id(text: &str) -> bool {
    text.len() == PUBLIC_ID_LEN && is_hex(text)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A new key. Has no `Display`; [`IssuedKey::reveal`] is the only way to the whole key, and it is meant to be used
/// once.
pub struct IssuedKey {
    public_id: String,
    full: Secret<String>,
}

impl IssuedKey {
    /// Creates a key from the operating system's random numbers; fails only if there are none.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let (mut public, mut secret) = ([0; PUBLIC_ID_LEN / 2], [0; SECRET_LEN / 2]);
        getrandom::fill(&mut public)?;
        getrandom::fill(&mut secret)?;
        let public_id = hex(&public);
        let full = format!("{KEY_PREFIX}{public_id}.{}", hex(&secret));
        Ok(Self { public_id, full: Secret::new(full) })
    }

    /// The whole key, to be shown once to the person who asked for it.
    pub fn reveal(&self) -> &str {
        self.full.expose()
    }

    /// The public half, which may be shown at any time.
    pub fn public_id(&self) -> &str {
        &self.public_id
    }

    /// The first characters of the key, by which people recognise it in a list.
    pub fn prefix(&self) -> &str {
        const SHOWN: usize = 8;
        &self.full.expose()[..KEY_PREFIX.len() + SHOWN]
    }

    /// The last four characters, by which people recognise a key in a list.
    pub fn last_four(&self) -> &str {
        let full = self.full.expose();
        &full[full.len() - 4..]
    }

    /// The hash to store. Costs about a millisecond of CPU.
    pub fn hash(&self) -> Result<String, HashError> {
        hash(&self.full.expose()[KEY_LEN - SECRET_LEN..])
    }
}

impl fmt::Debug for IssuedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{KEY_PREFIX}{}.{REDACTED}", self.public_id)
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

/// A hash that cannot be created or parsed: a broken row, never a wrong secret.
#[derive(Clone, Copy, Debug, Error)]
#[error("the stored hash of an API key is not a valid argon2 hash: {0}")]
pub struct HashError(#[from] argon2::password_hash::Error);

/// The hash of a secret, to be stored. Costs about a millisecond of CPU.
pub(crate) fn hash(secret: &str) -> Result<String, HashError> {
    Ok(hasher().hash_password(secret.as_bytes())?.to_string())
}

/// Whether `hash` is the hash of `secret`. Costs about a millisecond of CPU: do not call it on an async thread.
pub fn verify(secret: &str, hash: &str) -> Result<bool, HashError> {
    let hash = PasswordHash::new(hash).map_err(argon2::password_hash::Error::from)?;
    match hasher().verify_password(secret.as_bytes(), &hash) {
        Ok(()) => Ok(true),
        Err(argon2::password_hash::Error::PasswordInvalid) => Ok(false),
        Err(error) => Err(HashError(error)),
    }
}

fn hasher() -> &'static Argon2<'static> {
    static HASHER: LazyLock<Argon2<'static>> = LazyLock::new(|| {
        // The parameters are constants within argon2's bounds (a test makes a key), so the default is never used.
        let params = Params::new(HASH_MEMORY_KIB, HASH_PASSES, 1, None).unwrap_or_default();
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
    });
    &HASHER
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_recognised_by_its_hash_and_by_nothing_else() {
        let key = IssuedKey::generate().unwrap();
        let hash = key.hash().unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=1024,t=2,p=1$"), "{hash}");
        let presented = PresentedKey::parse(key.reveal()).unwrap();
        assert_eq!(presented.public_id(), key.public_id());
        assert!(key.reveal().ends_with(key.last_four()));
        assert!(verify(presented.secret(), &hash).unwrap());
        assert!(!verify(&"0".repeat(SECRET_LEN), &hash).unwrap());
        assert!(verify(presented.secret(), "not a hash").is_err());
    }

    #[test]
    fn keys_differ_and_print_no_secret() {
        let (a, b) = (IssuedKey::generate().unwrap(), IssuedKey::generate().unwrap());
        assert_ne!(a.reveal(), b.reveal());
        let presented = PresentedKey::parse(a.reveal()).unwrap();
        for printed in [format!("{a:?}"), format!("{presented:?}")] {
            assert_eq!(printed, format!("tb_{}.***", a.public_id()));
        }
    }

    #[test]
    fn a_malformed_key_is_refused_with_its_reason() {
        let good = format!("tb_{}.{}", "a".repeat(24), "0".repeat(64));
        assert!(PresentedKey::parse(&good).is_ok());
        let cases = [
            (String::new(), KeyFormatError::Prefix),
            ("lsv2_pt_0123".to_owned(), KeyFormatError::Prefix),
            ("tb_".to_owned(), KeyFormatError::Length),
            (format!("{good}0"), KeyFormatError::Length),
            (good.repeat(100_000), KeyFormatError::Length),
            (good.replace('.', "0"), KeyFormatError::Shape),
            (good.replacen("00", ".0", 1), KeyFormatError::Shape),
            (good.replacen('a', "A", 1), KeyFormatError::Shape),
            (good.replacen("aa", "é", 1), KeyFormatError::Shape),
        ];
        for (text, error) in cases {
            assert_eq!(PresentedKey::parse(&text), Err(error), "{}", &text[..text.len().min(120)]);
        }
    }
}
