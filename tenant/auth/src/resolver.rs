//! From a presented API key to a [`TenantContext`].
//!
//! Three levels: the process's cache, Redis, Postgres. A hit in the process costs a keyed digest of the presented
//! secret, compared in constant time, and no I/O. A miss asks once, however many requests wait for it; argon2 is run
//! once per key and [`POSITIVE_TTL`] in the whole fleet, because who has run it leaves a digest in Redis. A change of a
//! key or its org is announced ([`watch`]), so that it holds everywhere within a second. What an attacker sends is
//! bounded in every direction: junk is refused by its form, unknown ids and wrong secrets are remembered in a cache of
//! their own that cannot evict a good key, argon2 runs behind a semaphore, and so do look-ups.
//!
//! Invariants: an entry is trusted for [`POSITIVE_TTL`] from when it was loaded, never extended by a hit; expiry,
//! revocation and the org's status are checked on every hit; the registry being down is [`ResolveError::Unavailable`],
//! never "unknown".

use model::org::OrgStatus;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use model::ids::{ApiKeyId, OrgId, ProjectId, WorkspaceId};
use thiserror::Error;
use tokio::sync::Semaphore;

use crate::api_key::{self, PresentedKey};
use model::shard::Shard;
use stores::clock::{Clock, SystemClock};
use stores::secret::Secret;

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
/// How long a failed look-up stands before the next one is tried, so that an outage is not made worse by every request.
pub const FAILURE_TTL: Duration = Duration::from_millis(500);
/// How long an entry may still be used when the registry cannot be asked, counted from when it was loaded.
pub const STALE_MAX: Duration = Duration::from_secs(15 * 60);
/// How many keys are kept.
pub const KEYS_MAX: usize = 100_000;
/// How many unknown ids and wrong secrets are remembered.
pub const NEGATIVES_MAX: usize = 100_000;
/// How many look-ups may be under way, each for another key. Beyond it a request is told to come again.
pub const LOOKUPS_MAX: usize = 256;
/// How many keys per second that this process does not know are looked up. Beyond it, requests with such keys are told
/// to come again; keys that are known are served.
pub const LOOKUPS_PER_SECOND: NonZeroU32 = NonZeroU32::new(2_000).unwrap();
/// How many of them at once, as after a start.
pub const LOOKUPS_BURST: NonZeroU32 = NonZeroU32::new(10_000).unwrap();
/// How long one look-up may take, whatever the network does.
pub const LOOKUP_DEADLINE: Duration = Duration::from_secs(4);
/// How many argon2 verifications may run at the same time.
pub const VERIFICATIONS_MAX: usize = 2;
/// How long a request waits for its turn to be verified.
pub const VERIFICATION_WAIT_MAX: Duration = Duration::from_secs(1);

/// Why a key was not accepted. Messages are for the client; the cause of [`ResolveError::Unavailable`] is for our log.
#[derive(Clone, Debug, Error)]
pub enum ResolveError {
    /// No such key, or a wrong secret, or no key at all by its form: the three are not told apart. (401)
    #[error("the API key is not valid")]
    Unknown,
    /// The key was revoked. (401)
    #[error("the API key was revoked")]
    Revoked,
    /// The key's time is over. (401)
    #[error("the API key has expired")]
    Expired,
    /// The org is not served at present. (403)
    #[error("the organization is {status}")]
    Frozen {
        /// Frozen or archived.
        status: OrgStatus,
    },
    /// The key's project, or the workspace of it, is archived. (403)
    #[error("the {what} of the API key is archived")]
    Archived {
        /// `project` or `workspace`.
        what: &'static str,
    },
    /// The key is good, but not for this. (403)
    #[error("the API key lacks the scope {needed}")]
    MissingScope {
        /// What it would have needed.
        needed: &'static str,
    },
    /// The key cannot be checked now, and is not known from before. (503)
    #[error("API keys cannot be checked at present")]
    Unavailable(#[source] Arc<SourceError>),
}

/// Why the registry gave no answer about a key.
#[derive(Debug, Error)]
pub enum SourceError {
    /// Postgres failed or could not be reached in time.
    #[error("the registry did not answer: {0}")]
    Postgres(#[from] sqlx::Error),
    /// No answer, and no error either.
    #[error("the registry did not answer within {} s", LOOKUP_DEADLINE.as_secs())]
    TimedOut,
    /// Too much is being looked up or verified already.
    #[error("more than {limit} {what} at once")]
    Busy {
        /// What there is too much of.
        what: &'static str,
        /// The limit that was reached.
        limit: usize,
    },
    /// The key's row holds something that this version cannot read.
    #[error("the registry's row is broken: {0}")]
    Broken(String),
}

/// All that the registry knows about one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// The row's id.
    pub api_key_id: ApiKeyId,
    /// The org it belongs to.
    pub org_id: OrgId,
    /// The workspace of its project.
    pub workspace_id: WorkspaceId,
    /// Its project.
    pub project_id: ProjectId,
    /// The argon2 hash of its secret.
    pub hash: Secret<String>,
    /// What it may do.
    pub scopes: Scopes,
    /// When it ends, in milliseconds since the Unix epoch.
    pub expires_at_unix_ms: Option<i64>,
    /// Whether it was revoked.
    pub revoked: bool,
    /// Where the org stands.
    pub status: OrgStatus,
    /// Which of the key's places is archived, if one is: `project` or `workspace`.
    pub archived: Option<&'static str>,
    /// The org's plan, overrides merged in.
    pub plan: Plan,
    /// The shard that the org was assigned to; `None` where its hash decides.
    pub shard: Option<Shard>,
    /// Whether the org is about to go to another shard, and nothing may be appended meanwhile.
    pub is_moving: bool,
}

/// What a source knows of a public id, and for how long it may be trusted from now on.
#[derive(Debug)]
pub enum Answer {
    /// There is such a key.
    Key {
        /// All about it.
        record: Box<KeyRecord>,
        /// Until it must be asked for again.
        good_for: Duration,
        /// The secret that someone else in the fleet has verified already.
        accepted: Option<AcceptedSecret>,
    },
    /// There is none.
    Unknown {
        /// Until it must be asked for again.
        good_for: Duration,
    },
}

/// Where keys are looked up when the process's cache does not know them. A trait because there are several in a row (a
/// shared cache in front of Postgres) and so that tests can count.
pub trait KeySource: Send + Sync + 'static {
    /// What is known of that public id.
    fn find<'a>(&'a self, public_id: &'a str) -> Lookup<'a>;

    /// Told when argon2 has accepted a secret, so that nobody else need run it for this key. Best effort.
    fn accepted<'a>(&'a self, _key: AcceptedKey<'a>) -> Told<'a> {
        Box::pin(std::future::ready(()))
    }
}

/// A key whose secret argon2 has accepted.
#[derive(Debug)]
pub struct AcceptedKey<'a> {
    /// Its public id.
    pub public_id: &'a str,
    /// Its secret.
    pub secret: Secret<&'a str>,
    /// The record it was verified against.
    pub record: &'a KeyRecord,
}

/// A look-up under way.
pub type Lookup<'a> = std::pin::Pin<Box<dyn Future<Output = Result<Answer, SourceError>> + Send + 'a>>;
/// Something under way that nobody waits for the result of.
pub type Told<'a> = std::pin::Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Turns presented keys into contexts. One per process, shared by `clone`.
#[derive(Clone)]
pub struct Resolver {
    inner: Arc<Inner>,
}

struct Inner {
    source: Box<dyn KeySource>,
    clock: Arc<dyn Clock>,
    cache: KeyCache,
    /// Keys that this process does not know may be looked up so often: nobody can wear out the stores by guessing.
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

/// What a resolver has done since it was made, for metrics and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResolverStats {
    /// Questions to the source.
    pub lookups: u64,
    /// Runs of argon2.
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

    /// A resolver whose cache goes by that clock.
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

    /// Must ask about this key again: something about it has changed. What is being loaded at the moment is not kept.
    pub fn forget(&self, public_id: &str) {
        self.inner.cache.forget(public_id);
    }

    /// Must ask about every key again, because something may have changed. Until an answer comes, and if none does,
    /// what is known still serves.
    pub fn distrust_all(&self) {
        self.inner.cache.distrust_all(self.inner.clock.monotonic());
    }

    /// What has been done so far.
    pub fn stats(&self) -> ResolverStats {
        let Counters { lookups, verifications } = &self.inner.stats;
        ResolverStats { lookups: lookups.load(Ordering::Relaxed), verifications: verifications.load(Ordering::Relaxed) }
    }
}

impl Inner {
    /// Everything but a hit on a fresh, verified entry.
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

    /// What the source now says of a key whose entry is too old. Better an entry that may be out of date than to refuse
    /// a customer because of our own outage; and while that lasts, nobody waits for it to end.
    async fn refresh(self: &Arc<Self>, public_id: &str, old: Arc<Entry>) -> Result<Arc<Entry>, ResolveError> {
        let was_failing = self.failing.load(Ordering::Relaxed);
        let loaded = match self.load(public_id, Some(Arc::clone(&old))) {
            // Under way by itself, to notice when the outage is over.
            Ok(_loading) if was_failing => return Ok(old),
            Ok(loading) => loading.await,
            Err(error) => Err(error),
        };
        match loaded {
            Err(ResolveError::Unavailable(_)) => Ok(old),
            other => other,
        }
    }

    /// Starts to ask the source for a public id, or joins who does so already.
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

    /// Asks the source and remembers its answer, whatever it is.
    async fn ask(
        &self,
        public_id: &str,
        id_digest: Digest,
        old: Option<Arc<Entry>>,
    ) -> Result<Arc<Entry>, ResolveError> {
        // Someone may have been faster between our look into the cache and our turn.
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
        // Ages count from before the question: what has changed since then may not be in the answer.
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

    /// Runs argon2 on a secret that this process has not seen succeed or fail lately. True when the secret is right.
    async fn verify(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        key: PresentedKey<'_>,
        digest: Digest,
    ) -> Result<bool, ResolveError> {
        let pair = self.cache.digest_pair(key.public_id(), key.secret());
        let unavailable = |error| ResolveError::Unavailable(Arc::new(error));
        let busy = || unavailable(SourceError::Busy { what: "verifications", limit: VERIFICATIONS_MAX });
        // The entry's own turn first, so that a burst of requests with one key runs argon2 once.
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
            // Held until argon2 is done, also when the request has gone away.
            let _permit = permit;
            api_key::verify(secret.expose(), hash.expose())
        })
        .await;
        match verified {
            Ok(Ok(true)) => {
                entry.set_verified(digest);
                self.tell_accepted(entry, key);
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

    /// Tells the source, without keeping the request waiting.
    fn tell_accepted(self: &Arc<Self>, entry: &Arc<Entry>, key: PresentedKey<'_>) {
        let (this, entry) = (Arc::clone(self), Arc::clone(entry));
        let (public_id, secret) = (key.public_id().to_owned(), Secret::new(key.secret().to_owned()));
        tokio::spawn(async move {
            let secret = Secret::new(secret.expose().as_str());
            this.source.accepted(AcceptedKey { public_id: &public_id, secret, record: &entry.record }).await;
        });
    }

    /// The checks that are made on every hit. Nothing about a key is told to who does not hold its secret.
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
