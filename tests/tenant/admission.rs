//! Rates and monthly limits in real Redis, on one node and on a cluster.

use std::sync::Arc;
use std::time::{Duration, Instant};

use admission::{Admission, Cost, ITEMS_PER_UNIT, Refused, Scope};
use auth::resolver::PostgresSource;
use auth::{Resolver, TenantContext};
use model::ids::{ApiKeyId, OrgId};
use model::meter::{Meter, Meter as Metered};
use model::rate::{Decision, Limit as RateLimit};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redis::{AsyncCommands, Script};
use registry::{Limit, LimitChange, LimitEdit, NewKey};
use service::settings::parse;
use stack::RedisCluster;
use stores::keys::RedisKey;
use stores::redis::{Redis, connect};
use uuid::Uuid;

use crate::support::World;

/// Middle of November 2026, in ns.
const RECEIVED_AT: i64 = 1_794_700_000_000_000_000;
const PERIOD: u32 = 202_611;
const ONE: Cost = Cost { items: 1, bytes: 100 };

/// A key whose plan has these limits.
struct Limits {
    rps: i32,
    burst: u64,
    org_burst: Option<i32>,
    spans: Option<u64>,
    scopes: &'static [&'static str],
}

impl Default for Limits {
    fn default() -> Self {
        Self { rps: 1, burst: 50, org_burst: None, spans: None, scopes: &["ingest:write"] }
    }
}

async fn tenant(world: &World, limits: Limits) -> Arc<TenantContext> {
    let set = |n| LimitEdit::Set(Limit::AtMost(n));
    let change = LimitChange {
        rps: set(limits.rps as u64),
        burst: set(limits.burst),
        meters: limits.spans.map(|spans| (Metered::SpanIngested, set(spans))).into_iter().collect(),
        ..LimitChange::default()
    };
    world.registry.set_limits(world.org.org_id, &change).await.unwrap();
    if let Some(org_burst) = limits.org_burst {
        let update = sqlx::query("UPDATE tenant_plan_override SET org_rps = 1, org_burst = $1");
        update.bind(org_burst).execute(&world.owner).await.unwrap();
    }
    let slug = format!("project-{}", Uuid::new_v4().simple().to_string().split_at(8).0);
    let org = world.org;
    let project = world.registry.create_project(org.org_id, org.workspace_id, &slug, "A project").await.unwrap();
    let key = world.registry.create_key(org.org_id, project, &NewKey::new("A key", limits.scopes)).await.unwrap();
    Resolver::new(PostgresSource::new(world.pool.clone())).resolve(key.reveal()).await.unwrap()
}

fn redis(url: &str) -> Redis {
    connect(&parse::redis_url(url).unwrap()).unwrap()
}

/// How many of `tries` concurrent requests pass; every charge is kept.
async fn passing(admission: &Admission, tenant: &Arc<TenantContext>, tries: usize, cost: Cost) -> Vec<Refused> {
    let running: Vec<_> = (0..tries)
        .map(|_| {
            let (admission, tenant) = (admission.clone(), Arc::clone(tenant));
            tokio::spawn(
                async move { admission.admit(&tenant, cost, RECEIVED_AT).await.map(|(charge, _)| charge.kept()) },
            )
        })
        .collect();
    let mut refused = Vec::new();
    for run in running {
        refused.extend(run.await.unwrap().err());
    }
    refused
}

async fn used(redis: &Redis, org: OrgId, meter: Meter) -> Option<u64> {
    redis.clone().get(RedisKey::quota(org, PERIOD, meter.as_str())).await.unwrap()
}

/// Exactly a burst passes however many come at once, on any number of nodes, and one more when its time has come.
async fn a_burst_passes_once(world: &World, redis: Redis) {
    let tenant = tenant(world, Limits::default()).await;
    let nodes = [Admission::new(redis.clone(), true), Admission::new(redis.clone(), true)];
    let begun = Instant::now();
    let mut refused = passing(&nodes[0], &tenant, 100, ONE).await;
    refused.extend(passing(&nodes[1], &tenant, 100, ONE).await);
    // One per second comes back while the test runs.
    let passed = 200 - refused.len() as u64;
    assert!((50..=50 + begun.elapsed().as_secs() + 1).contains(&passed), "{passed} passed in {:?}", begun.elapsed());
    let Some(Refused::RateLimited { scope: Scope::Key, retry_after, .. }) = refused.pop() else {
        panic!("{refused:?}")
    };
    assert!(retry_after <= Duration::from_secs(1), "{retry_after:?}");
    let error = nodes[1].precheck(&tenant).unwrap_err();
    assert!(matches!(error, Refused::RateLimited { .. }), "remembered without asking Redis: {error}");
    tokio::time::sleep(retry_after).await;
    nodes[1].precheck(&tenant).unwrap();
    assert_eq!(passing(&nodes[1], &tenant, 1, ONE).await, []);
    assert_eq!(
        used(&redis, tenant.org_id(), Meter::SpanIngested).await,
        Some(passed + 1),
        "who was refused paid nothing"
    );
}

/// A monthly limit lets pass exactly what it says, to the last item.
async fn a_monthly_limit_is_exact(world: &World, redis: Redis) {
    let tenant = tenant(world, Limits { rps: 1000, burst: 1000, spans: Some(100), ..Limits::default() }).await;
    let admission = Admission::new(redis.clone(), true);
    let three = Cost { items: 3, bytes: 10 };
    let refused = passing(&admission, &tenant, 50, three).await;
    assert_eq!(50 - refused.len(), 33);
    let over = |used| Refused::OverQuota { meter: Meter::SpanIngested, limit: 100, used };
    assert_eq!(passing(&admission, &tenant, 1, three).await, [over(99)]);
    assert_eq!(passing(&admission, &tenant, 1, ONE).await, []);
    assert_eq!(passing(&admission, &tenant, 1, ONE).await, [over(100)]);
    assert_eq!(used(&redis, tenant.org_id(), Meter::SpanBytes).await, Some(33 * 10 + 100), "all meters or none");

    // Counted and not enforced, for a deployment that serves its owner.
    let self_hosted = Admission::new(redis.clone(), false);
    assert_eq!(passing(&self_hosted, &tenant, 2, three).await, []);
    assert_eq!(used(&redis, tenant.org_id(), Meter::SpanIngested).await, Some(106));
}

/// A limit that refuses charges no other.
async fn all_or_nothing(world: &World, mut redis: Redis) {
    let admission = Admission::new(redis.clone(), true);
    let limits = Limits { rps: 1, burst: 50, org_burst: Some(2), spans: Some(1_000), ..Limits::default() };
    let first = tenant(world, limits).await;
    let second =
        tenant(world, Limits { rps: 1, burst: 50, org_burst: Some(2), spans: Some(1_000), ..Limits::default() }).await;
    let tat = |tenant: &TenantContext| RedisKey::rate_limit(tenant.org_id(), tenant.api_key_id());
    assert_eq!(passing(&admission, &first, 2, ONE).await, []);
    let refused = passing(&admission, &second, 1, ONE).await;
    assert!(matches!(refused[..], [Refused::RateLimited { scope: Scope::Org, .. }]), "{refused:?}");
    assert!(!redis.exists::<_, bool>(tat(&second)).await.unwrap(), "the key's rate was not charged");
    assert_eq!(used(&redis, first.org_id(), Meter::SpanIngested).await, Some(2));
    let error = admission.precheck(&second).unwrap_err();
    assert!(matches!(error, Refused::RateLimited { scope: Scope::Org, .. }), "another key of the org: {error}");
}

#[tokio::test]
async fn a_burst_passes_once_on_a_node() {
    let world = World::new().await;
    a_burst_passes_once(&world, redis(&world.db.redis_url)).await;
}

#[tokio::test]
async fn a_monthly_limit_is_exact_on_a_node() {
    let world = World::new().await;
    a_monthly_limit_is_exact(&world, redis(&world.db.redis_url)).await;
}

#[tokio::test]
async fn limits_are_charged_all_or_nothing_on_a_node() {
    let world = World::new().await;
    all_or_nothing(&world, redis(&world.db.redis_url)).await;
}

#[tokio::test]
async fn limits_are_charged_exactly_on_a_cluster() {
    let cluster = RedisCluster::start().await.unwrap();
    a_burst_passes_once(&World::new().await, redis(cluster.url())).await;
    a_monthly_limit_is_exact(&World::new().await, redis(cluster.url())).await;
    all_or_nothing(&World::new().await, redis(cluster.url())).await;
}

#[tokio::test]
async fn a_charge_for_unstored_items_is_refunded_and_never_more() {
    let world = World::new().await;
    let redis = redis(&world.db.redis_url);
    let admission = Admission::new(redis.clone(), true);
    let tenant = tenant(&world, Limits { spans: Some(10), ..Limits::default() }).await;
    let ten = Cost { items: 10, bytes: 7 };
    let (charge, rate_limit) = admission.admit(&tenant, ten, RECEIVED_AT).await.unwrap();
    assert_eq!(rate_limit.map(|s| (s.limit, s.remaining)), Some((50, 49)));
    charge.refunded().await;
    assert_eq!(used(&redis, tenant.org_id(), Meter::SpanIngested).await, Some(0));
    let (charge, _) = admission.admit(&tenant, ten, RECEIVED_AT).await.unwrap();
    // The reconciler found it billed nothing and began anew, just before the refund.
    let recent = RedisKey::quota_recent(tenant.org_id(), PERIOD);
    let _: () = redis.clone().del(&recent).await.unwrap();
    let _: () = redis.clone().set(RedisKey::quota(tenant.org_id(), PERIOD, "span_ingested"), 3).await.unwrap();
    charge.refunded().await;
    assert_eq!(used(&redis, tenant.org_id(), Meter::SpanIngested).await, Some(3));
}

#[tokio::test]
async fn monthly_counters_expire_after_their_month() {
    let world = World::new().await;
    let mut redis = redis(&world.db.redis_url);
    let tenant = tenant(&world, Limits::default()).await;
    let admission = Admission::new(redis.clone(), true);
    assert_eq!(passing(&admission, &tenant, 3, ONE).await, []);
    let org = tenant.org_id();
    let keys = [RedisKey::quota(org, PERIOD, "span_ingested"), RedisKey::quota_recent(org, PERIOD)];
    for key in keys {
        assert!(redis.ttl::<_, i64>(&key).await.unwrap() > 31 * 86_400, "{key}");
    }
    let rate = RedisKey::rate_limit(org, tenant.api_key_id());
    assert!((1..=51).contains(&redis.ttl::<_, i64>(&rate).await.unwrap()), "only as long as it says anything");
    let minute = RECEIVED_AT / 60_000_000_000;
    let recent: u64 = redis.hget(RedisKey::quota_recent(org, PERIOD), format!("{minute}:span_ingested")).await.unwrap();
    assert_eq!(recent, 3);
}

#[tokio::test]
async fn a_request_larger_than_its_limit_is_told_that_it_can_never_pass() {
    let world = World::new().await;
    let redis = redis(&world.db.redis_url);
    let admission = Admission::new(redis, true);
    let tenant = tenant(&world, Limits { burst: 5, ..Limits::default() }).await;
    let cost = |items| Cost { items, bytes: 0 };
    let error = admission.admit(&tenant, cost(5 * ITEMS_PER_UNIT + 1), RECEIVED_AT).await.unwrap_err();
    assert!(matches!(error, Refused::TooCostly { units: 6, .. }), "{error}");
    assert!(error.to_string().ends_with("send at most 5000 items per request"), "{error}");
    assert_eq!(passing(&admission, &tenant, 1, cost(5 * ITEMS_PER_UNIT)).await, []);
}

#[tokio::test]
async fn a_zero_limit_forbids_and_internal_keys_are_only_metered() {
    let world = World::new().await;
    let redis = redis(&world.db.redis_url);
    let admission = Admission::new(redis.clone(), true);
    let nothing = tenant(&world, Limits { burst: 0, ..Limits::default() }).await;
    assert_eq!(admission.precheck(&nothing), Err(Refused::Forbidden { scope: Scope::Key }));
    let ours = tenant(&world, Limits { burst: 0, scopes: &["ingest:write", "internal:*"], ..Limits::default() }).await;
    admission.precheck(&ours).unwrap();
    assert_eq!(passing(&admission, &ours, 9, ONE).await, []);
    assert_eq!(used(&redis, ours.org_id(), Meter::SpanIngested).await, Some(9));
}

#[tokio::test]
async fn without_redis_the_node_decides_alone() {
    let world = World::new().await;
    let tenant = tenant(&world, Limits::default()).await;
    let admission = Admission::new(redis("redis://127.0.0.1:1/0"), true);
    let passed = (0..100).filter(|_| admission.precheck(&tenant).is_ok()).count();
    assert!((50..=60).contains(&passed), "its own limiter holds: {passed}");
    let (charge, rate_limit) = admission.admit(&tenant, ONE, RECEIVED_AT).await.unwrap();
    assert_eq!(rate_limit, None);
    charge.refunded().await;
}

/// The script, with time from outside, decides as the model does, over random costs, pauses and clocks that jump.
#[tokio::test]
async fn the_script_agrees_with_the_model() {
    const TIME: &str = "redis.call('TIME')";
    const ADMIT: &str = include_str!("../../tenant/admission/src/admit.lua");
    // Keys end by Redis' own clock, which is not the one of this test.
    const END: &str = ", 'PX', math.ceil((tats[i] - now) / 1000) + 1";
    assert_eq!((ADMIT.matches(TIME).count(), ADMIT.matches(END).count()), (1, 1));
    let script = Script::new(&ADMIT.replace(TIME, "{ARGV[8], ARGV[9]}").replace(END, ""));
    let world = World::new().await;
    let mut redis = redis(&world.db.redis_url);
    for seed in 0..30 {
        let mut random = StdRng::seed_from_u64(seed);
        let (org, key) = (OrgId(Uuid::from_u128(seed.into())), ApiKeyId(Uuid::from_u128(seed.into())));
        let limit = |random: &mut StdRng| match RateLimit::of_plan(
            random.random_range(1..5_000),
            random.random_range(1..100),
        ) {
            RateLimit::Rate(rate) => rate,
            other => panic!("{other:?}"),
        };
        let rates = [limit(&mut random), limit(&mut random)];
        let mut tats = [0_i64; 2];
        let mut now_us = 1_794_700_000_000_000_i64;
        for step in 0..200 {
            now_us += match random.random_range(0..20) {
                0 => random.random_range(-3_600_000_000..3_600_000_000),
                1..5 => 0,
                _ => random.random_range(0..50_000),
            };
            let cost = random.random_range(1..=rates[0].burst().min(rates[1].burst()));
            let decisions = [0, 1].map(|i| rates[i].decide(tats[i], now_us, cost));
            let expected = match decisions {
                [Decision::Pass { tat_us: key }, Decision::Pass { tat_us: org }] => {
                    tats = [key, org];
                    (0, key - now_us)
                }
                [Decision::Wait(wait), _] => (1, wait.as_micros() as i64),
                [_, Decision::Wait(wait)] => (2, wait.as_micros() as i64),
                other => panic!("{other:?}"),
            };
            let mut call = script.key(RedisKey::rate_limit(org, key));
            call.key(RedisKey::org_rate_limit(org)).key(RedisKey::quota_recent(org, PERIOD)).arg(cost);
            for rate in &rates {
                call.arg(rate.interval_us()).arg(rate.tolerance_us());
            }
            call.arg(0).arg(60).arg(now_us.div_euclid(1_000_000)).arg(now_us.rem_euclid(1_000_000));
            let reply: Vec<i64> = call.invoke_async(&mut redis).await.unwrap();
            assert_eq!((reply[0], reply[1]), expected, "seed {seed}, step {step}");
        }
    }
}

#[tokio::test]
async fn a_charge_neither_kept_nor_refunded_is_counted() {
    let world = World::new().await;
    let admission = Admission::new(redis(&world.db.redis_url), true);
    let tenant = tenant(&world, Limits::default()).await;
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let (kept, _) = admission.admit(&tenant, ONE, RECEIVED_AT).await.unwrap();
    metrics::with_local_recorder(&recorder, || kept.kept());
    assert!(!recorder.handle().render().contains("charges_dropped"));
    let (forgotten, _) = admission.admit(&tenant, ONE, RECEIVED_AT).await.unwrap();
    metrics::with_local_recorder(&recorder, || drop(forgotten));
    assert!(recorder.handle().render().contains("tracebility_charges_dropped_total 1"));
}
