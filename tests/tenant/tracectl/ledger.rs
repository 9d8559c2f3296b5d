//! `tracectl ledger`, run as an operator runs it.

use std::process::Command;

use migrate::{Options, Target};
use model::ids::OrgId;
use model::shard::Shard;
use queue::appender::{Accepted, Appended, ShardAppender};
use serde_json::Value;
use service::settings::parse;
use stores::redis::connect;
use time::OffsetDateTime;

use super::{Run, with};
use crate::support::{World, stores};

fn run(world: &World, args: &[&str]) -> Run {
    let mut command: Command = with(world);
    command.env("TRACEBILITY_REDIS_URL", &world.db.redis_url);
    command.env("TRACEBILITY_CLICKHOUSE_URL", &world.db.clickhouse_url);
    command.arg("ledger").args(args).output().unwrap().into()
}

/// Accepts so many items of which nothing is found again: what is appended is no envelope.
async fn lose(world: &World, org: OrgId, items: u64, at: OffsetDateTime) {
    let redis = connect(&parse::redis_url(&world.db.redis_url).unwrap()).unwrap();
    let received_at = i64::try_from(at.unix_timestamp_nanos()).unwrap();
    let new = Accepted { org, received_at, items, envelope: b"nothing" };
    assert_eq!(ShardAppender::new(redis).append(Shard::home(org), &new).await.unwrap(), Appended::Kept);
}

#[tokio::test]
async fn an_imbalance_is_shown_and_an_old_one_sets_the_exit_status() {
    let world = World::new().await;
    migrate::up(Target::Clickhouse, &stores(&world.db), &Options::default()).await.unwrap();
    let (org, now) = (world.org.org_id, OffsetDateTime::now_utc());
    assert_eq!(run(&world, &[]).done().lines().count(), 1, "nothing but the headings");

    lose(&world, org, 7, now).await;
    let young = run(&world, &["acme"]);
    assert!(young.err.contains("tracectl dlq ls"), "it is not known what that entry holds: {}", young.err);
    let young = young.done();
    let line: Vec<_> = young.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(line[1..], ["7", "0", "0", "0", "0", "0", "7", "-", "acme"], "{young}");

    lose(&world, org, 2, now - time::Duration::hours(2)).await;
    let old = run(&world, &["--output", "json"]);
    assert_eq!((old.code, old.err.contains("1 of these do not add up")), (Some(3), true), "{}", old.err);
    let old: Value = serde_json::from_str(&old.out).unwrap();
    assert_eq!(
        (&old["imbalance"], &old["rows"][0]["org"], &old["rows"][0]["row"]["imbalance"]),
        (&9.into(), &"acme".into(), &2.into())
    );
    assert_eq!(run(&world, &["--settle", "3h"]).code, Some(0));
    run(&world, &["nobody"])
        .refused(1, "tracectl: there is no organization \"nobody\"; tracectl orgs list shows them\n");
}
