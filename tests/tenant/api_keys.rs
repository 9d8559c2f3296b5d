//! API keys: their life, and the one door through which they are looked up.

#![allow(clippy::disallowed_methods, reason = "tests bind transactions by hand, to see what the look-up leaves behind")]

use std::time::Duration;

use auth::Resolver;
use auth::resolver::PostgresSource;
use registry::{NewKey, NewOrg, OVERLAP_MAX, RegistryError};
use sqlx::{PgPool, Row};
use time::OffsetDateTime;

use crate::support::World;

#[tokio::test]
async fn a_key_is_kept_as_its_hash_and_nowhere_in_clear() {
    let world = World::new().await;
    let key = world.key("site").await;
    let secret = key.reveal().split_once('.').unwrap().1;
    let dump: String = sqlx::query_scalar(
        "SELECT string_agg(k::text, '') || (SELECT string_agg(o::text, '') FROM audit_outbox o) FROM api_keys k",
    )
    .fetch_one(&world.owner)
    .await
    .unwrap();
    assert!(dump.contains("$argon2id$") && dump.contains(key.public_id()) && dump.contains(key.last_four()));
    assert!(!dump.contains(secret) && !dump.contains(&secret[..16]), "{dump}");
}

#[tokio::test]
async fn keys_are_listed_newest_first_without_those_that_ended() {
    let world = World::new().await;
    let org_id = world.org.org_id;
    let keys = [world.key("one").await, world.key("two").await, world.key("three").await];
    world.registry.revoke_key(keys[0].public_id()).await.unwrap();
    let listed = world.registry.keys(org_id, true, None).await.unwrap();
    let ids: Vec<_> = listed.iter().map(|key| key.public_id.as_str()).collect();
    assert_eq!(ids, [keys[2].public_id(), keys[1].public_id(), keys[0].public_id()]);
    assert_eq!(world.registry.keys(org_id, true, Some(ids[0])).await.unwrap(), listed[1..]);
    assert_eq!(world.registry.keys(org_id, false, None).await.unwrap(), listed[..2]);
    let newest = &listed[0];
    assert_eq!((newest.project_slug.as_str(), newest.name.as_str()), ("three", "A key"));
    assert!(keys[2].reveal().starts_with(&newest.prefix) && keys[2].reveal().ends_with(&newest.last_four));
    assert!(listed[2].revoked_at.is_some());
    world
        .execute("UPDATE api_keys SET created_at = now() - interval '2 days', expires_at = now() - interval '1 day'")
        .await;
    assert!(world.registry.keys(org_id, false, None).await.unwrap().is_empty());
    assert_eq!(world.registry.org(org_id).await.unwrap().live_keys, 0);
}

#[tokio::test]
async fn a_rotated_key_and_its_successor_work_side_by_side() {
    let world = World::new().await;
    let (registry, org_id) = (&world.registry, world.org.org_id);
    let old = world.key("site").await;
    let rotated = registry.rotate_key(old.public_id(), Duration::from_secs(3600)).await.unwrap();
    let resolver = Resolver::new(PostgresSource::new(world.pool.clone()));
    let contexts =
        [resolver.resolve(old.reveal()).await.unwrap(), resolver.resolve(rotated.key.reveal()).await.unwrap()];
    assert_eq!(contexts[0].project_id(), contexts[1].project_id());
    assert_eq!(contexts[0].scopes(), contexts[1].scopes());
    let listed = registry.keys(org_id, false, None).await.unwrap();
    let [new, old_now] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!((new.name.as_str(), new.expires_at, rotated.expires_at), ("A key", None, None));
    assert_eq!(old_now.expires_at, Some(rotated.old_ends_at));
    let overlap = rotated.old_ends_at - old_now.rotated_at.unwrap();
    assert_eq!(overlap, time::Duration::HOUR);
    let error = registry.rotate_key(old.public_id(), Duration::ZERO).await.unwrap_err().to_string();
    assert_eq!(error, format!("the API key {} was rotated before; create a new one", old.public_id()));
}

#[tokio::test]
async fn a_rotated_key_ends_with_its_overlap_and_at_once_without_one() {
    let world = World::new().await;
    let (registry, org_id) = (&world.registry, world.org.org_id);
    world.key("site").await;
    let project = registry.find_project(org_id, "site").await.unwrap().project_id;
    // In whole microseconds, as Postgres keeps it.
    let end = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap() + time::Duration::HOUR;
    let new = NewKey { expires_at: Some(end), ..NewKey::new("Short", &["a:b"]) };
    let short = registry.create_key(org_id, project, &new).await.unwrap();
    let rotated = registry.rotate_key(short.public_id(), OVERLAP_MAX).await.unwrap();
    assert_eq!(rotated.old_ends_at, end, "its own end comes first");
    let life = |info: &registry::KeyInfo| info.expires_at.unwrap() - info.created_at;
    let listed = registry.keys(org_id, false, None).await.unwrap();
    let of = |id: &str| listed.iter().find(|info| info.public_id == id).unwrap();
    assert_eq!(life(of(rotated.key.public_id())), life(of(short.public_id())), "the successor lives as long");

    let at_once = registry.rotate_key(rotated.key.public_id(), Duration::ZERO).await.unwrap();
    let listed = registry.keys(org_id, true, None).await.unwrap();
    let ended = listed.iter().find(|info| info.public_id == rotated.key.public_id()).unwrap();
    assert_eq!(ended.revoked_at, Some(at_once.old_ends_at));
    let error = registry.rotate_key(rotated.key.public_id(), Duration::ZERO).await.unwrap_err();
    assert!(matches!(error, RegistryError::KeyEnded { ended: "revoked", .. }), "{error}");
    let error = registry.rotate_key(short.public_id(), OVERLAP_MAX + Duration::from_secs(1)).await.unwrap_err();
    assert!(error.to_string().ends_with("at most 7776000 s (90 days)"), "{error}");
    world
        .execute("UPDATE api_keys SET created_at = now() - interval '2 days', expires_at = now() - interval '1 day'")
        .await;
    let error = registry.rotate_key(at_once.key.public_id(), Duration::ZERO).await.unwrap_err();
    assert!(matches!(error, RegistryError::KeyEnded { ended: "expired", .. }), "{error}");
}

#[tokio::test]
async fn only_one_of_many_concurrent_rotations_and_revocations_succeeds() {
    let world = World::new().await;
    let key = world.key("site").await;
    let rotating: Vec<_> = (0..8)
        .map(|_| {
            let (registry, id) = (world.registry.clone(), key.public_id().to_owned());
            tokio::spawn(async move { registry.rotate_key(&id, Duration::from_secs(60)).await.map(drop) })
        })
        .collect();
    let mut rotated = 0;
    for done in rotating {
        match done.await.unwrap() {
            Ok(()) => rotated += 1,
            Err(error) => assert!(matches!(error, RegistryError::KeyEnded { ended: "rotated", .. }), "{error}"),
        }
    }
    assert_eq!((rotated, world.count("SELECT count(*) FROM api_keys").await), (1, 2));
    let revoking: Vec<_> = (0..8)
        .map(|_| {
            let (registry, id) = (world.registry.clone(), key.public_id().to_owned());
            tokio::spawn(async move { registry.revoke_key(&id).await.unwrap() })
        })
        .collect();
    let mut revoked = 0;
    for done in revoking {
        revoked += u32::from(done.await.unwrap());
    }
    assert_eq!(revoked, 1);
    assert_eq!(world.count("SELECT count(*) FROM audit_outbox WHERE event_type = 'api_key.revoke'").await, 1);
}

/// The orgs that the look-up finds for a text.
async fn look_up(pool: &PgPool, text: &str) -> Vec<uuid::Uuid> {
    sqlx::query_scalar("SELECT tenant_id FROM find_api_key($1)").bind(text).fetch_all(pool).await.unwrap()
}

#[tokio::test]
async fn find_api_key_returns_one_key_and_nothing_else() {
    let world = World::new().await;
    let (key, another) = (world.key("one").await, world.key("two").await);
    world.execute("INSERT INTO tenant_plan_override (tenant_id, burst) SELECT id, 7 FROM tenants").await;
    let other = world.registry.create_org(&NewOrg::new("other", "Other", "free")).await.unwrap();
    let theirs = world.registry.create_project(other.org_id, other.workspace_id, "site", "Site").await.unwrap();
    let theirs = world.registry.create_key(other.org_id, theirs, &NewKey::new("Key", &[])).await.unwrap();

    let rows =
        sqlx::query("SELECT * FROM find_api_key($1)").bind(key.public_id()).fetch_all(&world.pool).await.unwrap();
    let [row] = &rows[..] else { panic!("{} rows", rows.len()) };
    assert_eq!(row.get::<uuid::Uuid, _>("tenant_id"), world.org.org_id.0);
    assert_eq!(row.get::<uuid::Uuid, _>("workspace_id"), world.org.workspace_id.0);
    assert_eq!((row.get::<&str, _>("plan"), row.get::<i32, _>("rps"), row.get::<i32, _>("burst")), ("pro", 500, 7));
    assert!(row.get::<&str, _>("key_hash").starts_with("$argon2id$"));
    assert_eq!(look_up(&world.pool, theirs.public_id()).await, [other.org_id.0]);
    let long = "a".repeat(1_000_000);
    for nothing in [
        "",
        "%",
        "_",
        "nobody",
        "' OR true --",
        "'; DROP TABLE api_keys; --",
        "\\",
        "*",
        &long,
        &key.public_id().to_uppercase(),
        &format!("{} ", key.public_id()),
        &key.public_id()[1..],
        &format!("{},{}", key.public_id(), another.public_id()),
        key.reveal(),
    ] {
        assert!(look_up(&world.pool, nothing).await.is_empty(), "{:.60}", nothing);
    }
    let null: Option<uuid::Uuid> =
        sqlx::query_scalar("SELECT tenant_id FROM find_api_key(NULL)").fetch_optional(&world.pool).await.unwrap();
    assert_eq!(null, None);
}

#[tokio::test]
async fn find_api_key_leaves_the_callers_session_unchanged() {
    let world = World::new().await;
    let key = world.key("site").await;
    let other = world.registry.create_org(&NewOrg::new("other", "Other", "free")).await.unwrap().org_id.to_string();
    const STATE: &str = "SELECT coalesce(current_setting('app.current_tenant', true), '') || '|'
                             || coalesce(current_setting('app.key_lookup', true), '') || '|'
                             || (SELECT count(*) FROM api_keys) || '|' || (SELECT coalesce(min(slug), '') FROM tenants)";
    let unbound: String = {
        let mut connection = world.pool.acquire().await.unwrap();
        let find = sqlx::query("SELECT * FROM find_api_key($1)").bind(key.public_id());
        assert!(find.fetch_optional(&mut *connection).await.unwrap().is_some());
        sqlx::query_scalar(STATE).fetch_one(&mut *connection).await.unwrap()
    };
    assert_eq!(unbound, "||0|");

    let mut transaction = world.pool.begin().await.unwrap();
    let bind = sqlx::query("SELECT set_config('app.current_tenant', $1, true)").bind(&other);
    bind.execute(&mut *transaction).await.unwrap();
    for id in [key.public_id(), "nobody"] {
        sqlx::query("SELECT * FROM find_api_key($1)").bind(id).fetch_all(&mut *transaction).await.unwrap();
        let state: String = sqlx::query_scalar(STATE).fetch_one(&mut *transaction).await.unwrap();
        assert_eq!(state, format!("{other}||0|other"));
    }
    // Also when it fails half-way: here because nobody may read past a policy, and it is told to.
    for sql in ["SAVEPOINT before", "SET LOCAL row_security = off"] {
        sqlx::raw_sql(sql).execute(&mut *transaction).await.unwrap();
    }
    let find = sqlx::query("SELECT * FROM find_api_key($1)").bind(key.public_id());
    assert!(find.fetch_all(&mut *transaction).await.is_err());
    sqlx::raw_sql("ROLLBACK TO before").execute(&mut *transaction).await.unwrap();
    let state: String = sqlx::query_scalar(STATE).fetch_one(&mut *transaction).await.unwrap();
    assert_eq!(state, format!("{other}||0|other"));
}

#[tokio::test]
async fn the_key_lookup_setting_alone_shows_no_rows() {
    let world = World::new().await;
    let key = world.key("site").await;
    for pool in [&world.pool, &world.operator] {
        let mut transaction = pool.begin().await.unwrap();
        let bind = sqlx::query("SELECT set_config('app.key_lookup', $1, true)").bind(key.public_id());
        bind.execute(&mut *transaction).await.unwrap();
        let seen: i64 = sqlx::query_scalar("SELECT count(*) FROM api_keys").fetch_one(&mut *transaction).await.unwrap();
        assert_eq!(seen, 0);
    }
}

#[tokio::test]
async fn find_api_key_ignores_shadowing_tables() {
    let world = World::new().await;
    let key = world.key("site").await;
    let mut connection = world.pool.acquire().await.unwrap();
    // Tables of the caller's own that are found before the real ones, by whoever does not name the schema.
    let shadows = "CREATE TEMP TABLE api_keys AS SELECT 'mine' AS public_id;
                   CREATE TEMP TABLE tenants AS SELECT 1 AS id;
                   SET search_path = pg_temp, public";
    sqlx::raw_sql(shadows).execute(&mut *connection).await.unwrap();
    let find = async |connection: &mut sqlx::PgConnection, id: &str| -> Vec<uuid::Uuid> {
        let find = sqlx::query_scalar("SELECT tenant_id FROM find_api_key($1)").bind(id.to_owned());
        find.fetch_all(connection).await.unwrap()
    };
    assert_eq!(find(&mut connection, key.public_id()).await, [world.org.org_id.0]);
    assert!(find(&mut connection, "mine").await.is_empty());
    connection.close().await.unwrap();
}
