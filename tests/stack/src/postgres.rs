//! Postgres: its data directory, its process, its roles and its database.

use std::fs;
use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::install::Programs;
use crate::process::{Launch, ProcessId, User};
use crate::state::{State, write_private};
use crate::{Layout, Name, StackError, command, install, layout};

const INITDB_LIMIT: Duration = Duration::from_secs(120);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// The directory that holds the data directory.
pub(crate) fn home(layout: &Layout) -> Result<PathBuf, StackError> {
    Ok(layout.postgres_home(install::is_root()))
}

/// Whether there is data from an earlier start.
pub(crate) fn has_data(layout: &Layout) -> Result<bool, StackError> {
    Ok(home(layout)?.join("data").is_dir())
}

/// Starts the server; the caller has made sure that none runs on this data.
pub(crate) async fn start(
    layout: &Layout,
    state: &State,
    programs: &Programs,
    on_parent_death: Option<&'static str>,
) -> Result<ProcessId, StackError> {
    let (home, user, bin) = (home(layout)?, install::postgres_user()?, programs.postgres_bin()?);
    create_home(&home, user)?;
    let data = home.join("data");
    if !data.is_dir() {
        init(&home, user, bin, &state.secrets.pg_superuser).await?;
    }
    // Names a process that no longer runs. If its number belongs to another process by now, Postgres would refuse.
    layout::remove_file(&data.join("postmaster.pid"))?;
    let mut launch = Launch::new(bin.join("postgres"), &data, &layout.log(Name::Postgres));
    launch.user = user;
    // The one that makes it disconnect its clients and end.
    launch.on_parent_death = on_parent_death.map(|_| "INT");
    launch.args(["-D".into(), data.into_os_string()]).args(settings(state, "127.0.0.1", state.ports.postgres)).spawn()
}

pub(crate) fn settings(state: &State, listen: &str, port: u16) -> Vec<String> {
    let port = port.to_string();
    let on = if state.durable { "on" } else { "off" };
    let settings = [
        ("listen_addresses", listen),
        ("port", &port),
        // Its default directory belongs to the distribution's own server.
        ("unix_socket_directories", ""),
        ("max_connections", "200"),
        ("shared_buffers", "64MB"),
        ("work_mem", "4MB"),
        ("maintenance_work_mem", "32MB"),
        ("max_wal_size", "256MB"),
        ("fsync", on),
        ("synchronous_commit", on),
        ("full_page_writes", on),
        ("logging_collector", "off"),
    ];
    settings.iter().flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")]).collect()
}

/// Creates the directory, for the server's user only.
fn create_home(home: &Path, user: Option<User>) -> Result<(), StackError> {
    match DirBuilder::new().mode(0o700).create(home) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(StackError::file("create directory", home)(e));
        }
        _ => {}
    }
    let read = StackError::file("read", home);
    let meta = fs::symlink_metadata(home).map_err(read)?;
    let ours = [Some(rustix::process::geteuid().as_raw()), user.map(|user| user.uid)];
    // It may be below the system's temporary directory, where anybody can put something in its place.
    if !meta.is_dir() || !ours.contains(&Some(meta.uid())) {
        return Err(StackError::Setting(format!("{} is not our directory; remove it and try again", home.display())));
    }
    fs::set_permissions(home, fs::Permissions::from_mode(0o700)).map_err(StackError::file("restrict", home))?;
    if let Some(user) = user {
        chown(home, Some(user.uid), Some(user.gid)).map_err(StackError::file("hand over", home))?;
    }
    Ok(())
}

/// Makes the data directory, which gets its name only once it is whole.
async fn init(home: &Path, user: Option<User>, bin: &Path, password: &str) -> Result<(), StackError> {
    let (file, draft) = (home.join("password"), home.join("data.new"));
    layout::remove_dir(&draft)?;
    write_private(&file, password.as_bytes())?;
    let mut initdb = tokio::process::Command::new(bin.join("initdb"));
    if let Some(user) = user {
        chown(&file, Some(user.uid), Some(user.gid)).map_err(StackError::file("hand over", &file))?;
        initdb.uid(user.uid).gid(user.gid);
    }
    initdb.current_dir(home).args(["--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale"]);
    // The server is started next, and a directory that was lost in a power cut in between is simply made again.
    initdb.args(["--no-sync", "--no-instructions"]).arg("--pwfile").arg(&file).arg("-D").arg(&draft);
    let made = command::output(&mut initdb, INITDB_LIMIT).await;
    layout::remove_file(&file)?;
    made?;
    fs::rename(&draft, home.join("data")).map_err(StackError::file("rename", &draft))
}

/// Whether the server answers a query.
pub(crate) async fn probe(state: &State) -> Result<(), StackError> {
    query(&admin_dsn(state), &["SELECT 1"]).await
}

/// Creates the three roles and the database, where they are missing.
pub(crate) async fn provision(state: &State) -> Result<(), StackError> {
    let secrets = &state.secrets;
    let logins = [
        // It creates the databases of tests.
        ("tracebility_owner", "CREATEDB", &secrets.pg_owner),
        ("tracebility_app", "NOCREATEDB", &secrets.pg_app),
        ("tracebility_operator", "NOCREATEDB", &secrets.pg_operator),
    ];
    let create_role = |role: &str| {
        format!(
            "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN CREATE ROLE {role}; \
             END IF; END $$"
        )
    };
    let dsn = superuser_dsn(state);
    for (role, create_db, password) in logins {
        let alter =
            format!("ALTER ROLE {role} LOGIN NOSUPERUSER NOBYPASSRLS {create_db} NOCREATEROLE PASSWORD '{password}'");
        query(&dsn, &[&create_role(role), &alter]).await?;
    }
    let created = query(&dsn, &["CREATE DATABASE tracebility OWNER tracebility_owner"]).await;
    match created {
        Err(StackError::Server { message, .. }) if message.contains("already exists") => Ok(()),
        other => other,
    }
}

/// Runs statements, each by itself, on one connection. They are written here, with names and passwords of ours.
pub(crate) async fn query(dsn: &str, statements: &[&str]) -> Result<(), StackError> {
    let fail = |e: sqlx::Error| StackError::server("postgres", e);
    let connected = tokio::time::timeout(CONNECT_LIMIT, PgConnection::connect(dsn)).await;
    let timeout = |_| StackError::Timeout { what: "connecting to postgres".into(), limit: CONNECT_LIMIT };
    let mut connection = connected.map_err(timeout)?.map_err(fail)?;
    for statement in statements {
        sqlx::raw_sql(AssertSqlSafe(*statement)).execute(&mut connection).await.map_err(fail)?;
    }
    connection.close().await.map_err(fail)
}

/// May drop any database, whoever is connected to it; of a given server there is only the owner.
pub(crate) fn admin_dsn(state: &State) -> String {
    state.given.postgres.as_ref().map_or_else(|| superuser_dsn(state), |given| given.owner_dsn.clone())
}

/// The same server and user, another database.
pub(crate) fn with_database(dsn: &str, database: &str) -> Result<String, StackError> {
    let mut url = url::Url::parse(dsn).map_err(|e| StackError::server("postgres", e))?;
    url.set_path(&format!("/{database}"));
    Ok(url.into())
}

fn superuser_dsn(state: &State) -> String {
    format!("postgres://postgres:{}@127.0.0.1:{}/postgres", state.secrets.pg_superuser, state.ports.postgres)
}
