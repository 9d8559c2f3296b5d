//! What the workers do, by hand: `quota` and `audit`.

use std::process::Command;

use migrate::{Options, Target};
use model::meter::Meter;
use quota::{ParkedEnvelopes, ParkedId};
use registry::{MeterUsage, Registry};
use serde_json::Value;
use service::settings::parse;
use time::OffsetDateTime;
use wire::envelope::{ENVELOPE_KEY_BYTES, EnvelopeKey};

use super::{Run, with};
use crate::quota::envelope;
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
async fn quota_show_and_reconcile_report_usage() {
    let world = World::new().await;
    migrate::up(Target::Clickhouse, &stores(&world.db), &Options::default()).await.unwrap();
    let now = OffsetDateTime::now_utc();
    let period = model::meter::period(i64::try_from(now.unix_timestamp_nanos()).unwrap());
    let usage = [MeterUsage { meter: Meter::SpanIngested, used: 41_000_000, refused_at: None }];
    let services = Registry::new(world.pool.clone());
    services.record_usage(world.org.org_id, period, now - time::Duration::hours(1), &usage, true).await.unwrap();

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
async fn audit_reconcile_finds_and_repairs_missing_events() {
    let world = World::new().await;
    migrate::up(Target::Clickhouse, &stores(&world.db), &Options::default()).await.unwrap();
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

#[tokio::test]
async fn parked_envelopes_are_shown_and_released_as_far_as_the_limit_allows() {
    let world = World::new().await;
    let org = world.org.org_id;
    let redis = stores::redis::connect(&parse::redis_url(&world.db.redis_url).unwrap()).unwrap();
    let parked = ParkedEnvelopes::new(redis);
    let key = world.registry.envelope_key().await.unwrap();
    for (n, name) in ["7/1-0", "7/2-0", "9/1-0"].into_iter().enumerate() {
        let id: ParkedId = name.parse().unwrap();
        parked.park(org, id, &envelope(&key, org, 10 + n as u64)).await.unwrap();
    }
    let shown: Value =
        serde_json::from_str(&run(with_stores(&world), &["quota", "parked", "--output", "json"]).done()).unwrap();
    let line = &shown["parked"][0];
    let found = [&line["slug"], &line["month"], &line["envelopes"], &line["items"]];
    assert_eq!(found, [&Value::from("acme"), &202_611.into(), &3.into(), &33.into()], "{shown}");

    run(with_stores(&world), &["limits", "set", "acme", "--meter", "span_ingested=9"]).done();
    run(with_stores(&world), &["quota", "release", "acme"]).refused(
        1,
        "tracectl: acme would be over its monthly limits again; raise its limits (tracectl limits set acme), wait for next \
         month, or use --force\n",
    );
    run(with_stores(&world), &["limits", "set", "acme", "--meter", "span_ingested=21"]).done();
    let released = run(with_stores(&world), &["quota", "release", "acme", "--output", "json"]);
    assert!(released.err.contains("with more, acme would be over"), "{}", released.err);
    let released: Value = serde_json::from_str(&released.done()).unwrap();
    assert_eq!(
        (&released["released"], &released["items"], &released["still_parked"]),
        (&2.into(), &21.into(), &1.into())
    );
    // Somebody else's, which is not in the way of the others.
    let foreign = EnvelopeKey::new(&[1; ENVELOPE_KEY_BYTES]);
    parked.park(org, "7/0-1".parse().unwrap(), &envelope(&foreign, org, 1)).await.unwrap();
    let released = run(with_stores(&world), &["quota", "release", "acme", "--force"]);
    assert!(released.err.contains("7/0-1 stays parked: not written by this deployment"), "{}", released.err);
    let released = released.done();
    assert!(released.contains("released      1"), "{released}");
    assert_eq!(parked.amount(org).await.unwrap().envelopes, 1);
    let events = world.registry.events(org, 100).await.unwrap();
    assert_eq!(events.iter().filter(|event| event.event_type == "quota.release").count(), 2);
    let nothing = run(with_stores(&world), &["quota", "release", "acme"]).done();
    assert!(nothing.contains("released      0"), "{nothing}");
}
