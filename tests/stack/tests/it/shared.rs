//! One set of servers for all test processes.

use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

async fn pg(dsn: &str, sql: &str) -> Result<Vec<sqlx::postgres::PgRow>, sqlx::Error> {
    let mut connection = PgConnection::connect(dsn).await?;
    sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_all(&mut connection).await
}

async fn redis(url: &str, words: &[&str]) -> Option<String> {
    let client = redis::Client::open(url).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    command.query_async(&mut connection).await.unwrap()
}

#[tokio::test]
async fn every_call_answers_with_the_same_servers() {
    let (one, two) = (stack::shared().await.unwrap(), stack::shared().await.unwrap());
    assert_eq!(one.pg_owner_dsn, two.pg_owner_dsn);
    let rows = pg(
        &one.pg_owner_dsn,
        "SELECT rolsuper OR rolbypassrls AS above FROM pg_roles WHERE rolname = 'tracebility_app'",
    );
    assert!(!rows.await.unwrap()[0].get::<bool, _>("above"), "the services' role is bound by row level security");
}

#[tokio::test]
async fn fresh_databases_do_not_see_each_other() {
    let shared = stack::shared().await.unwrap();
    let (one, two) = tokio::try_join!(shared.fresh_database(), shared.fresh_database()).unwrap();

    pg(&one.pg_owner_dsn, "CREATE TABLE only_here (a int)").await.unwrap();
    pg(&one.pg_owner_dsn, "GRANT SELECT ON only_here TO tracebility_app").await.unwrap();
    pg(&one.pg_app_dsn, "SELECT * FROM only_here").await.unwrap();
    assert!(pg(&two.pg_owner_dsn, "SELECT * FROM only_here").await.is_err());

    redis(&one.redis_url, &["SET", "only", "here"]).await;
    assert_eq!(redis(&two.redis_url, &["GET", "only"]).await, None);

    assert_ne!(one.clickhouse_url, two.clickhouse_url);
}

#[tokio::test]
async fn a_dropped_database_is_gone() {
    let shared = stack::shared().await.unwrap();
    let db = shared.fresh_database().await.unwrap();
    let name = db.pg_owner_dsn.rsplit_once('/').unwrap().1.to_owned();
    // A connection that is still open does not keep it. Of a given server only the owner is known, who may not end it.
    let is_ours = std::env::var_os("TRACEBILITY_STACK").is_none();
    let _open = if is_ours { Some(PgConnection::connect(&db.pg_app_dsn).await.unwrap()) } else { None };
    drop(db);
    let count = format!("SELECT count(*) AS n FROM pg_database WHERE datname = '{name}'");
    for _ in 0..200 {
        if pg(&shared.pg_owner_dsn, &count).await.unwrap()[0].get::<i64, _>("n") == 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("{name} is still there after 10 s");
}

#[tokio::test]
async fn redis_refuses_to_evict() {
    let shared = stack::shared().await.unwrap();
    let client = redis::Client::open(shared.redis_url.as_str()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut ask = redis::cmd("CONFIG");
    ask.arg("GET").arg("maxmemory-policy");
    let answer: Vec<String> = ask.query_async(&mut connection).await.unwrap();
    assert_eq!(answer[1], "noeviction");
}
