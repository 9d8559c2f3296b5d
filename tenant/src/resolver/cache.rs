//! What a resolver remembers: good keys in one bounded cache, and in another one, so that it cannot evict them, unknown
//! ids, wrong secrets and failed look-ups.
//!
//! Secrets are kept only as BLAKE2b digests under a random key that lives as long as the process. Negatives are found by
//! such digests as well, so nobody outside can aim at a slot.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use blake2::Blake2bMac;
use blake2::digest::consts::U32;
use blake2::digest::{FixedOutput, KeyInit, Mac};
use quick_cache::sync::Cache;
use subtle::ConstantTimeEq;

use super::context::TenantContext;
use super::{KeyRecord, POSITIVE_TTL, ResolveError, STALE_MAX, SourceError};

/// A keyed digest of something that a client presented.
pub(super) type Digest = [u8; 32];

/// A key as the registry knew it when it was loaded.
pub(super) struct Entry {
    pub(super) record: KeyRecord,
    pub(super) context: Arc<TenantContext>,
    /// Held by whoever runs argon2 for this entry.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// The digest of the secret that argon2 accepted.
    verified: OnceLock<Digest>,
    loaded_at: Duration,
}

impl Entry {
    /// An entry loaded now. What argon2 said of `before` still holds if the hash has not changed.
    pub(super) fn new(record: KeyRecord, before: Option<&Self>, now: Duration) -> Self {
        let verified = before.filter(|old| old.record.hash == record.hash).map(|old| old.verified.clone());
        Self {
            context: TenantContext::new(&record),
            record,
            turn: tokio::sync::Mutex::new(()),
            verified: verified.unwrap_or_default(),
            loaded_at: now,
        }
    }

    pub(super) fn is_fresh(&self, now: Duration) -> bool {
        now.saturating_sub(self.loaded_at) < POSITIVE_TTL
    }

    /// Whether it may stand in while the registry cannot be asked.
    pub(super) fn is_usable(&self, now: Duration) -> bool {
        now.saturating_sub(self.loaded_at) < STALE_MAX
    }

    /// Whether a secret of that digest is right; `None` when argon2 has not accepted any yet.
    pub(super) fn verdict(&self, digest: &Digest) -> Option<bool> {
        self.verified.get().map(|verified| verified.ct_eq(digest).into())
    }

    pub(super) fn set_verified(&self, digest: Digest) {
        // Only one secret has that hash, so whoever came first set the same.
        let _same = self.verified.set(digest).is_err();
    }
}

/// Why something is refused without asking.
#[derive(Clone)]
pub(super) enum Negative {
    /// An unknown id, or a wrong secret.
    Unknown,
    /// A look-up that failed a moment ago.
    Unavailable(Arc<SourceError>),
}

impl Negative {
    pub(super) fn into_error(self) -> ResolveError {
        match self {
            Self::Unknown => ResolveError::Unknown,
            Self::Unavailable(error) => ResolveError::Unavailable(error),
        }
    }
}

pub(super) struct KeyCache {
    keys: Cache<Box<str>, Arc<Entry>>,
    negatives: Cache<Digest, (Duration, Negative)>,
    mac: Blake2bMac<U32>,
}

impl KeyCache {
    pub(super) fn new(keys_max: usize, negatives_max: usize) -> Self {
        // A version 4 UUID is 122 bits from the operating system; two make a key nobody can guess.
        let key = [*uuid::Uuid::new_v4().as_bytes(), *uuid::Uuid::new_v4().as_bytes()].concat();
        let mut padded = [0; 64];
        padded[..key.len()].copy_from_slice(&key);
        Self { keys: Cache::new(keys_max), negatives: Cache::new(negatives_max), mac: Blake2bMac::new(&padded.into()) }
    }

    /// The digest of a secret or of a public id; the two have different lengths and cannot be mistaken.
    pub(super) fn digest(&self, text: &str) -> Digest {
        self.digest_pair(text, "")
    }

    /// The digest of a public id with a secret, both of fixed length.
    pub(super) fn digest_pair(&self, public_id: &str, secret: &str) -> Digest {
        let mut mac = self.mac.clone();
        mac.update(public_id.as_bytes());
        mac.update(secret.as_bytes());
        mac.finalize_fixed().into()
    }

    pub(super) fn key(&self, public_id: &str) -> Option<Arc<Entry>> {
        self.keys.get(public_id)
    }

    pub(super) fn insert_key(&self, public_id: &str, entry: Arc<Entry>) {
        self.keys.insert(public_id.into(), entry);
    }

    pub(super) fn remove_key(&self, public_id: &str) {
        self.keys.remove(public_id);
    }

    pub(super) fn negative(&self, digest: &Digest, now: Duration) -> Option<Negative> {
        let (until, negative) = self.negatives.get(digest)?;
        (now < until).then_some(negative)
    }

    pub(super) fn insert_negative(&self, digest: Digest, negative: Negative, until: Duration) {
        self.negatives.insert(digest, (until, negative));
    }
}
