//! Shards by hand: moves that are watched, interrupted, taken up and taken back.

use model::shard::Shard;
use redis::AsyncCommands;
use serde_json::{Value, json};
use service::settings::parse;
use stores::keys::RedisKey;
use stores::redis::{Redis, connect};

use super::{Run, run, with};
use crate::support::World;

/// The program, told where Redis is.
fn shards(world: &World, args: &[&str]) -> Run {
    let mut command = with(world);
    command.env("TRACEBILITY_REDIS_URL", &world.db.redis_url).arg("shards").args(args);
    command.output().unwrap().into()
}

#[track_caller]
fn document(world: &World, args: &[&str]) -> Value {
    serde_json::from_str(&shards(world, &[args, &["--output", "json"]].concat()).done()).unwrap()
}

fn redis(world: &World) -> Redis {
    connect(&parse::redis_url(&world.db.redis_url).unwrap()).unwrap()
}

#[tokio::test]
async fn a_move_that_was_killed_is_shown_and_finished_or_taken_back() {
    let world = World::new().await;
    let (home, mut redis) = (Shard::home(world.org.org_id), redis(&world));
    let away = ((home.number() + 5) % 16).to_string();
    let stream = RedisKey::shard_stream(home);
    let before: String = redis.xadd(&stream, "*", &[("e", "before")]).await.unwrap();
    // Killed while it waits for what was sent before.
    let mut command = with(&world);
    command.env("TRACEBILITY_REDIS_URL", &world.db.redis_url).args(["shards", "assign", "acme", &away]);
    let mut killed = command.spawn().unwrap();
    let fence = RedisKey::shard_fence(home);
    while !redis.exists::<_, bool>(&fence).await.unwrap() {
        assert!(killed.try_wait().unwrap().is_none(), "it waits");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    killed.kill().unwrap();
    killed.wait().unwrap();

    let listed = shards(&world, &["list"]);
    assert!(
        listed.err.contains("tracectl shards resume acme finishes it, tracectl shards abort acme"),
        "{}",
        listed.err
    );
    let listed = document(&world, &["list"]);
    let place = &listed["orgs"][0];
    assert_eq!((&place["shard"], place["moving_to"].to_string()), (&json!(home.number()), away.clone()));

    let waited = shards(&world, &["resume", "acme", "--wait", "0s"]);
    assert_eq!(waited.code, Some(1), "{}", waited.out);
    assert!(waited.err.contains(&format!("shard {home} still has entries from before the move")), "{}", waited.err);
    assert!(waited.err.contains("tracectl shards resume acme goes on, tracectl shards abort acme"), "{}", waited.err);

    let aborted = document(&world, &["abort", "acme"]);
    assert_eq!(aborted["shard"], home.number());
    shards(&world, &["abort", "acme"]).refused(
        1,
        "tracectl: the organization is not moving to another shard; tracectl shards list shows those that were or are\n",
    );

    shards(&world, &["assign", "acme", &away, "--wait", "0s"]);
    let _: u64 = redis.xdel(&stream, &[before]).await.unwrap();
    let resumed = document(&world, &["resume", "acme"]);
    assert_eq!((resumed["shard"].to_string(), &resumed["changed"]), (away.clone(), &json!(true)));
    let again = document(&world, &["assign", "acme", &away]);
    assert_eq!((again["shard"].to_string(), &again["changed"]), (away, &json!(false)));
    assert_eq!(document(&world, &["unassign", "acme"])["shard"], home.number());
}

#[tokio::test]
async fn a_plan_says_what_it_is_based_on_and_what_it_would_change() {
    let world = World::new().await;
    let mut redis = redis(&world);
    // Three heavy orgs in one shard: whichever org is made, it is put where acme is.
    let home = Shard::home(world.org.org_id);
    let period = document(&world, &["plan"])["based_on"]["periods"][0].as_u64().unwrap() as u32;
    for (slug, bytes) in [("heavy", 700_u64), ("heavier", 800)] {
        run(&world, &["orgs", "create", slug]).done();
        let org = world.registry.find_org(slug).await.unwrap().org_id;
        shards(&world, &["assign", slug, &home.to_string()]).done();
        redis.set::<_, _, ()>(RedisKey::quota(org, period, "span_bytes"), bytes).await.unwrap();
    }
    redis.set::<_, _, ()>(RedisKey::quota(world.org.org_id, period, "span_bytes"), 900).await.unwrap();

    let plan = document(&world, &["plan"]);
    assert_eq!((&plan["skew_now"], &plan["based_on"]["orgs_with_usage"]), (&json!(16.0), &json!(3)));
    assert_eq!(plan["moves"].as_array().unwrap().len(), 2, "{plan}");
    assert_eq!(plan["shards"][usize::from(home.number())]["bytes_now"], 2400);
    let table = shards(&world, &["plan", "--moves", "1"]);
    assert_eq!(table.out.lines().count(), 17, "{}", table.out);
    assert!(table.err.contains("by the counters in Redis, of 3 orgs that sent any, of 3 in all"), "{}", table.err);
    assert!(table.err.contains("the heaviest shard has 16.00 times the mean"), "{}", table.err);
    assert!(table.err.contains("\ntracectl shards assign "), "{}", table.err);
    assert!(table.out.contains("100.0 %"), "{}", table.out);
}

#[tokio::test]
async fn shard_commands_need_redis_and_a_valid_shard_number() {
    let world = World::new().await;
    let unknown =
        "it is not known where Redis is, which has the shards; set TRACEBILITY_REDIS_URL, as the services have it";
    for args in [&["assign", "acme", "7"][..], &["unassign", "acme"], &["resume", "acme"], &["plan"]] {
        let refused = run(&world, &[&["shards"], args].concat());
        refused.refused(2, &format!("tracectl: {unknown}\n"));
    }
    assert!(run(&world, &["shards", "list"]).done().starts_with("SHARD"), "the list needs Postgres alone");
    for number in ["16", "-1", "x"] {
        let refused = shards(&world, &["assign", "acme", "--", number]);
        assert_eq!(refused.code, Some(2), "{}", refused.err);
        assert!(refused.err.contains("is no shard: a number from 0 to 15"), "{}", refused.err);
    }
    assert_eq!(world.count("SELECT count(*) FROM shard_map").await, 0);
}
