//! What the cutover away from the legacy stream needs: whose a project is, the switch, and what operators see.

#![allow(clippy::disallowed_methods, reason = "tests bind transactions by hand, to see what happens when nobody does")]

use legacy::{Place, Projects};
use model::ids::ProjectId;
use model::shard::Shard;
use redis::AsyncCommands;
use registry::flags::{Flag, Flags};
use serde_json::{Value, json};
use service::settings::parse;
use stores::keys::RedisKey;
use stores::redis::Redis;
use tokio::sync::watch;
use uuid::Uuid;

use crate::support::World;
use crate::tracectl::{Run, with};

fn redis(world: &World) -> Redis {
    stores::redis::connect(&parse::redis_url(&world.db.redis_url).unwrap()).unwrap()
}

fn cutover(world: &World, args: &[&str]) -> Run {
    let mut command = with(world);
    command.env("TRACEBILITY_REDIS_URL", &world.db.redis_url).env("TRACEBILITY_PG_DSN", &world.db.pg_app_dsn);
    command.arg("cutover").args(args).output().unwrap().into()
}

#[tokio::test]
async fn the_org_of_a_legacy_entry_comes_only_from_its_project() {
    let world = World::new().await;
    let org = &world.org;
    let project = world.registry.create_project(org.org_id, org.workspace_id, "old", "Old").await.unwrap();
    let projects = Projects::new(world.pool.clone());
    let home = Shard::home(org.org_id);
    let place = |shard| Place { org_id: org.org_id, workspace_id: org.workspace_id, shard };
    assert_eq!(projects.find(project).await.unwrap(), Some(place(home)));
    assert_eq!(projects.find(ProjectId(Uuid::new_v4())).await.unwrap(), None);

    // Where the org goes is asked anew once it is known to have moved.
    let away = Shard::new((home.number() + 1) % 16).unwrap();
    let version = world.registry.assign_shard(org.org_id, Some(away)).await.unwrap().place.version;
    projects.forget(org.org_id);
    assert_eq!(projects.find(project).await.unwrap(), Some(place(home)), "on its way it is where it was");
    world.registry.settle_shard_move(org.org_id, version).await.unwrap();
    assert_eq!(projects.find(project).await.unwrap(), Some(place(home)), "remembered");
    projects.forget(org.org_id);
    assert_eq!(projects.find(project).await.unwrap(), Some(place(away)));

    // The setting means nothing to those who make it themselves, and is gone when the function returns.
    let mut transaction = world.pool.begin().await.unwrap();
    sqlx::query("SELECT * FROM find_project($1)").bind(project.0).fetch_one(&mut *transaction).await.unwrap();
    let left = "SELECT concat_ws('|', current_setting('app.current_tenant'), current_setting('app.project_lookup'))";
    let left: String = sqlx::query_scalar(left).fetch_one(&mut *transaction).await.unwrap();
    assert_eq!(left, "|");
    let set = "SELECT set_config('app.project_lookup', $1, true)";
    sqlx::query(set).bind(project.to_string()).execute(&mut *transaction).await.unwrap();
    let seen: i64 =
        sqlx::query_scalar("SELECT count(*) FROM tenant_projects").fetch_one(&mut *transaction).await.unwrap();
    assert_eq!(seen, 0);
    let refused = sqlx::query("SELECT * FROM find_project($1)").bind(project.0).execute(&world.operator).await;
    assert_eq!(refused.unwrap_err().as_database_error().unwrap().code().as_deref(), Some("42501"));
}

#[tokio::test]
async fn a_cutover_switch_and_its_event_are_written_together() {
    let world = World::new().await;
    let flags = Flags::new(world.pool.clone());
    let (_stop, stopped) = watch::channel(false);
    let mut open = flags.clone().follow(Flag::DualReadLegacy, true, stopped);
    assert_eq!(flags.state(Flag::DualReadLegacy).await.unwrap(), None);
    flags.set(Flag::DualReadLegacy, false, "olga", &json!({"why": "done"})).await.unwrap();
    let state = flags.state(Flag::DualReadLegacy).await.unwrap().unwrap();
    assert_eq!((state.enabled, state.by.as_str()), (false, "olga"));
    open.wait_for(|open| !open).await.unwrap();
    flags.set(Flag::DualReadLegacy, true, "otto", &json!({})).await.unwrap();
    open.wait_for(|open| *open).await.unwrap();

    // An actor that no event can have: the switch stays, too.
    flags.set(Flag::DualReadLegacy, false, "", &json!({})).await.unwrap_err();
    assert!(flags.state(Flag::DualReadLegacy).await.unwrap().unwrap().enabled);
    let recorded: Vec<(String, Value)> = sqlx::query_as(
        "SELECT actor, detail FROM outbox_events(0, 'infinity', true, 100) WHERE event_type = 'flag.change' ORDER BY id",
    )
    .fetch_all(&world.pool)
    .await
    .unwrap();
    assert_eq!(
        recorded,
        [
            ("olga".to_owned(), json!({"why": "done", "old": null, "new": false})),
            ("otto".to_owned(), json!({"old": false, "new": true})),
        ]
    );
}

#[tokio::test]
async fn operators_see_what_is_left_and_close_the_legacy_stream_only_when_empty() {
    let world = World::new().await;
    let mut redis = redis(&world);
    let entry: String = redis.xadd(RedisKey::legacy_stream(), "*", &[("data", "{}")]).await.unwrap();
    let status = cutover(&world, &["status", "--over", "0s", "--output", "json"]).done();
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(
        (&status["left"]["entries"], &status["drained_by"], &status["switch"]),
        (&json!(1), &json!(null), &json!(null))
    );
    let verified = cutover(&world, &["verify", "--over", "0s"]);
    assert_eq!(verified.code, Some(3), "{}{}", verified.out, verified.err);
    assert!(verified.out.contains("✗  nothing waits in the stream (1)"), "{}", verified.out);
    assert!(verified.out.contains("✗  a worker drains the stream"), "{}", verified.out);
    assert!(verified.out.contains("✓  no dead letter waits for a decision (0)"), "{}", verified.out);
    cutover(&world, &["close", "--yes"]).refused(
        1,
        "tracectl: the legacy stream is not empty: 1 waiting, 0 on the way, 0 with readers of older releases; wait until \
         tracectl cutover status shows that nothing is left\n",
    );
    assert_eq!(cutover(&world, &["close"]).code, Some(2), "it asks");

    let _: u64 = redis.xdel(RedisKey::legacy_stream(), &[&entry]).await.unwrap();
    let lease = [("owner", "somebody".to_owned()), ("until", "99999999999999".to_owned())];
    let _: () = redis.hset_multiple(RedisKey::shard_lease(Shard::FIRST), &lease).await.unwrap();
    cutover(&world, &["verify", "--over", "0s"]).done();
    cutover(&world, &["close", "--yes"]).done();
    let again: Value = serde_json::from_str(&cutover(&world, &["close", "--yes", "--output", "json"]).done()).unwrap();
    assert_eq!(again, json!({"open": false, "changed": false}));

    let _: String = redis.xadd(RedisKey::legacy_stream(), "*", &[("data", "{}")]).await.unwrap();
    let status = cutover(&world, &["status", "--over", "0s"]);
    assert!(status.out.contains("closed since"), "{}", status.out);
    assert!(status.err.contains("somebody writes to it"), "{}", status.err);
    cutover(&world, &["reopen"]).done();
    assert!(cutover(&world, &["status", "--over", "0s"]).out.contains("open since"));
}
