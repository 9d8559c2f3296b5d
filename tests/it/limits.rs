//! What clients meet at the limits of their plan, and what it leaves behind.

use std::time::{Duration, Instant};

use auth::invalidate::Invalidator;
use http::StatusCode;
use load::client::Answer;
use load::corpus::Corpus;
use model::meter::Meter;
use redis::AsyncCommands;
use registry::{Limit, LimitChange, LimitEdit};
use serde_json::json;
use stores::keys::RedisKey;
use tests::{Org, World, now};

async fn limit(world: &World, org: &Org, change: LimitChange) -> anyhow::Result<()> {
    world.registry().await?.set_limits(org.org_id, &change).await?;
    Ok(())
}

fn at_most(n: u64) -> LimitEdit {
    LimitEdit::Set(Limit::AtMost(n))
}

fn number(answer: &Answer, header: &str) -> Option<u64> {
    answer.header(header)?.parse().ok()
}

/// What became of an org's items, as the ledger in Redis says: "outcome:reason" and how many.
async fn outcomes(world: &World, org: &Org) -> anyhow::Result<Vec<(String, u64)>> {
    let hour = i64::try_from(now() / 3_600_000_000_000)?;
    let mut sums = std::collections::BTreeMap::new();
    let mut redis = world.redis().await?;
    for hour in [hour - 1, hour, hour + 1] {
        let fields: Vec<(String, u64)> = redis.hgetall(RedisKey::outcomes(Some(org.org_id), hour)).await?;
        for (field, n) in fields {
            let (_process, what) = field.split_once(':').unwrap_or_default();
            *sums.entry(what.to_owned()).or_default() += n;
        }
    }
    Ok(sums.into_iter().collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_over_its_rate_limit_is_told_when_to_retry() -> anyhow::Result<()> {
    let mut world = World::start().await?;
    let org = world.org("fast").await?;
    limit(&world, &org, LimitChange { rps: at_most(1), burst: at_most(3), ..LimitChange::default() }).await?;
    let body = |n| Corpus::new(n).request(2, now()).body;
    let begun = Instant::now();
    let mut answers = Vec::new();
    for n in 0..6 {
        answers.push(world.post_otlp(&org.key, body(n)).await?);
    }
    let (passed, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == StatusCode::OK);
    // One comes back each second.
    assert!((3..=3 + begun.elapsed().as_secs() as usize + 1).contains(&passed.len()), "{passed:?}");
    let first = passed[0];
    assert_eq!((number(first, "ratelimit-limit"), number(first, "ratelimit-remaining")), (Some(3), Some(2)));
    assert!(number(first, "ratelimit-reset").is_some_and(|s| s <= 1), "{:?}", first.headers);
    for answer in &refused {
        assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!((number(answer, "retry-after"), number(answer, "ratelimit-remaining")), (Some(1), Some(0)));
        let reset = number(answer, "x-ratelimit-reset").unwrap_or_default();
        assert!(reset.abs_diff(now() / 1_000_000_000) <= 3, "{reset}");
        assert!(String::from_utf8_lossy(&answer.body).contains("1 requests per second, 3 at once"), "{answer:?}");
    }
    // An SDK of LangSmith gives up after four tries, so ours are told to wait longer.
    let native = world.post_runs(&org.key, &json!({"runs": []})).await?;
    assert_eq!(native.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(number(&native, "retry-after") >= Some(5), "{native:?}");
    assert_eq!(native.json()?["error"]["code"], "rate_limited");

    world.until_drained().await?;
    let stored = passed.len() as u64 * 2;
    assert_eq!(world.clickhouse.number("SELECT count() FROM span").await?, stored);
    // The last sums are written when the process ends.
    world.api.stop().await?;
    let expected_refused = refused.len() as u64 + 1;
    let sums = outcomes(&world, &org).await?;
    let of = |what: &str| sums.iter().find(|(name, _)| name == what).map_or(0, |(_, n)| *n);
    // Spans, and a run made out of each root is no item that was sent.
    assert_eq!(of("accepted:appended"), stored, "{sums:?}");
    assert_eq!(of("rate_limited:rate_limited"), expected_refused, "{sums:?}");
    assert!(sums.iter().all(|(name, _)| !name.starts_with("defect")), "{sums:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_org_over_its_monthly_limit_is_told_which_meter() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("frugal").await?;
    let change = LimitChange { meters: vec![(Meter::SpanIngested, at_most(5))], ..LimitChange::default() };
    limit(&world, &org, change).await?;
    let body = |n, spans| Corpus::new(n).request(spans, now()).body;
    assert_eq!(world.post_otlp(&org.key, body(1, 4)).await?.status, StatusCode::OK);
    let refused = world.post_otlp(&org.key, body(2, 2)).await?;
    assert_eq!(refused.status, StatusCode::PAYMENT_REQUIRED);
    assert_eq!(refused.header("x-quota-meter"), Some("span_ingested"));
    assert_eq!(refused.header("retry-after"), None, "an SDK would try again for nothing");
    assert_eq!(world.post_otlp(&org.key, body(3, 1)).await?.status, StatusCode::OK, "the last one fits");
    assert_eq!(world.post_otlp(&org.key, body(4, 1)).await?.status, StatusCode::PAYMENT_REQUIRED);
    // Nobody else's month.
    let other = world.org("other").await?;
    assert_eq!(world.post_otlp(&other.key, body(5, 9)).await?.status, StatusCode::OK);
    world.until_drained().await?;
    assert_eq!(world.clickhouse.number("SELECT count() FROM span").await?, 14);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_self_hosted_deployment_counts_usage_and_refuses_nobody() -> anyhow::Result<()> {
    let world = World::start_with(&[("TRACEBILITY_DEPLOYMENT_MODE", "self_hosted")], &[]).await?;
    let org = world.org("host").await?;
    let change = LimitChange { meters: vec![(Meter::SpanIngested, at_most(1))], ..LimitChange::default() };
    limit(&world, &org, change).await?;
    for n in 0..3 {
        assert_eq!(world.post_otlp(&org.key, Corpus::new(n).request(2, now()).body).await?.status, StatusCode::OK);
    }
    let period = model::meter::period(i64::try_from(now())?);
    let used: u64 = world.redis().await?.get(RedisKey::quota(org.org_id, period, "span_ingested")).await?;
    assert_eq!(used, 6);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_the_settings_serves_the_default_org() -> anyhow::Result<()> {
    let key = format!("tb_{:024x}.{:064x}", 0xfeed, 0xbeef);
    let settings = [("TRACEBILITY_DEPLOYMENT_MODE", "self_hosted"), ("TRACEBILITY_STATIC_API_KEY", key.as_str())];
    let world = World::start_with(&settings, &[]).await?;
    assert_eq!(world.post_otlp(&key, Corpus::new(1).request(3, now()).body).await?.status, StatusCode::OK);
    world.until_drained().await?;
    let org = "00000000-0000-4000-8000-000000000001";
    let stored = format!("SELECT count() FROM span WHERE org_id = '{org}'");
    assert_eq!(world.clickhouse.number(&stored).await?, 3);
    assert_eq!(world.registry().await?.find_org("self-hosted").await?.org_id.to_string(), org);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_is_refused_within_seconds() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("leaked").await?;
    let body = |n| Corpus::new(n).request(1, now()).body;
    assert_eq!(world.post_otlp(&org.key, body(0)).await?.status, StatusCode::OK);
    let registry = world.registry().await?.announcing(Invalidator::new(world.redis().await?));
    let public_id = org.key.trim_start_matches("tb_").split('.').next().unwrap_or_default();
    assert!(registry.revoke_key(public_id).await?);
    let begun = Instant::now();
    loop {
        let answer = world.post_otlp(&org.key, body(1)).await?;
        if answer.status == StatusCode::UNAUTHORIZED {
            println!("refused after {:?}", begun.elapsed());
            return Ok(());
        }
        // What is promised when the announcement is not heard; otherwise it takes milliseconds.
        assert!(begun.elapsed() < Duration::from_secs(5), "{answer:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
