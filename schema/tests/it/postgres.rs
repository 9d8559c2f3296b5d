//! `schema::migrate` on real servers.

use schema::migrate::{self, CLICKHOUSE, MigrateError, Outcome, POSTGRES, Store, Stores, Target};
use sqlx::PgPool;

use crate::support::{empty, stores, url};

async fn owner(dsn: &str) -> PgPool {
    tenant::postgres::pool(&url(dsn)).unwrap()
}

/// Every table, column, constraint, index, trigger, function, type and grant, as text.
async fn catalogue(pool: &PgPool) -> Vec<String> {
    const SQL: &str = "
        SELECT 'column ' || table_name || '.' || column_name || ' ' || udt_name || ' ' || is_nullable || ' '
               || coalesce(column_default, '') AS line
          FROM information_schema.columns WHERE table_schema = 'public'
        UNION ALL SELECT 'constraint ' || conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid)
          FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND conrelid <> 0
        UNION ALL SELECT 'index ' || indexdef FROM pg_indexes WHERE schemaname = 'public'
        UNION ALL SELECT 'trigger ' || tgrelid::regclass || ' ' || pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
        UNION ALL SELECT 'function ' || oid::regprocedure FROM pg_proc WHERE pronamespace = 'public'::regnamespace
        UNION ALL SELECT 'type ' || typname FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype IN ('e', 'd')
        UNION ALL SELECT 'grant ' || table_name || ' ' || grantee || ' ' || privilege_type
          FROM information_schema.role_table_grants WHERE table_schema = 'public'
         ORDER BY line";
    sqlx::query_scalar(SQL).fetch_all(pool).await.unwrap()
}

#[tokio::test]
async fn up_fills_an_empty_database_and_again_does_nothing() {
    let db = empty().await;
    let files = |migrations: &[migrate::Migration]| migrations.iter().map(|m| m.file).collect::<Vec<_>>();
    let first = migrate::up(Target::All, &stores(&db)).await.unwrap();
    let newest = |migrations: &[migrate::Migration]| migrations.last().unwrap().version;
    let (postgres, clickhouse) = (newest(POSTGRES), newest(CLICKHOUSE));
    assert_eq!(
        first,
        [
            Outcome { store: Store::Postgres, applied: files(POSTGRES), version: postgres },
            Outcome { store: Store::Clickhouse, applied: files(CLICKHOUSE), version: clickhouse },
        ]
    );
    let again = migrate::up(Target::All, &stores(&db)).await.unwrap();
    assert!(again.iter().all(|outcome| outcome.applied.is_empty()), "{again:?}");
    let versions = migrate::version(Target::All, &stores(&db)).await.unwrap();
    let found: Vec<_> = versions.iter().map(|v| v.current.as_ref().map(|a| (a.version, a.dirty))).collect();
    assert_eq!(found, [Some((postgres, false)), Some((clickhouse, false))]);
}

#[tokio::test]
async fn version_of_an_empty_database_changes_nothing() {
    let db = empty().await;
    let versions = migrate::version(Target::All, &stores(&db)).await.unwrap();
    assert!(versions.iter().all(|version| version.current.is_none()), "{versions:?}");
    assert_eq!(catalogue(&owner(&db.pg_owner_dsn).await).await, Vec::<String>::new());
}

#[tokio::test]
async fn many_at_once_apply_each_migration_once() {
    let db = empty().await;
    let running: Vec<_> = (0..10)
        .map(|_| {
            let stores = stores(&db);
            tokio::spawn(async move { migrate::up(Target::All, &stores).await.unwrap() })
        })
        .collect();
    let mut applied = Vec::new();
    for run in running {
        applied.extend(run.await.unwrap().into_iter().flat_map(|outcome| outcome.applied));
    }
    let all: Vec<_> = POSTGRES.iter().chain(CLICKHOUSE).map(|migration| migration.file).collect();
    assert_eq!(applied, all);
}

#[tokio::test]
async fn down_takes_back_all_that_up_made() {
    let db = empty().await;
    migrate::up(Target::Postgres, &stores(&db)).await.unwrap();
    let pool = owner(&db.pg_owner_dsn).await;
    let before = catalogue(&pool).await;
    assert!(before.len() > 200, "{}", before.len());
    for migration in POSTGRES.iter().rev() {
        sqlx::raw_sql(migration.down).execute(&pool).await.unwrap();
    }
    sqlx::raw_sql("DROP TABLE schema_migrations").execute(&pool).await.unwrap();
    assert_eq!(catalogue(&pool).await, Vec::<String>::new());
    migrate::up(Target::Postgres, &stores(&db)).await.unwrap();
    assert_eq!(catalogue(&pool).await, before);
}

#[tokio::test]
async fn a_failure_names_file_statement_and_message_and_leaves_nothing() {
    let db = empty().await;
    let pool = owner(&db.pg_owner_dsn).await;
    sqlx::raw_sql("CREATE TABLE tenants (id int)").execute(&pool).await.unwrap();
    let error = migrate::up(Target::Postgres, &stores(&db)).await.unwrap_err().to_string();
    assert!(error.starts_with("postgres/0001_init.up.sql, statement 7 (CREATE TABLE tenants (): "), "{error}");
    assert!(error.contains("relation \"tenants\" already exists"), "{error}");
    let types: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_type WHERE typname = 'tenant_status'")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(types, 0, "the transaction was rolled back");
    sqlx::raw_sql("DROP TABLE tenants").execute(&pool).await.unwrap();
    migrate::up(Target::Postgres, &stores(&db)).await.unwrap();
}

#[tokio::test]
async fn a_changed_file_and_a_newer_database_are_refused() {
    let db = empty().await;
    migrate::up(Target::Postgres, &stores(&db)).await.unwrap();
    let pool = owner(&db.pg_owner_dsn).await;
    sqlx::raw_sql("UPDATE schema_migrations SET checksum = 'x' WHERE version = 1").execute(&pool).await.unwrap();
    let error = migrate::up(Target::Postgres, &stores(&db)).await.unwrap_err();
    assert!(matches!(error, MigrateError::Changed { version: 1, .. }), "{error}");
    sqlx::raw_sql("UPDATE schema_migrations SET version = 999 WHERE version = 1").execute(&pool).await.unwrap();
    let error = migrate::up(Target::Postgres, &stores(&db)).await.unwrap_err();
    assert!(matches!(error, MigrateError::Newer { found: 999, .. }), "{error}");
}

#[tokio::test]
async fn a_clickhouse_migration_that_was_stopped_half_way_is_run_again() {
    let db = empty().await;
    migrate::up(Target::Clickhouse, &stores(&db)).await.unwrap();
    let client = raw_client(&db.clickhouse_url);
    // As if it had been killed before its last statements.
    let dirty = "INSERT INTO schema_migrations (version, name, checksum, dirty) SELECT 1, 'trace_tables', '', true";
    client.query_raw(dirty).execute().await.unwrap();
    client.query_raw("DROP TABLE span").execute().await.unwrap();
    let version = migrate::version(Target::Clickhouse, &stores(&db)).await.unwrap();
    assert!(version[0].current.as_ref().unwrap().dirty);
    let outcome = migrate::up(Target::Clickhouse, &stores(&db)).await.unwrap();
    assert_eq!(outcome[0].applied, ["clickhouse/0001_trace_tables.up.sql"]);
    client.query_raw("SELECT * FROM span LIMIT 0 FORMAT Null").execute().await.unwrap();
    assert!(migrate::up(Target::Clickhouse, &stores(&db)).await.unwrap()[0].applied.is_empty());
}

#[tokio::test]
async fn what_cannot_be_reached_is_named_without_its_password() {
    let wrong = Stores {
        postgres: Some("postgres://u:hunter2@127.0.0.1:1/db".to_owned()),
        clickhouse: Some("http://u:hunter2@127.0.0.1:1/db".to_owned()),
    };
    for (target, start) in
        [(Target::Postgres, "postgres: could not connect"), (Target::Clickhouse, "clickhouse: could not")]
    {
        let error = migrate::up(target, &wrong).await.unwrap_err().to_string();
        assert!(error.starts_with(start) && !error.contains("hunter2"), "{error}");
    }
    let error = migrate::up(Target::All, &Stores::default()).await.unwrap_err().to_string();
    assert_eq!(error, "not set: TRACEBILITY_PG_OWNER_DSN (or TRACEBILITY_PG_DSN), TRACEBILITY_CLICKHOUSE_URL");
    assert_eq!(format!("{wrong:?}"), "Stores");
}

pub(crate) fn raw_client(text: &str) -> clickhouse::Client {
    let url = url::Url::parse(text).unwrap();
    clickhouse::Client::default()
        .with_url(format!("http://{}:{}/", url.host_str().unwrap(), url.port().unwrap_or(8123)))
        .with_user(url.username())
        .with_password(url.password().unwrap_or_default())
        .with_database(url.path().trim_matches('/'))
}
