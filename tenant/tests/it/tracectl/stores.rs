//! What the workers do, by hand: `quota` and `audit`.

use std::process::Command;

use schema::migrate::{Options, Target};
use serde_json::Value;
use tenant::registry::{MeterUsage, Registry};
use time::OffsetDateTime;

use super::{Run, with};
use crate::support::{World, stores};

/// With every store's URL.
fn with_stores(world: &World) -> Command {
    let mut command = with(world);
    command.env("TRACEBILITY_PG_DSN", &world.db.pg_app_dsn);
    command.env("TRACEBILITY_REDIS_URL", &world.db.redis_url);
    command.env("TRACEBILITY_CLICKHOUSE_URL", &world.db.clickhouse_url);
    command
}

fn run(mut command: Command, args: &[&str]) -> Run {
    command.args(args).output().unwrap().into()
}

#[tokio::test]
async fn usage_is_shown_and_summed_up_by_hand() {
    let world = World::new().await;
    schema::migrate::up(Target::Clickhouse, &stores(&world.db), &Options::default()).await.unwrap();
    let now = OffsetDateTime::now_utc();
    let period = schema::tables::period(i64::try_from(now.unix_timestamp_nanos()).unwrap());
    let usage = [MeterUsage { meter: tenant::registry::Meter::SpanIngested, used: 41_000_000, refused_at: None }];
    let services = Registry::new(world.pool.clone());
    services.settle_usage(world.org.org_id, period, now - time::Duration::hours(1), &usage, true).await.unwrap();

    let shown = run(with(&world), &["quota", "show", "acme"]).done();
    let line: Vec<_> = shown.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(line[..5], [&period.to_string(), "span_ingested", "41000000", "-", "50000000"], "{shown}");
    assert!(line[6].ends_with('Z') && line[7] == "-", "warned, and not reached: {shown}");

    let summed: Value =
        serde_json::from_str(&run(with_stores(&world), &["quota", "reconcile", "acme", "--output", "json"]).done())
            .unwrap();
    assert_eq!((&summed["told"], &summed["failed"]), (&0.into(), &0.into()), "{summed}");
    let shown = run(with_stores(&world), &["quota", "show", "acme", "--output", "json"]).done();
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["usage"][0]["limit"], 50_000_000, "{shown}");
}

#[tokio::test]
async fn the_trail_is_checked_by_hand() {
    let world = World::new().await;
    schema::migrate::up(Target::Clickhouse, &stores(&world.db), &Options::default()).await.unwrap();
    world.execute("UPDATE audit_outbox SET created_at = created_at - interval '1 hour'").await;
    let report = run(with_stores(&world), &["audit", "reconcile", "--output", "json"]).done();
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!((&report["checked"], &report["missing"]), (&1.into(), &1.into()));
    let gaps: Value =
        serde_json::from_str(&run(with_stores(&world), &["audit", "gaps", "--output", "json"]).done()).unwrap();
    assert_eq!(gaps["gaps"][0]["detection_id"], report["detection_id"]);
    assert_eq!((&gaps["gaps"][0]["event_type"], &gaps["gaps"][0]["is_repaired"]), (&"org.create".into(), &true.into()));
    let again = run(with_stores(&world), &["audit", "reconcile"]).done();
    assert!(again.lines().any(|line| line == "missing  0"), "{again}");
}

#[tokio::test]
async fn a_store_that_is_not_known_is_named() {
    let world = World::new().await;
    let unknown = |args: &[&str], error: &str| run(with(&world), args).refused(2, &format!("tracectl: {error}\n"));
    unknown(&["audit", "gaps"], "it is not known where ClickHouse is; set TRACEBILITY_CLICKHOUSE_URL");
    unknown(
        &["quota", "reconcile", "acme"],
        "it is not known where Redis is, which has the counters; set TRACEBILITY_REDIS_URL",
    );
    let mut command = with_stores(&world);
    command.env_remove("TRACEBILITY_PG_DSN");
    run(command, &["audit", "reconcile"])
        .refused(2, "tracectl: it is not known where Postgres is for the services' role; set TRACEBILITY_PG_DSN\n");
    let mut command = with_stores(&world);
    command.env("TRACEBILITY_PG_DSN", &world.db.pg_owner_dsn);
    let refused = run(command, &["audit", "reconcile"]);
    assert!(refused.code == Some(1) && refused.err.contains("log in as tracebility_app"), "{}", refused.err);
}
