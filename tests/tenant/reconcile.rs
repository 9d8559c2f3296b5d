//! Monthly usage: what is billed, what the counters say, and what an org is told.

mod doors;

use std::sync::Arc;
use std::time::Duration;

use admission::{Admission, Charge, Cost, Refused};
use auth::resolver::PostgresSource;
use auth::{Resolver, TenantContext};
use migrate::{Options, Target};
use model::ids::OrgId;
use model::meter::Meter;
use model::org::OverQuota;
use model::shard::Shard;
use model::trace::UnixNanos;
use quota::reconcile::{Base, QuotaReconciler, Report, rebase};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redis::AsyncCommands;
use registry::event::EventType;
use registry::{Limit, LimitChange, LimitEdit, MeterUsage, NewKey, NewOrg, Registry};
use service::settings::parse;
use stack::RedisCluster;
use stores::clickhouse::Records;
use stores::keys::RedisKey;
use stores::redis::{Redis, connect};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::clickhouse::raw_client;
use crate::support::{World, stores};

/// Middle of November 2026, at the beginning of a minute, in ns.
const NOON: UnixNanos = 29_911_666 * MINUTE;
const MINUTE: i64 = 60_000_000_000;
const PERIOD: u32 = 202_611;

fn redis(url: &str) -> Redis {
    connect(&parse::redis_url(url).unwrap()).unwrap()
}

async fn limit(world: &World, org: OrgId, spans: Limit) {
    let change = LimitChange {
        meters: vec![
            (Meter::SpanIngested, LimitEdit::Set(spans)),
            (Meter::SpanBytes, LimitEdit::Set(Limit::Unlimited)),
        ],
        ..LimitChange::default()
    };
    world.registry.set_limits(org, &change).await.unwrap();
}

/// A key that no rate holds, only the monthly limit.
async fn tenant(world: &World, spans: u64) -> Arc<TenantContext> {
    let org = world.org;
    limit(world, org.org_id, Limit::AtMost(spans)).await;
    let slug = format!("project-{}", Uuid::new_v4().simple().to_string().split_at(8).0);
    let project = world.registry.create_project(org.org_id, org.workspace_id, &slug, "A project").await.unwrap();
    let new = NewKey::new("A key", &["ingest:write", "internal:*"]);
    let key = world.registry.create_key(org.org_id, project, &new).await.unwrap();
    Resolver::new(PostgresSource::new(world.pool.clone())).resolve(key.reveal()).await.unwrap()
}

/// What was charged to a counter, by when it was received, and where it is now.
#[derive(Default)]
struct LedgerReader {
    /// In a stream, oldest first.
    queued: Vec<(i64, u64)>,
    /// In ClickHouse, by the time of receipt, as billed.
    billed: Vec<(i64, u64)>,
    /// Charged by somebody who died before the append.
    leaked: Vec<(i64, u64)>,
    /// Charged by somebody who is about to append or to refund.
    open: Vec<(i64, u64, Charge)>,
    /// The minute of the last re-base.
    watermark: i64,
}

impl LedgerReader {
    fn sum(list: &[(i64, u64)], from: i64, to: i64) -> u64 {
        list.iter().filter(|(minute, _)| (from..to).contains(minute)).map(|(_, items)| items).sum()
    }

    /// What the counter must say: all that is billed and all that is queued; and of what leaked, or is open, the part
    /// that no re-base has gone past.
    fn expected(&self) -> u64 {
        let open: Vec<_> = self.open.iter().map(|(minute, items, _)| (*minute, *items)).collect();
        let all = |list| Self::sum(list, i64::MIN, i64::MAX);
        let young = |list| Self::sum(list, self.watermark, i64::MAX);
        all(&self.billed) + all(&self.queued) + young(&self.leaked) + young(&open)
    }

    fn stored(&self) -> u64 {
        Self::sum(&self.billed, i64::MIN, i64::MAX) + Self::sum(&self.queued, i64::MIN, i64::MAX)
    }
}

/// Random requests, refunds, deaths and re-bases, late, twice, or never: the counter is what is billed and in flight,
/// to the item, and no more is stored than the limit allows.
async fn the_counter_is_conserved(world: &World, redis: &Redis, seeds: std::ops::Range<u64>) {
    const LIMIT: u64 = 200;
    /// How many minutes an open request can be old before it is appended; the watermark stays behind by as many.
    const SETTLE: i64 = 2;
    let admission = Admission::new(redis.clone(), true);
    let tenant = tenant(world, LIMIT).await;
    let org = tenant.org_id();
    let counter = RedisKey::quota(org, PERIOD, "span_ingested");
    let (mut refused, mut corrected, mut late) = (0, 0, 0);
    for seed in seeds {
        let mut random = StdRng::seed_from_u64(seed);
        let over = RedisKey::quota_over(org, PERIOD);
        for key in [&counter, &RedisKey::quota_recent(org, PERIOD), &over] {
            let _: () = redis.clone().del(key).await.unwrap();
        }
        let mut books = LedgerReader::default();
        let mut minute = NOON / MINUTE;
        // Of a process that has summed up and not yet written: the minute, and what was billed.
        let mut summed: Option<(i64, u64)> = None;
        for step in 0..300 {
            let at = format!("seed {seed}, step {step}");
            match random.random_range(0..100) {
                0..40 => {
                    let items = random.random_range(1..12);
                    match admission.admit(&tenant, Cost { items, bytes: 1 }, minute * MINUTE).await {
                        Ok((charge, _)) => books.open.push((minute, items, charge)),
                        Err(Refused::OverQuota { used, limit: LIMIT, .. }) => {
                            assert!(used + items > LIMIT && used == books.expected(), "{at}");
                            refused += 1;
                        }
                        Err(other) => panic!("{at}: {other}"),
                    }
                }
                40..65 if !books.open.is_empty() => {
                    let (of, items, charge) = books.open.swap_remove(random.random_range(0..books.open.len()));
                    match random.random_range(0..10) {
                        // In time, as the watermark assumes.
                        0..7 if minute - of <= SETTLE => {
                            charge.kept();
                            books.queued.push((of, items));
                        }
                        0..9 => charge.refunded().await,
                        _ => {
                            drop(charge);
                            books.leaked.push((of, items));
                        }
                    }
                }
                65..80 => {
                    let inserted = random.random_range(0..=books.queued.len());
                    books.billed.extend(books.queued.drain(..inserted));
                }
                80..88 => minute += random.random_range(0..3),
                _ => {
                    let oldest = books.queued.iter().map(|(of, _)| *of).min().unwrap_or(minute).min(minute);
                    let watermark = oldest - SETTLE;
                    let sum = (watermark, LedgerReader::sum(&books.billed, i64::MIN, watermark));
                    // One that dies before it writes, one that writes late, one that writes twice.
                    let writes = match random.random_range(0..6) {
                        0 => vec![],
                        1 => summed.replace(sum).into_iter().collect(),
                        2 => vec![sum, sum],
                        3 => summed.take().into_iter().chain([sum]).collect(),
                        4 => [sum].into_iter().chain(summed.take()).collect(),
                        _ => vec![sum],
                    };
                    for (watermark, billed) in writes {
                        let base = Base { meter: Meter::SpanIngested, billed, limit: Some(LIMIT) };
                        let done =
                            rebase(redis, org, PERIOD, watermark * MINUTE, &[base], OverQuota::Park).await.unwrap();
                        assert_eq!(done.is_some(), watermark >= books.watermark, "{at}: only an older one is refused");
                        late += u64::from(done.is_none());
                        corrected += done.unwrap_or_default();
                        books.watermark = books.watermark.max(watermark);
                        let flag: Option<String> = redis.clone().get(&over).await.unwrap();
                        if done.is_some() {
                            let is_over = books.expected() >= LIMIT;
                            assert_eq!(flag.as_deref(), is_over.then_some("span_ingested"), "{at}");
                        }
                    }
                }
            }
            let used: Option<u64> = redis.clone().get(&counter).await.unwrap();
            assert_eq!(used.unwrap_or_default(), books.expected(), "{at}");
            assert!(books.stored() <= LIMIT, "{at}: more than the limit was stored");
        }
    }
    assert!(refused > 20 && corrected > 20 && late > 5, "{refused} {corrected} {late}: too little happened");
}

#[tokio::test]
async fn the_counter_is_conserved_on_a_node() {
    let world = World::new().await;
    the_counter_is_conserved(&world, &redis(&world.db.redis_url), 0..12).await;
}

#[tokio::test]
async fn the_counter_is_conserved_on_a_cluster() {
    let (world, cluster) = (World::new().await, RedisCluster::start().await.unwrap());
    the_counter_is_conserved(&world, &redis(cluster.url()), 100..108).await;
}

/// Real stores, and rows in `billing_meter` as the worker would have written them.
struct Bills {
    world: World,
    redis: Redis,
    clickhouse: clickhouse::Client,
    services: Registry,
}

impl Bills {
    async fn new() -> Self {
        let world = World::new().await;
        migrate::up(Target::Clickhouse, &stores(&world.db), &Options::default()).await.unwrap();
        let (redis, clickhouse) = (redis(&world.db.redis_url), raw_client(&world.db.clickhouse_url));
        let services = Registry::new(world.pool.clone());
        Self { world, redis, clickhouse, services }
    }

    fn records(&self) -> Records {
        Records::new(&self.world.db.clickhouse_url.parse().unwrap())
    }

    fn reconciler(&self, enforced: bool) -> QuotaReconciler {
        QuotaReconciler::new(self.services.clone(), self.redis.clone(), self.records(), enforced)
    }

    /// Twice the same, as after a crash of the worker: it counts once.
    async fn bill(&self, org: OrgId, at: UnixNanos, spans: u64) {
        let (envelope, period) = (Uuid::new_v4(), model::meter::period(at));
        for _ in 0..2 {
            let insert = format!(
                "INSERT INTO billing_meter (org_id, project_id, envelope_id, meter, period, quantity, received_at)
                 SELECT '{org}', '{org}', '{envelope}', 'span_ingested', {period}, {spans},
                        fromUnixTimestamp64Nano(toInt64({at}), 'UTC')"
            );
            self.clickhouse.query(&insert).execute().await.unwrap();
        }
    }

    async fn counter(&self, org: OrgId, period: u32) -> Option<u64> {
        self.redis.clone().get(RedisKey::quota(org, period, "span_ingested")).await.unwrap()
    }

    async fn over(&self, org: OrgId) -> Option<String> {
        self.redis.clone().get(RedisKey::quota_over(org, PERIOD)).await.unwrap()
    }

    async fn used(&self, org: OrgId, period: u32) -> Option<i64> {
        let usage = self.services.usage(org).await.unwrap();
        let of = |u: &&registry::PeriodUsage| u.meter == Meter::SpanIngested && u.period == period as i32;
        usage.iter().find(of).map(|usage| usage.used)
    }

    /// Quota events of an org, oldest first: what, of how many, up to which percentage.
    async fn quota_events(&self, org: OrgId) -> Vec<(String, i64, i64)> {
        let events = self.services.events(org, 100).await.unwrap();
        let quota = events.iter().rev().filter(|event| event.event_type.starts_with("quota."));
        quota
            .map(|event| {
                assert_eq!(
                    (event.actor.as_str(), event.target.as_deref()),
                    ("quota-reconciler", Some("span_ingested"))
                );
                let number = |name: &str| event.detail[name].as_i64().unwrap();
                (event.event_type.clone(), number("limit"), number("percent"))
            })
            .collect()
    }
}

fn event(word: &str, limit: i64, percent: i64) -> (String, i64, i64) {
    (word.to_owned(), limit, percent)
}

#[tokio::test]
async fn billed_usage_is_summed_up_and_announced_once() {
    let bills = Bills::new().await;
    let (a, reconciler) = (bills.world.org.org_id, bills.reconciler(true));
    let b = bills.world.registry.create_org(&NewOrg::new("other", "Other", "pro")).await.unwrap().org_id;
    limit(&bills.world, a, Limit::AtMost(100)).await;
    bills.bill(a, NOON - 9 * MINUTE, 70).await;
    bills.bill(a, NOON - MINUTE, 25).await; // after the watermark
    bills.bill(b, NOON - 9 * MINUTE, 1_000).await;

    let report = reconciler.tick_at(NOON).await.unwrap();
    let expected = Report { watermark: NOON - 2 * MINUTE, orgs: 2, corrections: 2, told: 0, failed: 0 };
    assert_eq!(report, expected);
    assert_eq!((bills.used(a, PERIOD).await, bills.used(b, PERIOD).await), (Some(70), Some(1_000)));
    assert_eq!((bills.counter(a, PERIOD).await, bills.counter(b, PERIOD).await), (Some(70), Some(1_000)));
    assert_eq!((bills.over(a).await, bills.quota_events(a).await), (None, vec![]));

    // Two at once, and again: one event, and the same sums.
    let later = NOON + 5 * MINUTE;
    let (one, two) = tokio::join!(reconciler.tick_at(later), reconciler.tick_at(later));
    assert_eq!(one.unwrap().told + two.unwrap().told, 1);
    assert_eq!(
        reconciler.tick_at(later).await.unwrap(),
        Report { watermark: later - 2 * MINUTE, corrections: 0, told: 0, ..expected }
    );
    assert_eq!(bills.quota_events(a).await, [event("quota.warn", 100, 80)]);
    assert_eq!((bills.used(a, PERIOD).await, bills.counter(a, PERIOD).await), (Some(95), Some(95)));

    // An older watermark changes nothing, in either store.
    let late = reconciler.tick_at(NOON).await.unwrap();
    assert_eq!((late.corrections, bills.used(a, PERIOD).await), (0, Some(95)));

    bills.bill(a, NOON, 5).await;
    assert_eq!(reconciler.tick_at(later).await.unwrap().told, 1);
    assert_eq!(bills.quota_events(a).await[1..], [event("quota.block", 100, 100)]);
    assert_eq!((bills.over(a).await.as_deref(), bills.over(b).await), (Some("span_ingested"), None));

    // The limit is raised: the flag goes, and a later crossing is told again.
    limit(&bills.world, a, Limit::AtMost(200)).await;
    assert_eq!(reconciler.tick_at(later).await.unwrap().told, 0);
    assert_eq!(bills.over(a).await, None);
    bills.bill(a, NOON, 60).await;
    assert_eq!(reconciler.tick_at(later).await.unwrap().told, 1);
    assert_eq!(bills.quota_events(a).await[2..], [event("quota.warn", 200, 80)]);

    // The counters were lost with Redis.
    for key in [RedisKey::quota(a, PERIOD, "span_ingested"), RedisKey::quota_recent(a, PERIOD)] {
        let _: () = bills.redis.clone().del(key).await.unwrap();
    }
    assert_eq!(reconciler.tick_at(later).await.unwrap().corrections, 1);
    assert_eq!(bills.counter(a, PERIOD).await, Some(160));
    let ttl: i64 = bills.redis.clone().ttl(RedisKey::quota(a, PERIOD, "span_ingested")).await.unwrap();
    assert!(ttl > 60 * 86_400, "and end with their month: {ttl}");
}

#[tokio::test]
async fn a_crash_between_postgres_and_redis_is_repaired_by_the_next_tick() {
    let bills = Bills::new().await;
    let (org, reconciler) = (bills.world.org.org_id, bills.reconciler(true));
    limit(&bills.world, org, Limit::AtMost(100)).await;
    bills.bill(org, NOON - 9 * MINUTE, 100).await;
    // As far as Postgres.
    let at = OffsetDateTime::from_unix_timestamp_nanos((NOON - 2 * MINUTE).into()).unwrap();
    let usage = [MeterUsage { meter: Meter::SpanIngested, used: 100, refused_at: None }];
    let crashed = bills.services.clone().acting_as("quota-reconciler");
    let recorded = crashed.record_usage(org, PERIOD, at, &usage, true).await.unwrap();
    assert_eq!(recorded.events, [EventType::QuotaWarn, EventType::QuotaBlock]);
    assert_eq!((bills.counter(org, PERIOD).await, bills.over(org).await), (None, None));

    let report = reconciler.tick_at(NOON).await.unwrap();
    assert_eq!((report.told, report.corrections), (0, 1));
    assert_eq!(
        (bills.counter(org, PERIOD).await, bills.over(org).await.as_deref()),
        (Some(100), Some("span_ingested"))
    );
    assert_eq!(bills.quota_events(org).await, [event("quota.warn", 100, 80), event("quota.block", 100, 100)]);
}

#[tokio::test]
async fn a_refused_org_is_told_so_even_below_its_limit() {
    let bills = Bills::new().await;
    let tenant = tenant(&bills.world, 100).await;
    let admission = Admission::new(bills.redis.clone(), true);
    let batch = Cost { items: 30, bytes: 1 };
    for _ in 0..3 {
        admission.admit(&tenant, batch, NOON).await.unwrap().0.kept();
    }
    let refusal = admission.admit(&tenant, batch, NOON).await.unwrap_err();
    assert!(matches!(refusal, Refused::OverQuota { used: 90, limit: 100, .. }), "{refusal}");
    // Nothing is billed yet, and nothing is lost: it is still in the stream.
    let org = tenant.org_id();
    assert_eq!(bills.reconciler(true).tick_at(NOON + MINUTE).await.unwrap().told, 1);
    assert_eq!((bills.counter(org, PERIOD).await, bills.used(org, PERIOD).await), (Some(90), Some(0)));
    assert_eq!(bills.quota_events(org).await, [event("quota.block", 100, 100)]);
    assert_eq!(bills.over(org).await, None, "what was accepted is within the limit");
    // The limit is raised: the old refusal says nothing about the new one.
    limit(&bills.world, org, Limit::AtMost(1_000)).await;
    assert_eq!(bills.reconciler(true).tick_at(NOON + MINUTE).await.unwrap().told, 0);
}

#[tokio::test]
async fn a_self_hosted_org_is_warned_at_its_limit_and_not_refused() {
    let bills = Bills::new().await;
    let org = bills.world.org.org_id;
    limit(&bills.world, org, Limit::AtMost(100)).await;
    bills.bill(org, NOON - 9 * MINUTE, 150).await;
    assert_eq!(bills.reconciler(false).tick_at(NOON).await.unwrap().told, 2);
    assert_eq!(bills.quota_events(org).await, [event("quota.warn", 100, 80), event("quota.warn", 100, 100)]);
    assert_eq!((bills.over(org).await, bills.counter(org, PERIOD).await), (None, Some(150)));
}

#[tokio::test]
async fn leaked_charges_are_removed_even_where_nothing_is_billed() {
    let bills = Bills::new().await;
    let tenant = tenant(&bills.world, 10).await;
    let (org, admission) = (tenant.org_id(), Admission::new(bills.redis.clone(), true));
    // The process died between the charge and the append.
    drop(admission.admit(&tenant, Cost { items: 10, bytes: 1 }, NOON).await.unwrap());
    let one = Cost { items: 1, bytes: 1 };
    admission.admit(&tenant, one, NOON).await.unwrap_err();
    bills.reconciler(true).tick_at(NOON + 2 * MINUTE).await.unwrap();
    assert_eq!(bills.counter(org, PERIOD).await, Some(10), "it could still be appended");
    bills.reconciler(true).tick_at(NOON + 3 * MINUTE).await.unwrap();
    assert_eq!(bills.counter(org, PERIOD).await, Some(0));
    admission.admit(&tenant, one, NOON + 3 * MINUTE).await.unwrap().0.kept();
}

#[tokio::test]
async fn a_month_is_summed_up_when_it_is_over() {
    let bills = Bills::new().await;
    let (org, reconciler) = (bills.world.org.org_id, bills.reconciler(true));
    const DECEMBER: UnixNanos = 1_796_083_200_000_000_000;
    bills.bill(org, DECEMBER - MINUTE, 3).await;
    bills.bill(org, DECEMBER + MINUTE, 4).await;
    reconciler.tick_at(DECEMBER + 10 * MINUTE).await.unwrap();
    assert_eq!((bills.used(org, PERIOD).await, bills.used(org, 202_612).await), (Some(3), Some(4)));
    assert_eq!((bills.counter(org, PERIOD).await, bills.counter(org, 202_612).await), (Some(3), Some(4)));
}

#[tokio::test]
async fn one_org_that_fails_does_not_stop_the_others() {
    let bills = Bills::new().await;
    let a = bills.world.org.org_id;
    let b = bills.world.registry.create_org(&NewOrg::new("other", "Other", "pro")).await.unwrap().org_id;
    for org in [a, b] {
        bills.bill(org, NOON - 9 * MINUTE, 7).await;
    }
    let broken = RedisKey::quota_recent(a, PERIOD);
    let _: () = bills.redis.clone().set(&broken, "not a hash").await.unwrap();
    let report = bills.reconciler(true).tick_at(NOON).await.unwrap();
    assert_eq!((report.orgs, report.failed), (1, 1));
    assert_eq!((bills.used(a, PERIOD).await, bills.used(b, PERIOD).await), (None, Some(7)));
    let _: () = bills.redis.clone().del(&broken).await.unwrap();
    bills.reconciler(true).tick_at(NOON).await.unwrap();
    assert_eq!(bills.used(a, PERIOD).await, Some(7), "the next tick does it");
}

/// The watermark stays behind what is queued, in whichever shard, and behind now.
#[tokio::test]
async fn the_watermark_waits_for_the_oldest_entry() {
    let bills = Bills::new().await;
    let cluster = RedisCluster::start().await.unwrap();
    for mut redis in [bills.redis.clone(), redis(cluster.url())] {
        let reconciler = QuotaReconciler::new(bills.services.clone(), redis.clone(), bills.records(), true);
        let now = || i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos()).unwrap();
        let before = now();
        let idle = reconciler.org(bills.world.org.org_id).await.unwrap().watermark;
        let behind = 2 * MINUTE;
        assert!((before - behind - MINUTE..=now() - behind).contains(&idle) && idle % MINUTE == 0, "{idle}");

        let old_ms = before / 1_000_000 - 3_600_000;
        let stream = RedisKey::shard_stream(Shard::new(5).unwrap());
        for id in [old_ms, old_ms + 1_000_000] {
            let _: String = redis.xadd(&stream, format!("{id}-7"), &[("e", "x")]).await.unwrap();
        }
        let waiting = reconciler.tick().await.unwrap().watermark;
        assert_eq!(waiting, (old_ms * 1_000_000 - behind) / MINUTE * MINUTE);
        let _: u64 = redis.del(&stream).await.unwrap();
        let settled = reconciler.clone().with_settle(Duration::ZERO).org(bills.world.org.org_id).await.unwrap();
        assert!(settled.watermark >= idle + behind);
    }
}
