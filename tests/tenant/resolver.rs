//! The resolver on real Postgres. What needs no database is tested beside the code.

use std::sync::Arc;
use std::time::{Duration, Instant};

use auth::resolver::{FAILURE_TTL, POSITIVE_TTL, PostgresSource, ResolverStats};
use auth::{ResolveError, Resolver};
use model::org::OrgStatus;
use registry::NewKey;
use stores::clock::{Clock, ManualClock};

use crate::support::{Wire, World};

fn resolver(world: &World) -> (Resolver, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new());
    (Resolver::with_clock(PostgresSource::new(world.pool.clone()), Arc::clone(&clock) as Arc<dyn Clock>), clock)
}

fn with_wrong_secret(key: &str) -> String {
    format!("{}.{}", key.split_once('.').unwrap().0, "0".repeat(64))
}

#[tokio::test]
async fn a_valid_key_resolves_to_its_org_and_limits() {
    let world = World::new().await;
    let key = world.key("site").await;
    world.execute("INSERT INTO tenant_plan_override (tenant_id, burst) SELECT id, 7 FROM tenants").await;
    let (resolver, _) = resolver(&world);
    let context = resolver.resolve(key.reveal()).await.unwrap();
    assert_eq!((context.org_id(), context.workspace_id()), (world.org.org_id, world.org.workspace_id));
    assert_eq!(context.status(), OrgStatus::Active);
    let plan = context.plan();
    assert_eq!((&*plan.name, plan.rps, plan.burst, plan.eval_slots), ("pro", 500, 7, 16));
    assert!(context.scopes().allow("ingest:write") && !context.scopes().allow("admin:*"));
    let project: uuid::Uuid =
        sqlx::query_scalar("SELECT id FROM tenant_projects").fetch_one(&world.owner).await.unwrap();
    assert_eq!(context.project_id().0, project);
}

#[tokio::test]
async fn a_thousand_requests_with_a_new_key_ask_postgres_once() {
    let world = World::new().await;
    let key = world.key("site").await;
    let (resolver, _) = resolver(&world);
    let waiting: Vec<_> = (0..1000)
        .map(|_| {
            let (resolver, key) = (resolver.clone(), key.reveal().to_owned());
            tokio::spawn(async move { resolver.resolve(&key).await.unwrap().org_id() })
        })
        .collect();
    for resolved in waiting {
        assert_eq!(resolved.await.unwrap(), world.org.org_id);
    }
    assert_eq!(resolver.stats(), ResolverStats { lookups: 1, verifications: 1 });
}

#[tokio::test]
async fn wrong_secrets_and_unknown_keys_get_the_same_answer() {
    let world = World::new().await;
    let key = world.key("site").await;
    let (resolver, _) = resolver(&world);
    let unknown = format!("tb_{}.{}", "0".repeat(24), "0".repeat(64));
    for presented in [&with_wrong_secret(key.reveal()), &unknown, "", "Bearer", "tb_'; DROP TABLE api_keys; --"] {
        let error = resolver.resolve(presented).await.unwrap_err();
        assert!(matches!(error, ResolveError::Unknown), "{error}");
        assert_eq!(error.to_string(), "the API key is not valid");
    }
    resolver.resolve(key.reveal()).await.unwrap();
}

#[tokio::test]
async fn a_revoked_key_is_refused_once_its_entry_is_too_old() {
    let world = World::new().await;
    let key = world.key("site").await;
    let (resolver, clock) = resolver(&world);
    resolver.resolve(key.reveal()).await.unwrap();
    world.registry.revoke_key(key.public_id()).await.unwrap();
    clock.advance(POSITIVE_TTL - Duration::from_millis(1));
    resolver.resolve(key.reveal()).await.unwrap();
    clock.advance(Duration::from_millis(1));
    assert!(matches!(resolver.resolve(key.reveal()).await, Err(ResolveError::Revoked)));
}

#[tokio::test]
async fn an_expired_key_is_refused_at_its_moment() {
    let world = World::new().await;
    let key = world.key("site").await;
    world.execute("UPDATE api_keys SET expires_at = now() + interval '30 seconds'").await;
    let (resolver, clock) = resolver(&world);
    resolver.resolve(key.reveal()).await.unwrap();
    clock.advance(Duration::from_secs(31));
    assert!(matches!(resolver.resolve(key.reveal()).await, Err(ResolveError::Expired)));
    assert_eq!(resolver.stats().lookups, 1);
}

#[tokio::test]
async fn frozen_and_archived_orgs_are_refused_with_their_status() {
    let world = World::new().await;
    let key = world.key("site").await;
    let (resolver, clock) = resolver(&world);
    for (sql, expected) in [
        ("UPDATE tenants SET status = 'frozen', frozen_from = 'active'", Some(OrgStatus::Frozen)),
        ("UPDATE tenants SET status = 'archived', frozen_from = NULL", Some(OrgStatus::Archived)),
        ("UPDATE tenants SET status = 'trial'", None),
        ("UPDATE tenants SET status = 'demo'", None),
    ] {
        world.execute(sql).await;
        clock.advance(POSITIVE_TTL);
        match (resolver.resolve(key.reveal()).await, expected) {
            (Ok(_), None) => {}
            (Err(ResolveError::Frozen { status }), Some(expected)) => assert_eq!(status, expected),
            (other, _) => panic!("{sql}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_key_of_an_archived_project_or_workspace_is_refused() {
    let world = World::new().await;
    let (registry, org_id) = (&world.registry, world.org.org_id);
    let (resolver, clock) = resolver(&world);
    let team = registry.create_workspace(org_id, "team", "Team").await.unwrap();
    let inside = registry.create_project(org_id, team, "inside", "Inside").await.unwrap();
    let inside = registry.create_key(org_id, inside, &NewKey::new("Key", &["ingest:write"])).await.unwrap();
    let alone = world.key("alone").await;
    for key in [&inside, &alone] {
        resolver.resolve(key.reveal()).await.unwrap();
    }
    registry.archive_workspace(org_id, team).await.unwrap();
    let project = registry.find_project(org_id, "alone").await.unwrap().project_id;
    registry.archive_project(org_id, project).await.unwrap();
    clock.advance(POSITIVE_TTL);
    for (key, said) in
        [(inside, "the workspace of the API key is archived"), (alone, "the project of the API key is archived")]
    {
        let error = resolver.resolve(key.reveal()).await.unwrap_err();
        assert!(matches!(error, ResolveError::Archived { .. }), "{error}");
        assert_eq!(error.to_string(), said);
        let error = resolver.resolve(&with_wrong_secret(key.reveal())).await.unwrap_err();
        assert!(matches!(error, ResolveError::Unknown), "told to nobody without the secret: {error}");
    }
}

#[tokio::test]
async fn an_outage_of_postgres_refuses_no_known_key_and_calls_no_key_unknown() {
    let world = World::new().await;
    let (known, fresh) = (world.key("one").await, world.key("two").await);
    let wire = Wire::to(&world.db.pg_app_dsn).await;
    let clock = Arc::new(ManualClock::new());
    let source = PostgresSource::new(stores::postgres::pool(&wire.dsn).unwrap());
    let resolver = Resolver::with_clock(source, Arc::clone(&clock) as Arc<dyn Clock>);
    resolver.resolve(known.reveal()).await.unwrap();

    wire.cut().await;
    resolver.resolve(known.reveal()).await.unwrap();
    let error = resolver.resolve(fresh.reveal()).await.unwrap_err();
    assert!(matches!(error, ResolveError::Unavailable(_)), "{error}");
    clock.advance(POSITIVE_TTL);
    let asked = Instant::now();
    resolver.resolve(known.reveal()).await.unwrap();
    assert!(asked.elapsed() < Duration::from_millis(500), "a known outage is not waited for: {:?}", asked.elapsed());
    let error = resolver.resolve(&with_wrong_secret(known.reveal())).await.unwrap_err();
    assert!(matches!(error, ResolveError::Unknown), "{error}");

    wire.mend();
    clock.advance(FAILURE_TTL);
    resolver.resolve(fresh.reveal()).await.unwrap();
    assert_eq!(resolver.stats().verifications, 2);
}
