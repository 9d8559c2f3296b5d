//! Evaluation slots in real Redis, on one node and on a cluster.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use auth::resolver::PostgresSource;
use auth::{Resolver, TenantContext};
use model::ids::OrgId;
use quota::eval::{AcquireError, Busy, EvalConcurrency, HolderId, Slot, SlotError, TTL_MIN};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redis::{AsyncCommands, Script};
use registry::{Limit, LimitChange, LimitEdit, NewKey, NewOrg};
use service::settings::parse;
use stack::RedisCluster;
use stores::keys::RedisKey;
use stores::redis::{Redis, connect};
use uuid::Uuid;

use crate::support::World;

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(600);

fn redis(url: &str) -> Redis {
    connect(&parse::redis_url(url).unwrap()).unwrap()
}

/// An org with that many slots, as its key is resolved now.
async fn tenant(world: &World, slug: &str, slots: Limit) -> Arc<TenantContext> {
    let org = world.registry.create_org(&NewOrg::new(slug, slug, "free")).await.unwrap();
    let project = world.registry.create_project(org.org_id, org.workspace_id, "evals", "Evals").await.unwrap();
    let key = world.registry.create_key(org.org_id, project, &NewKey::new("A key", &["ingest:write"])).await.unwrap();
    with_slots(world, org.org_id, key.reveal(), slots).await
}

async fn with_slots(world: &World, org: OrgId, key: &str, slots: Limit) -> Arc<TenantContext> {
    let change = LimitChange { eval_slots: LimitEdit::Set(slots), ..LimitChange::default() };
    world.registry.set_limits(org, &change).await.unwrap();
    Resolver::new(PostgresSource::new(world.pool.clone())).resolve(key).await.unwrap()
}

async fn acquire(slots: &EvalConcurrency, tenant: &TenantContext) -> Result<Slot, Busy> {
    slots.acquire(tenant, LONG).await.map_err(|error| match error {
        AcquireError::Busy(busy) => busy,
        AcquireError::Unavailable(error) => panic!("{error}"),
    })
}

/// As many as the plan says hold a slot, whoever asks and however many at once; one that is given back is another's.
async fn a_cap_is_exact(world: &World, redis: Redis) {
    let tenant = tenant(world, &slug("exact"), Limit::AtMost(3)).await;
    let nodes = [EvalConcurrency::new(redis.clone()), EvalConcurrency::new(redis.clone())];
    let asking: Vec<_> = (0..40)
        .map(|n| {
            let (slots, tenant) = (nodes[n % 2].clone(), Arc::clone(&tenant));
            tokio::spawn(async move { acquire(&slots, &tenant).await })
        })
        .collect();
    let mut taken = Vec::new();
    for asked in asking {
        match asked.await.unwrap() {
            Ok(slot) => taken.push(slot),
            Err(busy) => {
                assert_eq!((busy.cap, busy.held), (3, 3));
                assert!(busy.retry_after.is_some_and(|wait| wait <= LONG), "{busy:?}");
            }
        }
    }
    assert_eq!(taken.len(), 3);
    taken.pop().unwrap().release().await.unwrap();
    let next = acquire(&nodes[0], &tenant).await.unwrap();
    assert!(acquire(&nodes[1], &tenant).await.is_err());
    for slot in taken.into_iter().chain([next]) {
        slot.release().await.unwrap();
    }
    let key = RedisKey::eval_concurrency(tenant.org_id());
    assert!(!redis.clone().exists::<_, bool>(&key).await.unwrap(), "nothing is left of an org that holds nothing");
}

/// A slot ends at its deadline, which its holder is told, and is then another's, whom the late holder cannot harm.
async fn a_crashed_holder_gives_way(world: &World, redis: Redis) {
    let tenant = tenant(world, &slug("crash"), Limit::AtMost(1)).await;
    let slots = EvalConcurrency::new(redis);
    let crashed = slots.acquire(&tenant, TTL_MIN).await.unwrap();
    let next = loop {
        match acquire(&slots, &tenant).await {
            Ok(slot) => break slot,
            Err(busy) => {
                assert!(busy.retry_after.is_some_and(|wait| wait <= TTL_MIN), "{busy:?}");
                tokio::time::sleep(busy.retry_after.unwrap()).await;
            }
        }
    };
    assert!(matches!(crashed.renew(LONG).await, Err(SlotError::Lapsed)));
    assert!(matches!(crashed.release().await, Err(SlotError::Lapsed)));
    assert_eq!(acquire(&slots, &tenant).await.unwrap_err().held, 1, "the next holder has kept it");
    next.renew(LONG).await.unwrap();
    next.release().await.unwrap();
}

/// A request that is sent again takes no second slot.
async fn a_lost_reply_costs_nothing(world: &World, redis: Redis) {
    let tenant = tenant(world, &slug("again"), Limit::AtMost(2)).await;
    let slots = EvalConcurrency::new(redis);
    let holder = HolderId(Uuid::new_v4());
    let first = slots.acquire_as(&tenant, holder, LONG).await.unwrap();
    let again = slots.acquire_as(&tenant, holder, LONG).await.unwrap();
    let other = acquire(&slots, &tenant).await.unwrap();
    assert_eq!(acquire(&slots, &tenant).await.unwrap_err().held, 2);
    slots.acquire_as(&tenant, holder, LONG).await.unwrap().renew(LONG).await.unwrap();
    first.release().await.unwrap();
    assert!(matches!(again.release().await, Err(SlotError::Lapsed)), "it was one slot");
    other.release().await.unwrap();
}

/// While one org asks without end at its cap, every request of another that is below its own succeeds at once.
async fn an_org_at_its_cap_delays_no_other(world: &World, redis: Redis) {
    const ROUNDS: usize = 200;
    let a = tenant(world, &slug("busy-a"), Limit::AtMost(1)).await;
    let b = tenant(world, &slug("calm-b"), Limit::AtMost(1)).await;
    let slots = EvalConcurrency::new(redis);
    let _held = acquire(&slots, &a).await.unwrap();
    let (stop, refused) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let asking: Vec<_> = (0..16)
        .map(|_| {
            let (slots, a) = (slots.clone(), Arc::clone(&a));
            let (stop, refused) = (Arc::clone(&stop), Arc::clone(&refused));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    acquire(&slots, &a).await.unwrap_err();
                    refused.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for _ in 0..ROUNDS {
        acquire(&slots, &b).await.unwrap().release().await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for asked in asking {
        asked.await.unwrap();
    }
    let refused = refused.load(Ordering::Relaxed) as usize;
    assert!(refused > ROUNDS, "A asked only {refused} times: not a load");
}

/// Orgs of different tests share a cluster.
fn slug(name: &str) -> String {
    format!("{name}-{}", &Uuid::new_v4().simple().to_string()[..8])
}

#[tokio::test]
async fn evaluation_caps_hold_on_a_node() {
    let world = World::new().await;
    let redis = redis(&world.db.redis_url);
    a_cap_is_exact(&world, redis.clone()).await;
    a_crashed_holder_gives_way(&world, redis.clone()).await;
    a_lost_reply_costs_nothing(&world, redis.clone()).await;
    an_org_at_its_cap_delays_no_other(&world, redis).await;
}

#[tokio::test]
async fn evaluation_caps_hold_on_a_cluster() {
    let cluster = RedisCluster::start().await.unwrap();
    let world = World::new().await;
    let redis = redis(cluster.url());
    a_cap_is_exact(&world, redis.clone()).await;
    a_crashed_holder_gives_way(&world, redis.clone()).await;
    a_lost_reply_costs_nothing(&world, redis.clone()).await;
    an_org_at_its_cap_delays_no_other(&world, redis).await;
}

#[tokio::test]
async fn no_slots_means_none_and_unlimited_means_any_number() {
    let world = World::new().await;
    let slots = EvalConcurrency::new(redis(&world.db.redis_url));
    let none = tenant(&world, "none-at-all", Limit::AtMost(0)).await;
    assert_eq!(acquire(&slots, &none).await.unwrap_err(), Busy { retry_after: None, cap: 0, held: 0 });
    let any = tenant(&world, "any-number", Limit::Unlimited).await;
    let mut held = Vec::new();
    for _ in 0..100 {
        held.push(acquire(&slots, &any).await.unwrap());
    }
}

#[tokio::test]
async fn a_lowered_cap_admits_no_evaluation_until_usage_fits() {
    let world = World::new().await;
    let slots = EvalConcurrency::new(redis(&world.db.redis_url));
    let key = world.key("evals").await;
    let org = world.org.org_id;
    let four = with_slots(&world, org, key.reveal(), Limit::AtMost(4)).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(acquire(&slots, &four).await.unwrap());
    }
    let two = with_slots(&world, org, key.reveal(), Limit::AtMost(2)).await;
    for left in [4, 3, 2] {
        assert_eq!(acquire(&slots, &two).await.unwrap_err().held, left);
        held.pop().unwrap().release().await.unwrap();
    }
    held.push(acquire(&slots, &two).await.unwrap());
    held[0].renew(LONG).await.unwrap();
    assert_eq!(acquire(&slots, &two).await.unwrap_err().held, 2);
}

#[tokio::test]
async fn without_redis_no_evaluation_begins() {
    let world = World::new().await;
    let tenant = tenant(&world, "no-redis", Limit::Unlimited).await;
    let error = EvalConcurrency::new(redis("redis://127.0.0.1:1/0")).acquire(&tenant, LONG).await.unwrap_err();
    assert!(matches!(error, AcquireError::Unavailable(_)), "{error}");
}

/// The semaphore as it is meant: who holds a slot until when, in µs.
#[derive(Default)]
struct Model(HashMap<usize, i64>);

impl Model {
    fn acquire(&mut self, holder: usize, ttl: i64, cap: i64, now: i64) -> Vec<i64> {
        self.0.retain(|_, deadline| *deadline > now);
        let held = self.0.len() as i64;
        if !self.0.contains_key(&holder) && cap >= 0 && held >= cap {
            let mut deadlines: Vec<_> = self.0.values().copied().collect();
            deadlines.sort_unstable();
            let wait = if cap == 0 { -1 } else { deadlines[(held - cap) as usize] - now };
            return vec![0, held, wait];
        }
        self.0.insert(holder, now + ttl);
        vec![1, self.0.len() as i64]
    }

    fn renew(&mut self, holder: usize, ttl: i64, now: i64) -> i64 {
        let deadline = self.0.get_mut(&holder).filter(|deadline| **deadline > now);
        deadline.map_or(0, |deadline| {
            *deadline = now + ttl;
            1
        })
    }

    fn release(&mut self, holder: usize, now: i64) -> i64 {
        i64::from(self.0.remove(&holder).is_some_and(|deadline| deadline > now))
    }
}

/// The scripts, with time from outside, do what the model does, whatever holders do: take, ask again, renew, give back,
/// be silent for ever, come back too late, while the cap changes.
#[tokio::test]
async fn the_scripts_agree_with_the_model() {
    const TIME: &str = "redis.call('TIME')";
    const HOLDERS: usize = 12;
    const STEPS: usize = 400;
    let script = |text: &str, time: &str| {
        assert_eq!(text.matches(TIME).count(), 1);
        Script::new(&text.replace(TIME, time))
    };
    let acquire = script(include_str!("../../tenant/quota/src/eval/acquire.lua"), "{ARGV[4], ARGV[5]}");
    let renew = script(include_str!("../../tenant/quota/src/eval/renew.lua"), "{ARGV[3], ARGV[4]}");
    let release = script(include_str!("../../tenant/quota/src/eval/release.lua"), "{ARGV[2], ARGV[3]}");
    let world = World::new().await;
    let mut redis = redis(&world.db.redis_url);
    for seed in 0..20 {
        let mut random = StdRng::seed_from_u64(seed);
        let key = RedisKey::eval_concurrency(OrgId(Uuid::from_u128(seed.into())));
        let mut model = Model::default();
        // In the year 2100, because the key ends by Redis' own clock.
        let (mut now, mut cap) = (4_102_444_800_000_000_i64, 3_i64);
        for step in 0..STEPS {
            now += match random.random_range(0..10) {
                0..4 => 0,
                4..9 => random.random_range(1..20_000),
                _ => random.random_range(100_000..300_000),
            };
            if random.random_range(0..40) == 0 {
                cap = random.random_range(-1..6);
            }
            let holder = random.random_range(0..HOLDERS);
            let ttl = random.random_range(1..100_000_i64);
            let at = (now.div_euclid(1_000_000), now.rem_euclid(1_000_000));
            let (expected, reply) = match random.random_range(0..10) {
                0..5 => {
                    let mut call = acquire.key(&key);
                    call.arg(holder).arg(ttl).arg(cap).arg(at.0).arg(at.1);
                    (model.acquire(holder, ttl, cap, now), call.invoke_async::<Vec<i64>>(&mut redis).await.unwrap())
                }
                5..8 => {
                    let mut call = renew.key(&key);
                    call.arg(holder).arg(ttl).arg(at.0).arg(at.1);
                    (vec![model.renew(holder, ttl, now)], vec![call.invoke_async::<i64>(&mut redis).await.unwrap()])
                }
                _ => {
                    let mut call = release.key(&key);
                    call.arg(holder).arg(at.0).arg(at.1);
                    (vec![model.release(holder, now)], vec![call.invoke_async::<i64>(&mut redis).await.unwrap()])
                }
            };
            assert_eq!(reply, expected, "seed {seed}, step {step}");
            let live = model.0.values().filter(|deadline| **deadline > now).count();
            let from = format!("({now}");
            let held: usize = redis.zcount(&key, from, "+inf").await.unwrap();
            assert_eq!(held, live, "seed {seed}, step {step}");
        }
    }
}
