//! `just bench-tenant`: what it costs to know who a request is from and whether it may pass.
//!
//! Starts a stack of its own. Keys are resolved in this process, level by level; admission is timed against the stack's
//! Redis; and the commands that Redis counts are divided by the requests that the API answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use admission::{Admission, Cost};
use anyhow::{Context, ensure};
use auth::resolver::{PostgresSource, SharedSource};
use auth::{Resolver, TenantContext};
use clap::Parser;
use load::client::Http;
use load::corpus::Corpus;
use load::table::Table;
use redis::AsyncCommands;
use registry::{Limit, LimitChange, LimitEdit, NewKey, NewOrg, Registry};
use service::settings::parse;
use stack::{Endpoints, Layout, Name, UpOptions};
use stores::keys::RedisKey;
use stores::redis::Redis;

/// Measures resolving and admission.
#[derive(Clone, Copy, Parser)]
#[command(after_help = "Example: cargo run --release -p load --bin bench-tenant -- --runs 5")]
struct Options {
    /// Keys to resolve at each level.
    #[arg(long, default_value_t = 500)]
    keys: usize,
    /// Requests to admit, and to send.
    #[arg(long, default_value_t = 5_000)]
    requests: usize,
    /// Runs; medians are shown.
    #[arg(long, default_value_t = 3)]
    runs: usize,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let layout = Layout::new(std::env::temp_dir().join(format!("tracebility-bench-{}", std::process::id())));
    let result = async {
        let endpoints = stack::up(&layout, &UpOptions::default()).await?;
        // Its own commands would be counted.
        stack::kill(&layout, Name::IngestWorker, "TERM").await?;
        measure(&endpoints, options).await
    }
    .await;
    stack::down(&layout, false).await?;
    println!("{}", result?);
    Ok(())
}

async fn measure(endpoints: &Endpoints, options: Options) -> anyhow::Result<Table> {
    let urls = &endpoints.urls;
    let url = |text: &str| parse::redis_url(text).map_err(anyhow::Error::msg);
    let redis = stores::redis::connect(&url(&urls.redis_url)?)?;
    let dsn = |text: &str| parse::postgres_url(text).map_err(anyhow::Error::msg);
    let registry = Registry::connect(&dsn(&urls.pg_operator_dsn)?).await?;
    let org = registry.create_org(&NewOrg::new("bench", "Bench", "self_hosted")).await?;
    let project = registry.create_project(org.org_id, org.workspace_id, "bench", "Bench").await?;
    let mut keys = Vec::new();
    for _ in 0..options.keys {
        let key = registry.create_key(org.org_id, project, &NewKey::new("bench", &["ingest:write"])).await?;
        keys.push(key.reveal().to_owned());
    }
    let resolver = || -> anyhow::Result<Resolver> {
        let postgres = PostgresSource::new(stores::postgres::pool(&dsn(&urls.pg_app_dsn)?)?);
        Ok(Resolver::new(SharedSource::new(redis.clone(), postgres)))
    };

    let mut levels: [Vec<f64>; 3] = Default::default();
    let mut admitted: [Vec<f64>; 2] = Default::default();
    for run in 0..options.runs {
        eprintln!("bench-tenant: run {} of {}", run + 1, options.runs);
        for key in &keys {
            let id = key.trim_start_matches("tb_").split('.').next().unwrap_or_default();
            redis.clone().del::<_, ()>(RedisKey::api_key(id)).await?;
        }
        let first = resolver()?;
        levels[2].push(resolve_all(&first, &keys).await?);
        // What was verified is shared after the answer.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let second = resolver()?;
        resolve_all(&second, &keys[..1]).await?;
        levels[1].push(resolve_all(&second, &keys[1..]).await?);
        let begun = Instant::now();
        const ROUNDS: usize = 200;
        for _ in 0..ROUNDS {
            resolve_all(&second, &keys).await?;
        }
        levels[0].push(begun.elapsed().as_secs_f64() * 1e6 / (ROUNDS * keys.len()) as f64);
        let tenant = second.resolve(&keys[0]).await?;
        let (p50, p99) = admit_all(&redis, &tenant, options.requests).await?;
        admitted[0].push(p50);
        admitted[1].push(p99);
    }
    let (accepted, refused) = commands(endpoints, &registry, &redis, options).await?;

    let mut table = Table::new(&["WHAT", "FIGURE"]);
    let names = ["resolve from the process's cache", "resolve from Redis", "resolve from Postgres, with argon2"];
    for (name, level) in names.iter().zip(levels) {
        let us = median(level);
        table.row([(*name).to_owned(), format!("{us:.2} us ({:.0} per second and task)", 1e6 / us)]);
    }
    let [p50, p99] = admitted.map(median);
    table.row(["admission p50, p99, one at a time".to_owned(), format!("{p50:.0} us, {p99:.0} us")]);
    table.row(["Redis commands per accepted request".to_owned(), format!("{accepted:.3}")]);
    table.row(["Redis commands per refused request".to_owned(), format!("{refused:.3}")]);
    Ok(table)
}

/// µs per key, one after another.
async fn resolve_all(resolver: &Resolver, keys: &[String]) -> anyhow::Result<f64> {
    let begun = Instant::now();
    for key in keys {
        resolver.resolve(key).await?;
    }
    Ok(begun.elapsed().as_secs_f64() * 1e6 / keys.len() as f64)
}

/// µs that admission adds to a request: median and 99th percentile.
async fn admit_all(redis: &Redis, tenant: &Arc<TenantContext>, requests: usize) -> anyhow::Result<(f64, f64)> {
    let admission = Admission::new(redis.clone(), true);
    let now = i64::try_from(nanos()?)?;
    let mut took = Vec::with_capacity(requests);
    for _ in 0..requests {
        let begun = Instant::now();
        admission.precheck(tenant)?;
        let (charge, _) = admission.admit(tenant, Cost { items: 100, bytes: 100_000 }, now).await?;
        charge.kept();
        took.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    took.sort_by(f64::total_cmp);
    let at = |part: usize| took.get(took.len() * part / 100).copied().unwrap_or_default();
    Ok((at(50), at(99)))
}

/// Commands that Redis has run for each request that the API accepted, and for each that it refused.
async fn commands(
    endpoints: &Endpoints,
    registry: &Registry,
    redis: &Redis,
    options: Options,
) -> anyhow::Result<(f64, f64)> {
    let key = endpoints.api_key.clone().context("the stack has no API key; try: cargo stack down")?;
    let http = Http::new();
    let url = format!("{}/v1/traces", endpoints.ingest_url);
    let body = bytes::Bytes::from(Corpus::new(1).request(1, nanos()?).body);
    let send = async |key: &str| http.post(&url, key, "application/x-protobuf", body.clone()).await;
    ensure!(send(&key).await?.status.is_success(), "the API refuses the key of the stack");
    let before = calls(redis).await?;
    for _ in 0..options.requests {
        ensure!(send(&key).await?.status.is_success(), "a request was refused");
    }
    let accepted = (calls(redis).await? - before) / options.requests as f64;

    let org = registry.create_org(&NewOrg::new("bench-slow", "Slow", "self_hosted")).await?;
    let project = registry.create_project(org.org_id, org.workspace_id, "bench", "Bench").await?;
    let one = LimitEdit::Set(Limit::AtMost(1));
    registry.set_limits(org.org_id, &LimitChange { rps: one, burst: one, ..LimitChange::default() }).await?;
    let slow = registry.create_key(org.org_id, project, &NewKey::new("bench", &["ingest:write"])).await?;
    send(slow.reveal()).await?;
    let (before, mut refused) = (calls(redis).await?, 0);
    for _ in 0..options.requests {
        refused += usize::from(send(slow.reveal()).await?.status.as_u16() == 429);
    }
    let passed = (options.requests - refused) as f64 * accepted;
    Ok((accepted, (calls(redis).await? - before - passed) / refused as f64))
}

/// The commands that the path of a request is made of, as often as Redis has run them. (What a script runs inside is
/// counted under other names.)
async fn calls(redis: &Redis) -> anyhow::Result<f64> {
    const PATH: [&str; 6] = ["evalsha", "eval", "script|load", "xadd", "hget", "pttl"];
    let info: String = redis::cmd("INFO").arg("commandstats").query_async(&mut redis.clone()).await?;
    let lines = info.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(":calls="));
    let counted = lines.filter(|(name, _)| PATH.contains(name));
    Ok(counted.filter_map(|(_, rest)| rest.split(',').next()?.parse::<f64>().ok()).sum())
}

fn nanos() -> anyhow::Result<u64> {
    Ok(u64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos())?)
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or_default()
}
