//! The caches of a resolver: valid keys in one bounded cache; unknown ids, wrong secrets and failed look-ups in
//! another, so that these cannot evict valid keys.
//!
//! Secrets are kept only as BLAKE2b digests under a random key that lives as long as the process. The second cache is
//! indexed by such digests as well, so that no client can aim at an entry.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use blake2::Blake2bMac;
use blake2::digest::consts::U32;
use blake2::digest::{FixedOutput, KeyInit, Mac};
use quick_cache::sync::Cache;
use subtle::ConstantTimeEq;

use super::context::TenantContext;
use super::{AcceptedSecret, KeyRecord, POSITIVE_TTL, ResolveError, STALE_MAX, SourceError};

/// A keyed digest of something that a client presented.
pub(super) type Digest = [u8; 32];

/// A key as the registry knew it when it was loaded.
pub(super) struct Entry {
    pub(super) record: KeyRecord,
    pub(super) context: Arc<TenantContext>,
    /// Locked while a request runs argon2 for this entry.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// The digest of the secret that another process verified.
    pub(super) accepted: Option<AcceptedSecret>,
    /// The digest of the secret that this process verified.
    verified: OnceLock<Digest>,
    /// When the look-up that found it began.
    asked_at: Duration,
    good_for: Duration,
}

impl Entry {
    /// The answer to a look-up that began at `asked_at`. What argon2 accepted for `before` still holds if the hash has
    /// not changed.
    pub(super) fn new(
        record: KeyRecord,
        before: Option<&Self>,
        asked_at: Duration,
        good_for: Duration,
        accepted: Option<AcceptedSecret>,
    ) -> Self {
        let verified = before.filter(|old| old.record.hash == record.hash).map(|old| old.verified.clone());
        Self {
            context: TenantContext::new(&record),
            record,
            turn: tokio::sync::Mutex::new(()),
            accepted,
            verified: verified.unwrap_or_default(),
            asked_at,
            good_for: good_for.min(POSITIVE_TTL),
        }
    }

    /// Whether the entry may still be used while the registry cannot answer.
    pub(super) fn is_usable(&self, now: Duration) -> bool {
        now.saturating_sub(self.asked_at) < STALE_MAX
    }

    /// Whether the secret with that digest is right; `None` when argon2 has not accepted any yet.
    pub(super) fn verdict(&self, digest: &Digest) -> Option<bool> {
        self.verified.get().map(|verified| verified.ct_eq(digest).into())
    }

    pub(super) fn set_verified(&self, digest: Digest) {
        // Only one secret has that hash, so a value set earlier is the same.
        let _same = self.verified.set(digest).is_err();
    }
}

/// Why a key is refused without a look-up.
#[derive(Clone)]
pub(super) enum Negative {
    /// An unknown id, or a wrong secret.
    Unknown,
    /// A look-up that failed within the last [`super::FAILURE_TTL`].
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
    /// Grows with each forgotten key.
    generation: AtomicU64,
    /// Entries of look-ups that began before this are not fresh any more, in µs.
    distrusted_us: AtomicU64,
    mac: Blake2bMac<U32>,
}

impl KeyCache {
    pub(super) fn new(keys_max: usize, negatives_max: usize) -> Self {
        // A version 4 UUID is 122 bits from the operating system; two make a key that cannot be guessed.
        let key = [*uuid::Uuid::new_v4().as_bytes(), *uuid::Uuid::new_v4().as_bytes()].concat();
        let mut padded = [0; 64];
        padded[..key.len()].copy_from_slice(&key);
        Self {
            keys: Cache::new(keys_max),
            negatives: Cache::new(negatives_max),
            generation: AtomicU64::new(0),
            distrusted_us: AtomicU64::new(0),
            mac: Blake2bMac::new(&padded.into()),
        }
    }

    /// The digest of a secret or of a public id; the two have different lengths, so their digests differ.
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

    /// Whether an entry may be used without another look-up.
    pub(super) fn is_fresh(&self, entry: &Entry, now: Duration) -> bool {
        let distrusted = Duration::from_micros(self.distrusted_us.load(Ordering::Acquire));
        now.saturating_sub(entry.asked_at) < entry.good_for && (entry.asked_at > distrusted || distrusted.is_zero())
    }

    /// Read this before a look-up, and pass it to [`Self::insert_key`] with the answer.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Stores an answer, unless any key was forgotten since its look-up began: the answer may be from before the
    /// change.
    pub(super) fn insert_key(&self, public_id: &str, entry: Arc<Entry>, generation: u64) {
        self.keys.insert(public_id.into(), entry);
        if self.generation() != generation {
            self.keys.remove(public_id);
        }
    }

    pub(super) fn forget(&self, public_id: &str) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.keys.remove(public_id);
    }

    pub(super) fn distrust_all(&self, now: Duration) {
        let now_us = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.distrusted_us.fetch_max(now_us.max(1), Ordering::AcqRel);
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
