//! What the jobs need to span orgs, and that one process of all does each.

#![allow(clippy::disallowed_methods, reason = "tests bind transactions by hand, to see what happens when nobody does")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use registry::{NewOrg, Registry};
use service::turn::{Job, Turn};
use time::OffsetDateTime;
use tokio::sync::Notify;

use super::redis;
use crate::support::{World, url};

#[tokio::test]
async fn a_background_job_runs_on_one_worker_at_a_time_and_once_per_interval() {
    let world = World::new().await;
    let turn = || Turn::new(url(&world.db.pg_app_dsn), redis(&world.db.redis_url));
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let runs = Arc::new(AtomicU32::new(0));
    const EVERY: Duration = Duration::from_secs(3_600);
    let first = {
        let (turn, begun, go, runs) = (turn(), Arc::clone(&begun), Arc::clone(&go), Arc::clone(&runs));
        tokio::spawn(async move {
            let work = || async {
                begun.notify_one();
                go.notified().await;
                runs.fetch_add(1, Ordering::SeqCst);
                Ok::<_, String>(())
            };
            turn.once(Job::Quota, EVERY, &work).await.unwrap()
        })
    };
    begun.notified().await;
    let work = || async {
        runs.fetch_add(1, Ordering::SeqCst);
        Ok::<_, String>(())
    };
    let second = turn().once(Job::Quota, EVERY, &work).await.unwrap();
    assert_eq!(second, None, "somebody is at it");
    let other = turn().once(Job::Audit, EVERY, &|| async { Err::<(), _>("no") }).await.unwrap();
    assert_eq!(other, Some(Err("no")), "another job has its own turn");
    go.notify_one();
    assert_eq!(first.await.unwrap(), Some(Ok(())));
    assert_eq!(turn().once(Job::Quota, EVERY, &work).await.unwrap(), None, "it was done lately");
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    let again = turn().once(Job::Audit, EVERY, &|| async { Ok::<_, String>(7) }).await.unwrap();
    assert_eq!(again, Some(Ok(7)), "what failed is tried again at once");

    // One that dies with the lock gives it back.
    let dying = turn();
    let held = tokio::spawn(async move { dying.locked(Job::Publish, std::future::pending::<()>()).await });
    while turn().locked(Job::Publish, async {}).await.unwrap().is_some() {}
    held.abort();
    while turn().locked(Job::Publish, async {}).await.unwrap().is_none() {}
}

#[tokio::test]
async fn cross_org_functions_leave_the_policies_closed_outside_of_them() {
    let world = World::new().await;
    let other = world.registry.create_org(&NewOrg::new("other", "Other", "free")).await.unwrap().org_id;
    let services = Registry::new(world.pool.clone());
    let mut orgs = vec![world.org.org_id, other];
    orgs.sort();
    assert_eq!(services.org_ids(None, 10).await.unwrap(), orgs);
    assert_eq!(services.org_ids(Some(orgs[0]), 10).await.unwrap(), orgs[1..]);
    assert_eq!(services.org_ids(None, 1).await.unwrap(), orgs[..1]);
    let events = services.unpublished_events(10).await.unwrap();
    let owners: Vec<_> = events.iter().map(|event| event.org_id).collect();
    assert_eq!(owners, [Some(world.org.org_id), Some(other)]);
    assert_eq!(services.mark_published(&[events[0].id]).await.unwrap(), 1);
    assert_eq!(services.mark_published(&[events[0].id, -1]).await.unwrap(), 0);
    assert_eq!(services.unpublished_events(10).await.unwrap(), events[1..]);
    let all = services.events_before(0, OffsetDateTime::now_utc() + time::Duration::minutes(1), 10).await.unwrap();
    assert_eq!(all, events);

    // What the functions set for themselves means nothing when others set it, and is gone when they return.
    for (role, pool) in [("app", &world.pool), ("operator", &world.operator)] {
        let mut transaction = pool.begin().await.unwrap();
        if role == "app" {
            sqlx::query("SELECT set_config('app.current_tenant', $1, true)")
                .bind(other.to_string())
                .execute(&mut *transaction)
                .await
                .unwrap();
            for call in [
                "SELECT * FROM org_ids(NULL, 10)",
                "SELECT * FROM outbox_events(0, 'infinity', true, 10)",
                "SELECT mark_published('{}')",
                "SELECT record_event_of_no_org(gen_random_uuid(), 'flag.change', 'a test', NULL, '{}', now())",
            ] {
                sqlx::query(call).fetch_all(&mut *transaction).await.unwrap();
            }
            let left: String = sqlx::query_scalar(
                "SELECT concat_ws('|', current_setting('app.current_tenant'), current_setting('app.org_list'),
                                  current_setting('app.outbox'))",
            )
            .fetch_one(&mut *transaction)
            .await
            .unwrap();
            assert_eq!(left, format!("{other}||"));
        }
        let set = "SELECT set_config('app.org_list', 'open', true), set_config('app.outbox', 'open', true),
                          set_config('app.current_tenant', '', true)";
        sqlx::query(set).execute(&mut *transaction).await.unwrap();
        let seen: i64 =
            sqlx::query_scalar("SELECT count(*) FROM audit_outbox").fetch_one(&mut *transaction).await.unwrap();
        assert_eq!(seen, 0, "{role}");
        if role == "app" {
            let seen: i64 =
                sqlx::query_scalar("SELECT count(*) FROM tenants").fetch_one(&mut *transaction).await.unwrap();
            assert_eq!(seen, 0, "{role}");
        }
        let insert = "INSERT INTO audit_outbox (event_type, actor) VALUES ('flag.change', 'a test')";
        let refused = sqlx::query(insert).execute(&mut *transaction).await.unwrap_err();
        assert_eq!(refused.as_database_error().unwrap().code().as_deref(), Some("42501"), "{role}");
    }
    for call in ["SELECT * FROM org_ids(NULL, 10)", "SELECT mark_published('{}')"] {
        let refused = sqlx::query(call).execute(&world.operator).await.unwrap_err();
        assert_eq!(refused.as_database_error().unwrap().code().as_deref(), Some("42501"), "{call}");
    }
    let capped: i64 =
        sqlx::query_scalar("SELECT count(*) FROM org_ids(NULL, -1)").fetch_one(&world.pool).await.unwrap();
    assert_eq!(capped, 0);
    assert_eq!(events[0].detail["plan"], "pro", "a whole event");
}
