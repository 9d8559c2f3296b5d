//! Empty databases for a test, the real `migrate`, and the schema as text for comparison.

use std::process::Output;

use clickhouse::Client;
use migrate::Stores;
use sqlx::{Connection, PgConnection};
use stack::TestDb;
use tokio::process::Command;

/// Empty databases that no other test uses.
pub(crate) async fn empty() -> TestDb {
    stack::shared().await.expect("the test servers start").fresh_database().await.expect("a fresh database")
}

pub(crate) fn stores(db: &TestDb) -> Stores {
    Stores { postgres: Some(db.pg_owner_dsn.clone()), clickhouse: Some(db.clickhouse_url.clone()) }
}

/// The real binary with the URLs of these databases, and without any setting of the environment.
pub(crate) fn migrate(stores: &Stores, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_migrate"));
    command.args(args).kill_on_drop(true).stdin(std::process::Stdio::null());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TRACEBILITY_")) {
        command.env_remove(name);
    }
    let urls = [("TRACEBILITY_PG_OWNER_DSN", &stores.postgres), ("TRACEBILITY_CLICKHOUSE_URL", &stores.clickhouse)];
    for (name, url) in urls {
        if let Some(url) = url {
            command.env(name, url);
        }
    }
    command
}

/// The output and exit code of a run of the binary.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

/// Runs the binary to its end.
pub(crate) async fn run(stores: &Stores, args: &[&str]) -> Ran {
    migrate(stores, args).output().await.unwrap().into()
}

/// The same for a run that must succeed.
pub(crate) async fn must(stores: &Stores, args: &[&str]) -> Ran {
    let ran = run(stores, args).await;
    assert_eq!(ran.code, Some(0), "{args:?}: {ran:?}");
    ran
}

/// A connection to Postgres as the owner, which is closed at the end of the test.
pub(crate) async fn owner(db: &TestDb) -> PgConnection {
    PgConnection::connect(&db.pg_owner_dsn).await.unwrap()
}

/// A client of ClickHouse without any of the restrictions that the services have.
pub(crate) fn clickhouse(url: &str) -> Client {
    let url = url::Url::parse(url).unwrap();
    Client::default()
        .with_url(format!("http://{}:{}/", url.host_str().unwrap(), url.port().unwrap_or(8123)))
        .with_user(url.username())
        .with_password(url.password().unwrap_or_default())
        .with_database(url.path().trim_matches('/'))
}

/// `SHOW CREATE TABLE` of everything in the database, by name, without the database's own name.
pub(crate) async fn clickhouse_schema(url: &str) -> Vec<String> {
    let query = "SELECT replaceAll(create_table_query, concat(currentDatabase(), '.'), '') FROM system.tables \
                 WHERE database = currentDatabase() ORDER BY name";
    clickhouse(url).query_raw(query).fetch_all().await.unwrap()
}
