//! Monthly limits and the audit trail, with both services: what is billed refuses, is told once, and arrives in ClickHouse.

use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use load::corpus::Corpus;
use tenant::invalidate::Invalidator;
use tenant::keys::RedisKey;
use tenant::registry::{Limit, LimitChange, LimitEdit, Meter, Registry};
use tests::{Org, STORED_WITHIN, World, now};

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

async fn told(world: &World, org: &Org, word: &str) -> anyhow::Result<u64> {
    let count =
        format!("SELECT count() FROM audit_log FINAL WHERE org_id = '{}' AND event_type = '{word}'", org.org_id);
    world.clickhouse.number(&count).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_billed_refuses_and_is_told_once() -> anyhow::Result<()> {
    let mut world = World::start_with(&[], &WORKER).await?;
    let (org, registry) = (world.org("metered").await?, registry(&world).await?);
    limit(&registry, &org, 100).await?;
    bill(&world, &org, 90).await?;

    let period = schema::tables::period(i64::try_from(now())?);
    let redis = world.redis().await?;
    let counter = async || -> anyhow::Result<Option<u64>> {
        let key = RedisKey::quota(org.org_id, period, "span_ingested");
        Ok(redis::cmd("GET").arg(key).query_async(&mut redis.clone()).await?)
    };
    until("the counter is what is billed", async || Ok(counter().await? == Some(90))).await?;
    until("the warning is in ClickHouse", async || Ok(told(&world, &org, "quota.warn").await? == 1)).await?;
    let usage = registry.usage(org.org_id).await?;
    let spans = usage.iter().find(|usage| usage.meter == Meter::SpanIngested).unwrap();
    assert_eq!((spans.used, spans.warned_at.is_some(), spans.reached_at), (90, true, None));

    let mut corpus = Corpus::new(1);
    let refusal = world.post_otlp(&org.key, corpus.request(20, now()).body).await?;
    assert_eq!(refusal.status, StatusCode::PAYMENT_REQUIRED);
    assert_eq!((refusal.header("x-quota-meter"), refusal.header("retry-after")), (Some("span_ingested"), None));
    assert!(world.post_otlp(&org.key, corpus.request(6, now()).body).await?.status.is_success(), "what fits passes");
    until("the block is in ClickHouse", async || Ok(told(&world, &org, "quota.block").await? == 1)).await?;
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
    assert_eq!((told(&world, &org, "quota.warn").await?, told(&world, &org, "quota.block").await?), (1, 1));
    let outbox = registry.events(org.org_id, 1000).await?.len() as u64;
    let copied = format!("SELECT count() FROM audit_log FINAL WHERE org_id = '{}'", org.org_id);
    world.until_number(&copied, outbox).await?;
    world.worker.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_can_be_divided_among_workers() -> anyhow::Result<()> {
    let settings = [&WORKER[..], &[("TRACEBILITY_WORKER_ROLES", "quota,audit")]].concat();
    let mut world = World::start_with(&[("TRACEBILITY_DEPLOYMENT_MODE", "self_hosted")], &settings).await?;
    let (org, registry) = (world.org("divided").await?, registry(&world).await?);
    limit(&registry, &org, 10).await?;
    bill(&world, &org, 10).await?;
    until("the block is in ClickHouse", async || Ok(told(&world, &org, "quota.block").await? == 1)).await?;
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
