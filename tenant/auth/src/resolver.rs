//! From a presented API key to a [`TenantContext`].
//!
//! Three levels: the process's cache, Redis, Postgres. A hit in the process costs a keyed digest of the presented
//! secret, compared in constant time, and no I/O. On a miss there is one look-up, however many requests wait for it;
//! argon2 runs once per key and [`POSITIVE_TTL`] in the whole fleet, because the process that ran it leaves a digest in
//! Redis. A change of a key or its org is announced ([`watch`]), so that it takes effect everywhere within a second. An
//! attacker's load is bounded in every direction: malformed keys are refused by their form, unknown ids and wrong
//! secrets are remembered in a separate cache that cannot evict a good key, and semaphores bound argon2 and look-ups.
//!
//! Invariants: an entry is trusted for [`POSITIVE_TTL`] after it was loaded, never extended by a hit; expiry,
//! revocation and the org's status are checked on every hit; when the registry is down the result is
//! [`ResolveError::Unavailable`], never "unknown".

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use model::ids::{ApiKeyId, OrgId, ProjectId, WorkspaceId};
use model::org::OrgStatus;
use model::shard::Shard;
use stores::clock::{Clock, SystemClock};
use stores::secret::Secret;
use thiserror::Error;
use tokio::sync::Semaphore;

use crate::api_key;
use crate::api_key::PresentedKey;

mod accepted;
mod cache;
pub mod context;
mod fixed;
mod flight;
mod postgres;
mod shared;
mod watch;

pub use accepted::{AcceptedSecret, CacheKey};
use cache::{Digest, Entry, KeyCache, Negative};
use context::{Plan, Scopes, TenantContext};
pub use fixed::FixedKey;
use flight::SingleFlight;
pub use postgres::PostgresSource;
pub use shared::SharedSource;
pub use watch::{POLL_EVERY, watch};

/// How long an entry is trusted after it was loaded.
pub const POSITIVE_TTL: Duration = Duration::from_secs(60);
/// How long an unknown id or a wrong secret is remembered.
pub const NEGATIVE_TTL: Duration = Duration::from_secs(30);
/// How long after a failed look-up the next one is tried, so that requests do not make an outage worse.
pub const FAILURE_TTL: Duration = Duration::from_millis(500);
/// How long an entry may be used while the registry cannot answer, counted from when it was loaded.
pub const STALE_MAX: Duration = Duration::from_secs(15 * 60);
/// How many keys the process's cache holds.
pub const KEYS_MAX: usize = 100_000;
/// How many unknown ids and wrong secrets are remembered.
pub const NEGATIVES_MAX: usize = 100_000;
/// How many look-ups may run at the same time, each for another key. Beyond it, requests are answered with 503.
pub const LOOKUPS_MAX: usize = 256;
/// How many keys per second that are not in the process's cache are looked up. Beyond it, requests with such keys are
/// answered with 503; requests with cached keys are served.
pub const LOOKUPS_PER_SECOND: NonZeroU32 = NonZeroU32::new(2_000).unwrap();
/// How many of them may be looked up at once, as after a start.
pub const LOOKUPS_BURST: NonZeroU32 = NonZeroU32::new(10_000).unwrap();
/// How long one look-up may take in all.
pub const LOOKUP_DEADLINE: Duration = Duration::from_secs(4);
/// How many argon2 verifications may run at the same time.
pub const VERIFICATIONS_MAX: usize = 2;
/// How long a request waits for its turn to be verified.
pub const VERIFICATION_WAIT_MAX: Duration = Duration::from_secs(1);

/// Why a key was not accepted. Messages are for the client; the cause of [`ResolveError::Unavailable`] is for our log.
#[derive(Clone, Debug, Error)]
pub enum ResolveError {
    /// Malformed or unknown key, or wrong secret: the client cannot tell which. (401)
    #[error("the API key is not valid")]
    Unknown,
    /// The key was revoked. (401)
    #[error("the API key was revoked")]
    Revoked,
    /// The key has expired. (401)
    #[error("the API key has expired")]
    Expired,
    /// The org is not served at present. (403)
    #[error("the organization is {status}")]
    Frozen {
        /// The status of the org: frozen or archived.
        status: OrgStatus,
    },
    /// The key's project, or the workspace of it, is archived. (403)
    #[error("the {what} of the API key is archived")]
    Archived {
        /// What is archived: `project` or `workspace`.
        what: &'static str,
    },
    /// The key is valid, but lacks the scope for this request. (403)
    #[error("the API key lacks the scope {needed}")]
    MissingScope {
        /// The scope that the request needs.
        needed: &'static str,
    },
    /// The key cannot be checked now, and is not in the cache. (503)
    #[error("API keys cannot be checked at present")]
    Unavailable(#[source] Arc<SourceError>),
}

/// Why the registry gave no answer about a key.
#[derive(Debug, Error)]
pub enum SourceError {
    /// Postgres failed or could not be reached in time.
    #[error("the registry did not answer: {0}")]
    Postgres(#[from] sqlx::Error),
    /// No answer within [`LOOKUP_DEADLINE`].
    #[error("the registry did not answer within {} s", LOOKUP_DEADLINE.as_secs())]
    TimedOut,
    /// Too many look-ups or verifications run already.
    #[error("more than {limit} {what} at once")]
    Busy {
        /// What has reached its limit.
        what: &'static str,
        /// The limit that was reached.
        limit: usize,
    },
    /// The key's row holds something that this version cannot read.
    #[error("the registry's row is broken: {0}")]
    Broken(String),
}

/// The registry's data about one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// The id of the key's row.
    pub api_key_id: ApiKeyId,
    /// The org that the key belongs to.
    pub org_id: OrgId,
    /// The workspace of its project.
    pub workspace_id: WorkspaceId,
    /// The project that the key belongs to.
    pub project_id: ProjectId,
    /// The argon2 hash of its secret.
    pub hash: Secret<String>,
    /// The scopes of the key.
    pub scopes: Scopes,
    /// When the key expires, in milliseconds since the Unix epoch; `None` for never.
    pub expires_at_unix_ms: Option<i64>,
    /// Whether the key was revoked.
    pub revoked: bool,
    /// The status of the org.
    pub status: OrgStatus,
    /// `project` or `workspace` if that one of the key is archived.
    pub archived: Option<&'static str>,
    /// The org's plan, overrides merged in.
    pub plan: Plan,
    /// The shard that the org was assigned to; `None` if its hash decides.
    pub shard: Option<Shard>,
    /// Whether the org is moving to another shard; until it has, appends for it are refused.
    pub is_moving: bool,
}

/// A source's answer about a public id, and how long it may be trusted from now on.
#[derive(Debug)]
pub enum Answer {
    /// The key exists; whether it may still be used is in its record.
    Key {
        /// The registry's data about the key.
        record: Box<KeyRecord>,
        /// How long the answer may be used.
        good_for: Duration,
        /// The digest of the secret, if another process has verified it already.
        accepted: Option<AcceptedSecret>,
    },
    /// There is no key with that public id.
    Unknown {
        /// How long the answer may be used.
        good_for: Duration,
    },
}

/// Where keys are looked up that are not in the process's cache. A trait because sources are chained (a shared cache in
/// front of Postgres) and so that tests can count look-ups.
pub trait KeySource: Send + Sync + 'static {
    /// Looks up a public id.
    fn find<'a>(&'a self, public_id: &'a str) -> Lookup<'a>;

    /// Called when argon2 has accepted a secret, so that other processes need not run it for this key. Best effort.
    fn accepted<'a>(&'a self, _key: AcceptedKey<'a>) -> Notified<'a> {
        Box::pin(std::future::ready(()))
    }
}

/// A key whose secret argon2 has accepted.
#[derive(Debug)]
pub struct AcceptedKey<'a> {
    /// The public id of the key.
    pub public_id: &'a str,
    /// The secret that was accepted.
    pub secret: Secret<&'a str>,
    /// The record it was verified against.
    pub record: &'a KeyRecord,
}

/// A running look-up of a public id at a source.
pub type Lookup<'a> = std::pin::Pin<Box<dyn Future<Output = Result<Answer, SourceError>> + Send + 'a>>;
/// A running notification; its result is not awaited.
pub type Notified<'a> = std::pin::Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Resolves presented keys to contexts. One per process, shared by `clone`.
#[derive(Clone)]
pub struct Resolver {
    inner: Arc<Inner>,
}

struct Inner {
    source: Box<dyn KeySource>,
    clock: Arc<dyn Clock>,
    cache: KeyCache,
    /// Limits look-ups of keys that are not in the cache, so that guessing keys cannot overload the stores.
    strangers: DefaultDirectRateLimiter,
    flights: SingleFlight<Result<Arc<Entry>, ResolveError>>,
    verifications: Arc<Semaphore>,
    /// Whether the last look-up failed.
    failing: AtomicBool,
    stats: Counters,
}

#[derive(Default)]
struct Counters {
    lookups: AtomicU64,
    verifications: AtomicU64,
}

/// What a resolver has done since it was created, for metrics and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResolverStats {
    /// Look-ups at the source.
    pub lookups: u64,
    /// Secrets that were verified with argon2, which takes about a millisecond each.
    pub verifications: u64,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Resolver {
    /// A resolver in front of that source.
    pub fn new(source: impl KeySource) -> Self {
        Self::with_clock(source, Arc::new(SystemClock::new()))
    }

    /// A resolver with a given clock, for tests.
    pub fn with_clock(source: impl KeySource, clock: Arc<dyn Clock>) -> Self {
        let inner = Inner {
            source: Box::new(source),
            clock,
            cache: KeyCache::new(KEYS_MAX, NEGATIVES_MAX),
            strangers: RateLimiter::direct(Quota::per_second(LOOKUPS_PER_SECOND).allow_burst(LOOKUPS_BURST)),
            flights: SingleFlight::new(LOOKUPS_MAX),
            verifications: Arc::new(Semaphore::new(VERIFICATIONS_MAX)),
            failing: AtomicBool::new(false),
            stats: Counters::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The context of a presented key. Scopes are for the caller to check: [`TenantContext::require`].
    pub async fn resolve(&self, presented: &str) -> Result<Arc<TenantContext>, ResolveError> {
        let inner = &self.inner;
        let key = PresentedKey::parse(presented).map_err(|_| ResolveError::Unknown)?;
        let digest = inner.cache.digest(key.secret());
        let now = inner.clock.monotonic();
        let cached = inner.cache.key(key.public_id());
        if let Some(entry) = &cached
            && inner.cache.is_fresh(entry, now)
            && let Some(verdict) = entry.verdict(&digest)
        {
            return inner.admit(entry, verdict);
        }
        inner.resolve_slowly(key, digest, cached).await
    }

    /// Drops a key from the cache, because something about it has changed. The answer of a look-up that is running now
    /// is not kept.
    pub fn forget(&self, public_id: &str) {
        self.inner.cache.forget(public_id);
    }

    /// Makes every key be looked up again, because any may have changed. Until an answer comes, and if none does, the
    /// cached entry is used.
    pub fn distrust_all(&self) {
        self.inner.cache.distrust_all(self.inner.clock.monotonic());
    }

    /// Counts since this resolver was created.
    pub fn stats(&self) -> ResolverStats {
        let Counters { lookups, verifications } = &self.inner.stats;
        ResolverStats { lookups: lookups.load(Ordering::Relaxed), verifications: verifications.load(Ordering::Relaxed) }
    }
}

impl Inner {
    /// Every case except a hit on a fresh, verified entry.
    #[cold]
    async fn resolve_slowly(
        self: &Arc<Self>,
        key: PresentedKey<'_>,
        digest: Digest,
        cached: Option<Arc<Entry>>,
    ) -> Result<Arc<TenantContext>, ResolveError> {
        let now = self.clock.monotonic();
        let entry = match cached {
            Some(entry) if self.cache.is_fresh(&entry, now) => entry,
            Some(entry) if entry.is_usable(now) => self.refresh(key.public_id(), entry).await?,
            _ => self.load(key.public_id(), None)?.await?,
        };
        let verdict = match entry.verdict(&digest) {
            Some(verdict) => verdict,
            None => self.verify(&entry, key, digest).await?,
        };
        self.admit(&entry, verdict)
    }

    /// Looks up a key again that is too old in the cache. During an outage of the registry it returns the old entry at
    /// once, rather than refuse a customer because of our own outage.
    async fn refresh(self: &Arc<Self>, public_id: &str, old: Arc<Entry>) -> Result<Arc<Entry>, ResolveError> {
        let was_failing = self.failing.load(Ordering::Relaxed);
        let loaded = match self.load(public_id, Some(Arc::clone(&old))) {
            // The look-up continues in the background, to notice the end of the outage.
            Ok(_loading) if was_failing => return Ok(old),
            Ok(loading) => loading.await,
            Err(error) => Err(error),
        };
        match loaded {
            Err(ResolveError::Unavailable(_)) => Ok(old),
            other => other,
        }
    }

    /// Starts a look-up of a public id, or joins a running one.
    fn load(
        self: &Arc<Self>,
        public_id: &str,
        old: Option<Arc<Entry>>,
    ) -> Result<impl Future<Output = Result<Arc<Entry>, ResolveError>> + use<>, ResolveError> {
        let id_digest = self.cache.digest(public_id);
        if let Some(negative) = self.cache.negative(&id_digest, self.clock.monotonic()) {
            return Err(negative.into_error());
        }
        let unavailable = |error| ResolveError::Unavailable(Arc::new(error));
        if old.is_none() && self.strangers.check().is_err() {
            let limit = LOOKUPS_PER_SECOND.get() as usize;
            return Err(unavailable(SourceError::Busy { what: "look-ups per second", limit }));
        }
        let this = Arc::clone(self);
        let id = public_id.to_owned();
        let flight = self.flights.join(public_id, move || async move { this.ask(&id, id_digest, old).await });
        let flight = flight.ok_or(unavailable(SourceError::Busy { what: "look-ups", limit: LOOKUPS_MAX }))?;
        Ok(async move { flight.answer().await.unwrap_or_else(|| Err(unavailable(SourceError::TimedOut))) })
    }

    /// Looks a key up at the source and caches the answer, positive or negative.
    async fn ask(
        &self,
        public_id: &str,
        id_digest: Digest,
        old: Option<Arc<Entry>>,
    ) -> Result<Arc<Entry>, ResolveError> {
        // Another task may have cached it between our reading of the cache and now.
        let before = self.clock.monotonic();
        if let Some(entry) = self.cache.key(public_id).filter(|entry| self.cache.is_fresh(entry, before)) {
            return Ok(entry);
        }
        self.stats.lookups.fetch_add(1, Ordering::Relaxed);
        let generation = self.cache.generation();
        let answer = tokio::time::timeout(LOOKUP_DEADLINE, self.source.find(public_id)).await;
        let answer = answer.unwrap_or(Err(SourceError::TimedOut));
        let failed = !matches!(answer, Ok(_) | Err(SourceError::Broken(_)));
        self.failing.store(failed, Ordering::Relaxed);
        // Ages count from before the look-up: its answer may miss a change made since then.
        match answer {
            Ok(Answer::Key { record, good_for, accepted }) => {
                let entry = Arc::new(Entry::new(*record, old.as_deref(), before, good_for, accepted));
                self.cache.insert_key(public_id, Arc::clone(&entry), generation);
                Ok(entry)
            }
            Ok(Answer::Unknown { good_for }) => {
                self.cache.remove_key(public_id);
                self.cache.insert_negative(id_digest, Negative::Unknown, before + good_for);
                Err(ResolveError::Unknown)
            }
            Err(error) => {
                tracing::warn!(%error, public_id, "an API key could not be looked up");
                let negative = Negative::Unavailable(Arc::new(error));
                self.cache.insert_negative(id_digest, negative.clone(), self.clock.monotonic() + FAILURE_TTL);
                Err(negative.into_error())
            }
        }
    }

    /// Runs argon2 on a secret that this process has not accepted or refused lately. True when the secret is right.
    async fn verify(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        key: PresentedKey<'_>,
        digest: Digest,
    ) -> Result<bool, ResolveError> {
        let pair = self.cache.digest_pair(key.public_id(), key.secret());
        let unavailable = |error| ResolveError::Unavailable(Arc::new(error));
        let busy = || unavailable(SourceError::Busy { what: "verifications", limit: VERIFICATIONS_MAX });
        // The entry's own lock first, so that a burst of requests with one key runs argon2 once.
        let turn = tokio::time::timeout(VERIFICATION_WAIT_MAX, entry.turn.lock()).await;
        let _turn = turn.map_err(|_elapsed| busy())?;
        if let Some(verdict) = entry.verdict(&digest) {
            return Ok(verdict);
        }
        if let Some(negative) = self.cache.negative(&pair, self.clock.monotonic()) {
            return Err(negative.into_error());
        }
        if let Some(verdict) = entry.accepted.as_ref().map(|accepted| accepted.is(key.public_id(), key.secret())) {
            if verdict {
                entry.set_verified(digest);
            }
            return Ok(verdict);
        }
        let permit = tokio::time::timeout(VERIFICATION_WAIT_MAX, Arc::clone(&self.verifications).acquire_owned()).await;
        let permit = permit.ok().and_then(Result::ok).ok_or_else(busy)?;
        self.stats.verifications.fetch_add(1, Ordering::Relaxed);
        let (hash, secret) = (entry.record.hash.clone(), Secret::new(key.secret().to_owned()));
        let verified = tokio::task::spawn_blocking(move || {
            // Held until argon2 has finished, even when the request has been cancelled.
            let _permit = permit;
            api_key::verify(secret.expose(), hash.expose())
        })
        .await;
        match verified {
            Ok(Ok(true)) => {
                entry.set_verified(digest);
                self.notify_accepted(entry, key);
                Ok(true)
            }
            Ok(Ok(false)) => {
                let until = self.clock.monotonic() + NEGATIVE_TTL;
                self.cache.insert_negative(pair, Negative::Unknown, until);
                Ok(false)
            }
            Ok(Err(error)) => Err(unavailable(SourceError::Broken(error.to_string()))),
            Err(error) => Err(unavailable(SourceError::Broken(error.to_string()))),
        }
    }

    /// Notifies the source, without delaying the request.
    fn notify_accepted(self: &Arc<Self>, entry: &Arc<Entry>, key: PresentedKey<'_>) {
        let (this, entry) = (Arc::clone(self), Arc::clone(entry));
        let (public_id, secret) = (key.public_id().to_owned(), Secret::new(key.secret().to_owned()));
        tokio::spawn(async move {
            let secret = Secret::new(secret.expose().as_str());
            this.source.accepted(AcceptedKey { public_id: &public_id, secret, record: &entry.record }).await;
        });
    }

    /// The checks made on every hit. A client without the right secret learns nothing about a key.
    fn admit(&self, entry: &Entry, secret_is_right: bool) -> Result<Arc<TenantContext>, ResolveError> {
        let record = &entry.record;
        if !secret_is_right {
            return Err(ResolveError::Unknown);
        }
        if record.revoked {
            return Err(ResolveError::Revoked);
        }
        if record.expires_at_unix_ms.is_some_and(|end| self.clock.unix_ms() >= end) {
            return Err(ResolveError::Expired);
        }
        if !record.status.is_served() {
            return Err(ResolveError::Frozen { status: record.status });
        }
        if let Some(what) = record.archived {
            return Err(ResolveError::Archived { what });
        }
        Ok(Arc::clone(&entry.context))
    }
}

#[cfg(test)]
mod tests;
