//! Several processes that share a Redis and a Postgres, on one node and on a cluster: what one has found out the others
//! need not, and what has changed they all hear of.

use std::sync::Arc;
use std::time::{Duration, Instant};

use auth::api_key::IssuedKey;
use auth::invalidate::Invalidator;
use auth::resolver::{
    FixedKey, LOOKUPS_BURST, LOOKUPS_PER_SECOND, POSITIVE_TTL, PostgresSource, ResolverStats, SharedSource, watch,
};
use auth::{ResolveError, Resolver};
use model::org::{DEFAULT_ORG, DEFAULT_PROJECT};
use redis::AsyncCommands;
use registry::{NewKey, Registry};
use service::settings::parse;
use stack::RedisCluster;
use stores::clock::{Clock, ManualClock};
use stores::keys::RedisKey;
use stores::redis::{Redis, connect};
use stores::secret::{Secret, SecretUrl};
use tokio::sync::watch as channel;
use tokio::task::JoinHandle;

use crate::support::{Wire, World, url};

/// Longer than any change may take to be known everywhere, announced or polled for.
const KNOWN_WITHIN: Duration = Duration::from_secs(5);

/// One process, as far as keys are concerned. Its cache goes by a clock that stands still.
struct Node {
    resolver: Resolver,
    clock: Arc<ManualClock>,
    redis: Redis,
}

impl Node {
    fn new(dsn: &SecretUrl, redis_url: &str) -> Self {
        let redis = connect(&parse::redis_url(redis_url).unwrap()).unwrap();
        let postgres = PostgresSource::new(stores::postgres::pool(dsn).unwrap());
        let clock = Arc::new(ManualClock::new());
        let source = SharedSource::new(redis.clone(), postgres).with_clock(Arc::clone(&clock) as Arc<dyn Clock>);
        let resolver = Resolver::with_clock(source, Arc::clone(&clock) as Arc<dyn Clock>);
        Self { resolver, clock, redis }
    }

    /// Hears of changes until the sender is dropped.
    fn watching(&self, redis_url: &str) -> (channel::Sender<bool>, JoinHandle<()>) {
        let (stop, stopping) = channel::channel(false);
        let url = parse::redis_url(redis_url).unwrap();
        (stop, tokio::spawn(watch(self.resolver.clone(), url, self.redis.clone(), stopping)))
    }

    fn stats(&self) -> (u64, u64) {
        let ResolverStats { lookups, verifications } = self.resolver.stats();
        (lookups, verifications)
    }

    async fn value(&self, key: &IssuedKey) -> Vec<u8> {
        self.redis.clone().get(RedisKey::api_key(key.public_id())).await.unwrap()
    }

    /// Waits until the key is refused, and says how long that took.
    async fn until_refused(&self, key: &IssuedKey) -> (Duration, ResolveError) {
        let begun = Instant::now();
        loop {
            if let Err(error) = self.resolver.resolve(key.reveal()).await {
                return (begun.elapsed(), error);
            }
            assert!(begun.elapsed() < KNOWN_WITHIN, "still accepted");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Waits until what was accepted is in Redis, which happens after the answer.
async fn until_shared(node: &Node, key: &IssuedKey) {
    let begun = Instant::now();
    while !String::from_utf8_lossy(&node.value(key).await).contains("\"accepted\":[") {
        assert!(begun.elapsed() < KNOWN_WITHIN, "nothing was shared");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn announcing(world: &World, redis: &Redis) -> Registry {
    world.registry.clone().announcing(Invalidator::new(redis.clone()))
}

/// What one process has verified, another takes over, without argon2 and without Postgres.
async fn one_verifies_for_all(world: &World, redis_url: &str) {
    let (key, other) = (world.key("one").await, world.key("two").await);
    let wire = Wire::to(&world.db.pg_app_dsn).await;
    let (first, second) = (Node::new(&url(&world.db.pg_app_dsn), redis_url), Node::new(&wire.dsn, redis_url));
    first.resolver.resolve(key.reveal()).await.unwrap();
    until_shared(&first, &key).await;
    // To learn from Postgres how to check what is in Redis.
    second.resolver.resolve(other.reveal()).await.unwrap();
    assert_eq!((first.stats(), second.stats()), ((1, 1), (1, 1)));
    wire.cut().await;
    let context = second.resolver.resolve(key.reveal()).await.unwrap();
    assert_eq!(context.org_id(), world.org.org_id);
    assert_eq!(second.stats(), (2, 1), "argon2 ran in the other process");
    let wrong = format!("{}.{}", key.reveal().split_once('.').unwrap().0, "0".repeat(64));
    assert!(matches!(second.resolver.resolve(&wrong).await, Err(ResolveError::Unknown)));
    assert_eq!(second.stats(), (2, 1), "nor does it run for a wrong secret");
}

/// A revoked key is refused everywhere, long before its time in the caches is over.
async fn a_revocation_is_heard(world: &World, redis_url: &str) {
    let key = world.key("revoked").await;
    let nodes = [0; 3].map(|_| Node::new(&url(&world.db.pg_app_dsn), redis_url));
    let _watching: Vec<_> = nodes.iter().map(|node| node.watching(redis_url)).collect();
    for node in &nodes {
        node.resolver.resolve(key.reveal()).await.unwrap();
    }
    // Until all of them listen: a first announcement, of another key.
    let registry = announcing(world, &nodes[0].redis);
    registry.revoke_key(world.key("other").await.public_id()).await.unwrap();
    registry.revoke_key(key.public_id()).await.unwrap();
    assert_eq!(registry.unannounced(), None);
    for node in &nodes {
        let (took, error) = node.until_refused(&key).await;
        assert!(matches!(error, ResolveError::Revoked), "{error}");
        println!("a revocation was known after {took:?}");
    }
}

#[tokio::test]
async fn one_process_verifies_a_key_for_all_on_a_node() {
    let world = World::new().await;
    one_verifies_for_all(&world, &world.db.redis_url).await;
}

#[tokio::test]
async fn a_revocation_reaches_every_process_on_a_node() {
    let world = World::new().await;
    a_revocation_is_heard(&world, &world.db.redis_url).await;
}

#[tokio::test]
async fn keys_are_verified_once_and_revocations_are_heard_on_a_cluster() {
    let cluster = RedisCluster::start().await.unwrap();
    let world = World::new().await;
    one_verifies_for_all(&world, cluster.url()).await;
    a_revocation_is_heard(&world, cluster.url()).await;
}

#[tokio::test]
async fn a_missed_revocation_is_found_by_polling() {
    let world = World::new().await;
    let key = world.key("site").await;
    let node = Node::new(&url(&world.db.pg_app_dsn), &world.db.redis_url);
    let _watching = node.watching(&world.db.redis_url);
    node.resolver.resolve(key.reveal()).await.unwrap();
    // The first poll has been made when a later announcement is one to have missed.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    world.registry.revoke_key(key.public_id()).await.unwrap();
    assert!(world.registry.unannounced().is_some());
    let mut redis = node.redis.clone();
    let _: () = redis.set(RedisKey::api_key(key.public_id()), "!").await.unwrap();
    let _: u64 = redis.incr(RedisKey::api_key_epoch(), 1).await.unwrap();
    let (took, error) = node.until_refused(&key).await;
    assert!(matches!(error, ResolveError::Revoked), "{error}");
    println!("without a message, a revocation was known after {took:?}");
}

#[tokio::test]
async fn every_change_of_an_org_reaches_all_its_keys() {
    let world = World::new().await;
    let keys = [world.key("one").await, world.key("two").await];
    let node = Node::new(&url(&world.db.pg_app_dsn), &world.db.redis_url);
    let _watching = node.watching(&world.db.redis_url);
    for key in &keys {
        node.resolver.resolve(key.reveal()).await.unwrap();
    }
    announcing(&world, &node.redis).freeze(world.org.org_id, "late payment").await.unwrap();
    for key in &keys {
        let (_, error) = node.until_refused(key).await;
        assert!(matches!(error, ResolveError::Frozen { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_stale_read_cannot_overwrite_a_revocation_marker() {
    let world = World::new().await;
    let key = world.key("site").await;
    let node = Node::new(&url(&world.db.pg_app_dsn), &world.db.redis_url);
    let _: () = node.redis.clone().set(RedisKey::api_key(key.public_id()), "!").await.unwrap();
    node.resolver.resolve(key.reveal()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(node.value(&key).await, b"!", "the marker stays, also after argon2");
}

#[tokio::test]
async fn a_cache_record_is_not_used_past_its_own_expiry() {
    let world = World::new().await;
    let key = world.key("site").await;
    let first = Node::new(&url(&world.db.pg_app_dsn), &world.db.redis_url);
    first.resolver.resolve(key.reveal()).await.unwrap();
    let mut redis = first.redis.clone();
    let ttl: i64 = redis.pttl(RedisKey::api_key(key.public_id())).await.unwrap();
    assert!((1..=POSITIVE_TTL.as_millis() as i64).contains(&ttl), "{ttl}");
    let _: bool = redis.pexpire(RedisKey::api_key(key.public_id()), 20_000).await.unwrap();
    // To learn how to check what is in Redis.
    let second = Node::new(&url(&world.db.pg_app_dsn), &world.db.redis_url);
    second.resolver.resolve(world.key("other").await.reveal()).await.unwrap();
    second.resolver.resolve(key.reveal()).await.unwrap();
    assert_eq!(second.stats().0, 2);
    second.clock.advance(Duration::from_secs(20));
    second.resolver.resolve(key.reveal()).await.unwrap();
    assert_eq!(second.stats().0, 3, "what was 40 s old when it was read is good for 20 more");
}

#[tokio::test]
async fn forged_cache_records_in_redis_are_ignored() {
    let world = World::new().await;
    let (mine, theirs) = (world.key("mine").await, world.key("theirs").await);
    let node = Node::new(&url(&world.db.pg_app_dsn), &world.db.redis_url);
    node.resolver.resolve(mine.reveal()).await.unwrap();
    until_shared(&node, &mine).await;
    let value = node.value(&mine).await;
    let _: () = node.redis.clone().set(RedisKey::api_key(theirs.public_id()), value).await.unwrap();
    let fresh = Node::new(&url(&world.db.pg_app_dsn), &world.db.redis_url);
    fresh.resolver.resolve(mine.reveal()).await.unwrap();
    let stolen = format!("tb_{}.{}", theirs.public_id(), mine.reveal().split_once('.').unwrap().1);
    assert!(matches!(fresh.resolver.resolve(&stolen).await, Err(ResolveError::Unknown)));
    fresh.resolver.resolve(theirs.reveal()).await.unwrap();
}

#[tokio::test]
async fn a_restored_old_cache_record_is_used_only_until_its_expiry() {
    let world = World::new().await;
    let key = world.key("revoked").await;
    let first = Node::new(&url(&world.db.pg_app_dsn), &world.db.redis_url);
    first.resolver.resolve(key.reveal()).await.unwrap();
    until_shared(&first, &key).await;
    let old = first.value(&key).await;
    announcing(&world, &first.redis).revoke_key(key.public_id()).await.unwrap();
    for (age, is_refused) in [(POSITIVE_TTL / 2, false), (POSITIVE_TTL, true)] {
        let node = Node::new(&url(&world.db.pg_app_dsn), &world.db.redis_url);
        // To learn how to check what is in Redis.
        node.resolver.resolve(world.key(&format!("other-{is_refused}")).await.reveal()).await.unwrap();
        // For ever, if it were for Redis.
        let _: () = node.redis.clone().set(RedisKey::api_key(key.public_id()), &old).await.unwrap();
        node.clock.advance(age);
        let resolved = node.resolver.resolve(key.reveal()).await;
        assert_eq!(matches!(resolved, Err(ResolveError::Revoked)), is_refused, "{resolved:?} after {age:?}");
    }
}

#[tokio::test]
async fn unknown_key_records_are_used_only_if_this_deployment_wrote_them() {
    let world = World::new().await;
    let (key, other) = (world.key("one").await, world.key("two").await);
    let wire = Wire::to(&world.db.pg_app_dsn).await;
    let (first, second) =
        (Node::new(&url(&world.db.pg_app_dsn), &world.db.redis_url), Node::new(&wire.dsn, &world.db.redis_url));
    for node in [&first, &second] {
        node.resolver.resolve(other.reveal()).await.unwrap();
    }
    let public_id = format!("{:024x}", 7);
    let unknown = format!("tb_{public_id}.{:064x}", 7);
    assert!(matches!(first.resolver.resolve(&unknown).await, Err(ResolveError::Unknown)));
    let negative: Vec<u8> = first.redis.clone().get(RedisKey::api_key(&public_id)).await.unwrap();
    for written in [b"0".to_vec(), negative] {
        let _: () = first.redis.clone().set(RedisKey::api_key(key.public_id()), written).await.unwrap();
        let node = Node::new(&url(&world.db.pg_app_dsn), &world.db.redis_url);
        node.resolver.resolve(other.reveal()).await.unwrap();
        node.resolver.resolve(key.reveal()).await.unwrap();
    }
    wire.cut().await;
    let shared = second.resolver.resolve(&unknown).await;
    assert!(matches!(shared, Err(ResolveError::Unknown)), "Postgres was asked: {shared:?}");
}

#[tokio::test]
async fn keys_are_resolved_from_postgres_without_redis() {
    let world = World::new().await;
    let key = world.key("site").await;
    let node = Node::new(&url(&world.db.pg_app_dsn), "redis://127.0.0.1:1/0");
    node.resolver.resolve(key.reveal()).await.unwrap();
    let unknown = format!("tb_{:024x}.{:064x}", 7, 7);
    assert!(matches!(node.resolver.resolve(&unknown).await, Err(ResolveError::Unknown)));
}

#[tokio::test]
async fn a_flood_of_unknown_keys_is_bounded_and_shuts_nobody_out() {
    let world = World::new().await;
    let key = world.key("site").await;
    let node = Node::new(&url(&world.db.pg_app_dsn), &world.db.redis_url);
    node.resolver.resolve(key.reveal()).await.unwrap();
    let begun = Instant::now();
    let flood: Vec<_> = (0..100)
        .map(|part| {
            let resolver = node.resolver.clone();
            tokio::spawn(async move {
                for n in 0..400 {
                    let unknown = format!("tb_{:024x}.{n:064x}", part * 1_000 + n);
                    assert!(resolver.resolve(&unknown).await.is_err());
                }
            })
        })
        .collect();
    for part in flood {
        part.await.unwrap();
        node.resolver.resolve(key.reveal()).await.unwrap();
    }
    let most = u64::from(LOOKUPS_BURST.get()) + u64::from(LOOKUPS_PER_SECOND.get()) * (begun.elapsed().as_secs() + 1);
    let (lookups, verifications) = node.stats();
    assert!(lookups <= most.min(40_001) && verifications == 1, "{lookups} look-ups, at most {most}");
    println!("40000 unknown keys in {:?}: {lookups} look-ups", begun.elapsed());
}

#[tokio::test]
async fn a_key_from_the_settings_needs_no_store() {
    let world = World::new().await;
    let fixed = IssuedKey::generate().unwrap();
    let nobody = PostgresSource::new(stores::postgres::pool(&url("postgres://nobody@127.0.0.1:1/none")).unwrap());
    let resolver = Resolver::new(FixedKey::new(Some(&Secret::new(fixed.reveal().to_owned())), nobody).unwrap());
    let context = resolver.resolve(fixed.reveal()).await.unwrap();
    assert_eq!((context.org_id(), context.project_id()), (DEFAULT_ORG, DEFAULT_PROJECT));
    let other = world.key("site").await;
    assert!(matches!(resolver.resolve(other.reveal()).await, Err(ResolveError::Unavailable(_))));

    // The org that the key names is made once, however many services start at once.
    let (_stop, stopping) = channel::channel(false);
    let starting: Vec<_> =
        (0..5).map(|_| tokio::spawn(service::mode::ensure_default_org(world.pool.clone(), stopping.clone()))).collect();
    for start in starting {
        start.await.unwrap();
    }
    let org = world.registry.org(DEFAULT_ORG).await.unwrap();
    assert_eq!((org.org.slug.as_str(), org.projects), ("self-hosted", 1));
    let key = world.registry.create_key(DEFAULT_ORG, DEFAULT_PROJECT, &NewKey::new("x", &["ingest:write"])).await;
    let found = Resolver::new(PostgresSource::new(world.pool.clone())).resolve(key.unwrap().reveal()).await.unwrap();
    assert_eq!(found.workspace_id(), context.workspace_id());
}
