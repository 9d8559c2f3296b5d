//! Monthly limits and the audit trail, with both services: what is billed refuses, is told once, and arrives in
//! ClickHouse.

use std::time::{Duration, Instant};

use auth::invalidate::Invalidator;
use http::{Method, StatusCode};
use load::corpus::Corpus;
use model::ids::OrgId;
use model::meter::Meter;
use model::org::OverQuota;
use model::shard::Shard;
use quota::{ParkedAmount, ParkedEnvelopes, ParkedId};
use redis::streams::StreamRangeReply;
use registry::{Limit, LimitChange, LimitEdit, Registry};
use stores::keys::RedisKey;
use stores::redis::Redis;
use tests::{Org, STORED_WITHIN, World, now};
use uuid::Uuid;
use wire::envelope::Verified;

/// Everything at once, so that a test need not wait for it.
const WORKER: [(&str, &str); 3] = [
    ("TRACEBILITY_QUOTA_EVERY", "200ms"),
    ("TRACEBILITY_QUOTA_SETTLE", "0ms"),
    ("TRACEBILITY_AUDIT_PUBLISH_EVERY", "50ms"),
];

async fn until(what: &str, mut holds: impl AsyncFnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !holds().await? {
        anyhow::ensure!(begun.elapsed() < STORED_WITHIN, "{what} does not hold after {STORED_WITHIN:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// A registry whose changes hold at once.
async fn registry(world: &World) -> anyhow::Result<Registry> {
    Ok(world.registry().await?.announcing(Invalidator::new(world.redis().await?)))
}

async fn limit(registry: &Registry, org: &Org, spans: u64) -> anyhow::Result<()> {
    let meters = vec![(Meter::SpanIngested, LimitEdit::Set(Limit::AtMost(spans)))];
    registry.set_limits(org.org_id, &LimitChange { meters, ..LimitChange::default() }).await?;
    Ok(())
}

/// Bills an org as the worker would have some minutes ago; in the first of a month, at its beginning.
async fn bill(world: &World, org: &Org, spans: u64) -> anyhow::Result<()> {
    let Org { org_id, project_id, .. } = org;
    let insert = format!(
        "INSERT INTO billing_meter (org_id, project_id, envelope_id, meter, period, quantity, received_at)
         SELECT '{org_id}', '{project_id}', generateUUIDv4(), 'span_ingested', toYYYYMM(now('UTC')), {spans},
                greatest(now('UTC') - INTERVAL 10 MINUTE, toStartOfMonth(now('UTC')))"
    );
    world.clickhouse.text(&insert).await.map(drop)
}

async fn audit_events(world: &World, org: &Org, word: &str) -> anyhow::Result<u64> {
    let count =
        format!("SELECT count() FROM audit_log FINAL WHERE org_id = '{}' AND event_type = '{word}'", org.org_id);
    world.clickhouse.number(&count).await
}

#[tokio::test(flavor = "multi_thread")]
async fn billed_usage_over_the_limit_refuses_requests_and_is_announced_once() -> anyhow::Result<()> {
    let mut world = World::start_with(&[], &WORKER).await?;
    let (org, registry) = (world.org("metered").await?, registry(&world).await?);
    limit(&registry, &org, 100).await?;
    bill(&world, &org, 90).await?;

    let period = model::meter::period(i64::try_from(now())?);
    let redis = world.redis().await?;
    let counter = async || -> anyhow::Result<Option<u64>> {
        let key = RedisKey::quota(org.org_id, period, "span_ingested");
        Ok(redis::cmd("GET").arg(key).query_async(&mut redis.clone()).await?)
    };
    until("the counter is what is billed", async || Ok(counter().await? == Some(90))).await?;
    until("the warning is in ClickHouse", async || Ok(audit_events(&world, &org, "quota.warn").await? == 1)).await?;
    let usage = registry.usage(org.org_id).await?;
    let spans = usage.iter().find(|usage| usage.meter == Meter::SpanIngested).unwrap();
    assert_eq!((spans.used, spans.warned_at.is_some(), spans.reached_at), (90, true, None));

    let mut corpus = Corpus::new(1);
    let refusal = world.post_otlp(&org.key, corpus.request(20, now()).body).await?;
    assert_eq!(refusal.status, StatusCode::PAYMENT_REQUIRED);
    assert_eq!((refusal.header("x-quota-meter"), refusal.header("retry-after")), (Some("span_ingested"), None));
    assert!(world.post_otlp(&org.key, corpus.request(6, now()).body).await?.status.is_success(), "what fits passes");
    until("the block is in ClickHouse", async || Ok(audit_events(&world, &org, "quota.block").await? == 1)).await?;
    until("what was accepted is counted", async || Ok(counter().await? == Some(96))).await?;

    // A worker that is killed and comes back tells nothing twice, and loses nothing of what is queued.
    world.worker.kill().await?;
    assert!(world.post_otlp(&org.key, corpus.request(3, now()).body).await?.status.is_success());
    world.worker.start().await?;
    world.until_drained().await?;
    let metrics = format!("{}/metrics", world.worker.url());
    until("the new worker has summed up", async || {
        let answer = world.http.send(Method::GET, &metrics, &[], "").await?;
        Ok(String::from_utf8_lossy(&answer.body).contains("tracebility_quota_reconciled_at_seconds"))
    })
    .await?;
    assert_eq!(counter().await?, Some(99));
    assert_eq!(world.clickhouse.number("SELECT count() FROM span").await?, 9);

    // More is allowed, at once.
    limit(&registry, &org, 1_000).await?;
    until("the new limit holds", async || {
        let answer = world.post_otlp(&org.key, corpus.request(20, now()).body).await?;
        Ok(answer.status.is_success())
    })
    .await?;
    world.until_drained().await?;
    assert_eq!(counter().await?, Some(119));
    assert_eq!(
        (audit_events(&world, &org, "quota.warn").await?, audit_events(&world, &org, "quota.block").await?),
        (1, 1)
    );
    let outbox = registry.events(org.org_id, 1000).await?.len() as u64;
    let copied = format!("SELECT count() FROM audit_log FINAL WHERE org_id = '{}'", org.org_id);
    world.until_number(&copied, outbox).await?;
    world.worker.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_roles_can_be_divided_among_workers() -> anyhow::Result<()> {
    let settings = [&WORKER[..], &[("TRACEBILITY_WORKER_ROLES", "quota,audit")]].concat();
    let mut world = World::start_with(&[("TRACEBILITY_DEPLOYMENT_MODE", "self_hosted")], &settings).await?;
    let (org, registry) = (world.org("divided").await?, registry(&world).await?);
    limit(&registry, &org, 10).await?;
    bill(&world, &org, 10).await?;
    until("the block is in ClickHouse", async || Ok(audit_events(&world, &org, "quota.block").await? == 1)).await?;
    let answer = world.post_otlp(&org.key, Corpus::new(1).request(3, now()).body).await?;
    assert!(answer.status.is_success(), "a self-hosted API only counts");
    assert_eq!(world.waiting().await?.iter().sum::<u64>(), 1, "nobody reads the shards");
    world.worker.set_env("TRACEBILITY_WORKER_ROLES", "shards");
    world.worker.stop().await?;
    world.worker.start().await?;
    world.until_drained().await?;
    assert_eq!(world.clickhouse.number("SELECT count() FROM span").await?, 3);
    Ok(())
}

/// Two orgs of one shard.
async fn neighbours(world: &World) -> anyhow::Result<(Org, Org)> {
    let (one, shard) = (OrgId(Uuid::new_v4()), |org: OrgId| Shard::home(org));
    let mut ids = std::iter::repeat_with(|| OrgId(Uuid::new_v4()));
    let other = ids.find(|id| shard(*id) == shard(one)).unwrap();
    Ok((world.org_with_id(one, "over").await?, world.org_with_id(other, "neighbour").await?))
}

/// Starts a world in which nobody reads the shards yet, so that what is sent stays in flight.
async fn in_flight() -> anyhow::Result<World> {
    let settings = [&WORKER[..], &[("TRACEBILITY_WORKER_ROLES", "quota,audit")]].concat();
    World::start_with(&[], &settings).await
}

/// Lets the worker read the shards, and waits until it has.
async fn drain(world: &mut World) -> anyhow::Result<()> {
    world.worker.set_env("TRACEBILITY_WORKER_ROLES", "shards,quota,audit");
    world.worker.stop().await?;
    world.worker.start().await?;
    world.until_drained().await
}

async fn send(world: &World, org: &Org, corpus: &mut Corpus, requests: usize) -> anyhow::Result<()> {
    for _ in 0..requests {
        anyhow::ensure!(world.post_otlp(&org.key, corpus.request(10, now()).body).await?.status.is_success());
    }
    Ok(())
}

/// Waits until the reconciler has found an org to be over, or not.
async fn until_flag(redis: &Redis, org: &Org, wanted: Option<OverQuota>) -> anyhow::Result<()> {
    let period = model::meter::period(i64::try_from(now())?);
    until("the flag", async || Ok(quota::read(redis, org.org_id, period).await? == wanted)).await
}

/// Rows of an org, and what it is billed, without FINAL.
async fn stored(world: &World, org: &Org) -> anyhow::Result<(u64, u64)> {
    let spans = format!("SELECT count() FROM span WHERE org_id = '{}'", org.org_id);
    let billed =
        format!("SELECT sum(quantity) FROM billing_meter WHERE meter = 'span_ingested' AND org_id = '{}'", org.org_id);
    Ok((world.clickhouse.number(&spans).await?, world.clickhouse.number(&billed).await?))
}

/// What the ledger counts as dropped, or parked.
async fn withheld(redis: &Redis, org: &Org, how: &str) -> anyhow::Result<u64> {
    let key = RedisKey::outcomes(Some(org.org_id), stores::clock::unix_hour());
    let sums: Vec<(String, u64)> = redis::cmd("HGETALL").arg(key).query_async(&mut redis.clone()).await?;
    let suffix = format!(":over_quota:{how}");
    Ok(sums.iter().filter(|(field, _)| field.ends_with(&suffix)).map(|(_, items)| items).sum())
}

/// The limit falls below what is in flight: that org's envelopes wait until it is raised, and its neighbour's do not.
#[tokio::test(flavor = "multi_thread")]
async fn envelopes_over_a_lowered_limit_are_parked_and_released_exactly_once() -> anyhow::Result<()> {
    let mut world = in_flight().await?;
    let (org, neighbour) = neighbours(&world).await?;
    let (redis, registry, mut corpus) = (world.redis().await?, registry(&world).await?, Corpus::new(1));
    let key = registry.envelope_key().await?;
    let verified = |bytes: Vec<u8>| Verified::check(&key, bytes).map_err(|unverified| unverified.error);
    send(&world, &org, &mut corpus, 3).await?;
    send(&world, &neighbour, &mut corpus, 2).await?;
    limit(&registry, &org, 29).await?;
    until_flag(&redis, &org, Some(OverQuota::Park)).await?;

    // Somebody has parked the second envelope already, and the third was even released, when the shard's next owner
    // finds them: as if an owner had crashed before it was done with its batch, or came late.
    let (parked, shard) = (ParkedEnvelopes::new(redis.clone()), Shard::home(org.org_id));
    let stream = RedisKey::shard_stream(shard);
    let all: StreamRangeReply =
        redis::cmd("XRANGE").arg(&stream).arg("-").arg("+").query_async(&mut redis.clone()).await?;
    for entry in &all.ids[1..3] {
        let (id, envelope) = (ParkedId { shard, entry: entry.id.parse()? }, entry.get::<Vec<u8>>("e").unwrap());
        parked.park(org.org_id, id, &envelope).await?;
        if entry.id == all.ids[2].id {
            parked.release(org.org_id, id, &verified(envelope)?, &key).await?;
        }
    }
    drain(&mut world).await?;
    assert_eq!(stored(&world, &neighbour).await?, (20, 20), "the neighbour is stored");
    assert_eq!(stored(&world, &org).await?, (10, 10), "what was released is stored, and nothing else");
    let ids = parked.ids(org.org_id).await?;
    assert_eq!(
        (ids.len(), parked.amount(org.org_id).await?.envelopes, withheld(&redis, &org, "parked").await?),
        (2, 2, 30)
    );
    until("the audit trail knows", async || Ok(audit_events(&world, &org, "quota.park").await? >= 1)).await?;

    limit(&registry, &org, 1_000).await?;
    for id in ids {
        let envelope = verified(parked.read(org.org_id, id).await?.unwrap())?;
        // Twice, as after a crash in the middle.
        parked.release(org.org_id, id, &envelope, &key).await?;
        parked.release(org.org_id, id, &envelope, &key).await?;
    }
    world.until_drained().await?;
    assert_eq!(stored(&world, &org).await?, (30, 30));
    assert_eq!(parked.amount(org.org_id).await?, ParkedAmount::default());
    send(&world, &org, &mut corpus, 1).await?;
    world.until_drained().await?;
    assert_eq!(stored(&world, &org).await?, (40, 40), "it goes on as before");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn envelopes_over_a_lowered_limit_are_dropped_and_counted_if_the_org_chose_so() -> anyhow::Result<()> {
    let mut world = in_flight().await?;
    let (org, neighbour) = neighbours(&world).await?;
    let (redis, registry, mut corpus) = (world.redis().await?, registry(&world).await?, Corpus::new(1));
    let policy = LimitChange { over_quota: Some(OverQuota::Drop), ..LimitChange::default() };
    registry.set_limits(org.org_id, &policy).await?;
    send(&world, &org, &mut corpus, 3).await?;
    send(&world, &neighbour, &mut corpus, 2).await?;
    limit(&registry, &org, 29).await?;
    until_flag(&redis, &org, Some(OverQuota::Drop)).await?;
    drain(&mut world).await?;
    assert_eq!((stored(&world, &org).await?, stored(&world, &neighbour).await?), ((0, 0), (20, 20)));
    assert_eq!(withheld(&redis, &org, "dropped").await?, 30, "what is dropped is counted");
    assert_eq!(ParkedEnvelopes::new(redis.clone()).amount(org.org_id).await?, ParkedAmount::default());
    until("the audit trail knows", async || Ok(audit_events(&world, &org, "quota.drop").await? >= 1)).await?;
    let items = "SELECT max(JSONExtractUInt(detail, 'items')) FROM audit_log FINAL WHERE event_type = 'quota.drop'";
    world.until_number(items, 30).await
}

/// Lost counters: the edge lets pass what it should not, until the reconciler has summed up. Where nothing is parked,
/// for want of room, all of it is stored.
#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_over_quota_is_stored_when_there_is_no_room_to_park_it() -> anyhow::Result<()> {
    let mut world = in_flight().await?;
    let org = world.org("roomless").await?;
    let (redis, registry, mut corpus) = (world.redis().await?, registry(&world).await?, Corpus::new(1));
    send(&world, &org, &mut corpus, 2).await?;
    limit(&registry, &org, 19).await?;
    until_flag(&redis, &org, Some(OverQuota::Park)).await?;
    world.worker.set_env("TRACEBILITY_QUOTA_PARKED_BYTES_MAX", "0B");
    drain(&mut world).await?;
    assert_eq!((stored(&world, &org).await?, withheld(&redis, &org, "parked").await?), ((20, 20), 0));
    Ok(())
}
