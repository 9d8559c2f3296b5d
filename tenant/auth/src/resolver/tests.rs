//! Tests with a source of keys that counts look-ups, gives wrong answers and fails on demand.

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use stores::clock::ManualClock;
use stores::secret::Secret;
use uuid::Uuid;

use super::*;
use crate::api_key::{IssuedKey, KEY_LEN, SECRET_LEN};

/// One key, which a test can change, and a switch that makes the registry fail.
struct Registry {
    record: Mutex<Option<KeyRecord>>,
    public_id: String,
    is_down: AtomicBool,
}

#[derive(Clone)]
struct Source(Arc<Registry>);

impl KeySource for Source {
    fn find<'a>(&'a self, public_id: &'a str) -> Lookup<'a> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            if self.0.is_down.load(Ordering::SeqCst) {
                return Err(SourceError::Postgres(sqlx::Error::PoolTimedOut));
            }
            let record = self.0.record.lock().unwrap().clone();
            Ok(match record.filter(|_| public_id == self.0.public_id) {
                Some(record) => Answer::Key { record: Box::new(record), good_for: POSITIVE_TTL, accepted: None },
                None => Answer::Unknown { good_for: NEGATIVE_TTL },
            })
        })
    }
}

struct World {
    key: String,
    registry: Arc<Registry>,
    clock: Arc<ManualClock>,
    resolver: Resolver,
}

impl World {
    fn new() -> Self {
        let key = IssuedKey::generate().unwrap();
        let record = KeyRecord {
            api_key_id: ApiKeyId(Uuid::new_v4()),
            org_id: OrgId(Uuid::new_v4()),
            workspace_id: WorkspaceId(Uuid::new_v4()),
            project_id: ProjectId(Uuid::new_v4()),
            hash: Secret::new(key.hash().unwrap()),
            scopes: Scopes::new(["ingest:write"]),
            expires_at_unix_ms: None,
            revoked: false,
            status: OrgStatus::Active,
            archived: None,
            plan: Plan {
                name: "free".into(),
                rps: 50,
                burst: 200,
                org_rps: 200,
                org_burst: 800,
                eval_slots: 2,
                monthly: [].into(),
            },
            shard: None,
            is_moving: false,
        };
        let public_id = key.public_id().to_owned();
        let registry =
            Arc::new(Registry { record: Mutex::new(Some(record)), public_id, is_down: AtomicBool::new(false) });
        let clock = Arc::new(ManualClock::new());
        let resolver = Resolver::with_clock(Source(Arc::clone(&registry)), Arc::clone(&clock) as Arc<dyn Clock>);
        Self { key: key.reveal().to_owned(), registry, clock, resolver }
    }

    fn change(&self, change: impl FnOnce(&mut KeyRecord)) {
        change(self.registry.record.lock().unwrap().as_mut().unwrap());
    }

    async fn resolve(&self) -> Result<Arc<TenantContext>, ResolveError> {
        self.resolver.resolve(&self.key).await
    }

    /// The key with another secret, a different one for each `n`.
    fn wrong(&self, n: u32) -> String {
        format!("{}{n:064x}", &self.key[..KEY_LEN - SECRET_LEN])
    }

    fn stats(&self) -> (u64, u64) {
        let ResolverStats { lookups, verifications } = self.resolver.stats();
        (lookups, verifications)
    }
}

#[tokio::test]
async fn many_misses_make_one_lookup_and_one_verification() {
    let world = World::new();
    let waiting: Vec<_> = (0..1000)
        .map(|_| {
            let (resolver, key) = (world.resolver.clone(), world.key.clone());
            tokio::spawn(async move { resolver.resolve(&key).await.unwrap() })
        })
        .collect();
    for resolved in waiting {
        assert_eq!(resolved.await.unwrap().scopes().iter().collect::<Vec<_>>(), ["ingest:write"]);
    }
    assert_eq!(world.stats(), (1, 1));
}

#[tokio::test]
async fn an_entry_lives_60_seconds_whether_it_is_used_or_not() {
    let world = World::new();
    for second in 0..60 {
        world.resolve().await.unwrap();
        assert_eq!(world.stats(), (1, 1), "after {second} s");
        world.clock.advance(Duration::from_secs(1));
    }
    world.resolve().await.unwrap();
    assert_eq!(world.stats(), (2, 1), "the hash is the same, so argon2 is not run again");
    world.change(|record| record.hash = Secret::new(IssuedKey::generate().unwrap().hash().unwrap()));
    world.clock.advance(POSITIVE_TTL);
    assert!(matches!(world.resolve().await, Err(ResolveError::Unknown)), "another hash needs another secret");
    assert_eq!(world.stats(), (3, 2));
}

#[tokio::test]
async fn a_wrong_secret_for_a_known_key_runs_nothing() {
    let world = World::new();
    world.resolve().await.unwrap();
    for n in 0..100 {
        assert!(matches!(world.resolver.resolve(&world.wrong(n)).await, Err(ResolveError::Unknown)));
    }
    assert_eq!(world.stats(), (1, 1));
    world.resolve().await.unwrap();
}

#[tokio::test]
async fn a_wrong_secret_that_comes_first_is_verified_once_and_does_not_shut_out_the_right_one() {
    let world = World::new();
    for _ in 0..10 {
        assert!(matches!(world.resolver.resolve(&world.wrong(1)).await, Err(ResolveError::Unknown)));
    }
    assert_eq!(world.stats(), (1, 1));
    world.resolve().await.unwrap();
    assert_eq!(world.stats(), (1, 2));
}

#[tokio::test]
async fn an_unknown_key_id_is_looked_up_once_in_30_seconds_for_any_secret() {
    let world = World::new();
    let unknown = |n: u32| format!("tb_{:024x}.{n:064x}", 7);
    for n in 0..10 {
        assert!(matches!(world.resolver.resolve(&unknown(n)).await, Err(ResolveError::Unknown)));
    }
    assert_eq!(world.stats(), (1, 0));
    world.clock.advance(NEGATIVE_TTL);
    assert!(world.resolver.resolve(&unknown(0)).await.is_err());
    assert_eq!(world.stats(), (2, 0));
}

#[tokio::test]
async fn junk_evicts_no_good_key() {
    let world = World::new();
    world.resolve().await.unwrap();
    for n in 0..2_000 {
        assert!(world.resolver.resolve(&format!("tb_{n:024x}.{n:064x}")).await.is_err());
        assert!(world.resolver.resolve(&format!("junk {n}")).await.is_err());
    }
    let before = world.stats();
    assert_eq!(before, (2_001, 1), "what is no key by its form is never asked for");
    world.resolve().await.unwrap();
    assert_eq!(world.stats(), before);
}

#[tokio::test]
async fn expiry_is_checked_on_every_hit() {
    let world = World::new();
    let end = world.clock.unix_ms() + 10_000;
    world.change(|record| record.expires_at_unix_ms = Some(end));
    world.resolve().await.unwrap();
    world.clock.advance(Duration::from_millis(9_999));
    world.resolve().await.unwrap();
    world.clock.advance(Duration::from_millis(1));
    assert!(matches!(world.resolve().await, Err(ResolveError::Expired)));
    assert_eq!(world.stats(), (1, 1), "a hit each time");
}

#[tokio::test]
async fn revocation_and_freezing_apply_after_the_ttl_and_are_revealed_only_to_the_key_holder() {
    let world = World::new();
    world.resolve().await.unwrap();
    world.change(|record| record.revoked = true);
    world.clock.advance(POSITIVE_TTL);
    assert!(matches!(world.resolve().await, Err(ResolveError::Revoked)));
    assert!(matches!(world.resolver.resolve(&world.wrong(1)).await, Err(ResolveError::Unknown)));

    world.change(|record| (record.revoked, record.status) = (false, OrgStatus::Frozen));
    world.clock.advance(POSITIVE_TTL);
    let frozen = world.resolve().await.unwrap_err();
    assert!(matches!(frozen, ResolveError::Frozen { status: OrgStatus::Frozen }));
    assert_eq!(frozen.to_string(), "the organization is frozen");
    *world.registry.record.lock().unwrap() = None;
    world.clock.advance(POSITIVE_TTL);
    assert!(matches!(world.resolve().await, Err(ResolveError::Unknown)));
}

#[tokio::test]
async fn while_the_registry_is_down_known_keys_work_and_others_are_not_called_unknown() {
    let world = World::new();
    world.resolve().await.unwrap();
    world.registry.is_down.store(true, Ordering::SeqCst);
    world.clock.advance(POSITIVE_TTL);
    for _ in 0..5 {
        world.resolve().await.unwrap();
        assert!(matches!(world.resolver.resolve(&world.wrong(1)).await, Err(ResolveError::Unknown)));
    }
    assert_eq!(world.stats(), (2, 1), "a failed look-up stands for a moment");
    let unknown = format!("tb_{:024x}.{:064x}", 7, 7);
    let error = world.resolver.resolve(&unknown).await.unwrap_err();
    assert!(matches!(&error, ResolveError::Unavailable(_)), "{error}");
    assert!(!error.to_string().contains("pool"), "the cause is not for the client: {error}");

    world.clock.advance(STALE_MAX);
    assert!(matches!(world.resolve().await, Err(ResolveError::Unavailable(_))), "not for ever");
    world.registry.is_down.store(false, Ordering::SeqCst);
    world.clock.advance(FAILURE_TTL);
    world.resolve().await.unwrap();
}

#[tokio::test]
async fn a_broken_stored_hash_is_reported_as_unavailable() {
    let world = World::new();
    world.change(|record| record.hash = Secret::new("$argon2id$broken".to_owned()));
    assert!(matches!(world.resolve().await, Err(ResolveError::Unavailable(_))));
}

#[tokio::test]
async fn a_missing_scope_is_named() {
    let context = World::new().resolve().await.unwrap();
    assert!(context.require(context::scope::INGEST_WRITE).is_ok());
    let error = context.require(context::scope::TRACES_READ).unwrap_err();
    assert_eq!(error.to_string(), "the API key lacks the scope traces:read");
}
