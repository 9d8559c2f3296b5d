//! Our own two services: their settings, and the tool that migrates the stores before they start.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::process::{Launch, ProcessId};
use crate::{Layout, Name, StackError, Urls, User, binaries, command, http};

const MIGRATE_LIMIT: Duration = Duration::from_secs(120);

/// Where the services listen.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct ServicePorts {
    pub(crate) ingest: u16,
    pub(crate) otlp_grpc: u16,
    pub(crate) operator: u16,
    pub(crate) worker: u16,
}

/// The settings of a service, as its contract names them.
pub(crate) fn settings(
    name: Name,
    urls: &Urls,
    ports: &ServicePorts,
    admin_key: &str,
) -> Result<Vec<(String, String)>, StackError> {
    let listen = |port: u16| format!("127.0.0.1:{port}");
    let mut settings = vec![
        ("TRACEBILITY_PG_DSN", urls.pg_app_dsn.clone()),
        ("TRACEBILITY_REDIS_URL", urls.as_user(redis_user(name))?),
        ("TRACEBILITY_CLICKHOUSE_URL", urls.as_user(User::ClickhouseApp)?),
    ];
    match name {
        Name::IngestApi => settings.extend([
            ("TRACEBILITY_INGEST_LISTEN", listen(ports.ingest)),
            ("TRACEBILITY_OTLP_GRPC_LISTEN", listen(ports.otlp_grpc)),
            ("TRACEBILITY_OPERATOR_LISTEN", listen(ports.operator)),
            ("TRACEBILITY_ADMIN_KEY", admin_key.to_owned()),
        ]),
        Name::IngestWorker => settings.push(("TRACEBILITY_WORKER_LISTEN", listen(ports.worker))),
        Name::Postgres | Name::Redis | Name::Clickhouse => {}
    }
    Ok(settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

const fn redis_user(name: Name) -> User {
    match name {
        Name::IngestApi => User::RedisApi,
        Name::IngestWorker | Name::Postgres | Name::Redis | Name::Clickhouse => User::RedisWorker,
    }
}

/// Starts a service in a directory of its own.
pub(crate) fn start(
    layout: &Layout,
    name: Name,
    settings: Vec<(String, String)>,
    on_parent_death: Option<&'static str>,
) -> Result<ProcessId, StackError> {
    let home = layout.home(name);
    std::fs::create_dir_all(&home).map_err(StackError::file("create directory", &home))?;
    let mut launch = Launch::new(binaries::path(name.program())?, &home, &layout.log(name));
    launch.env = settings;
    launch.on_parent_death = on_parent_death;
    launch.spawn()
}

/// Whether a service says that it is ready.
pub(crate) async fn probe(name: Name, ports: &ServicePorts) -> Result<(), StackError> {
    let port = if name == Name::IngestApi { ports.ingest } else { ports.worker };
    match http::get(&format!("http://127.0.0.1:{port}/readyz")).await {
        Ok((200, _)) => Ok(()),
        Ok((status, body)) => Err(StackError::server(name.as_str(), format!("/readyz says {status}: {}", body.trim()))),
        Err(e) => Err(StackError::server(name.as_str(), e)),
    }
}

/// Brings both stores to the schema of this checkout.
pub(crate) async fn migrate(urls: &Urls) -> Result<(), StackError> {
    let mut migrate = Command::new(binaries::path("migrate")?);
    migrate
        .args(["up", "--target", "all"])
        .env("TRACEBILITY_PG_OWNER_DSN", &urls.pg_owner_dsn)
        .env("TRACEBILITY_CLICKHOUSE_URL", urls.as_user(User::ClickhouseOwner)?);
    if let Some(cluster) = &urls.clickhouse_cluster {
        migrate.args(["--cluster", cluster]);
    }
    command::output(&mut migrate, MIGRATE_LIMIT).await.map(drop)
}
