//! What must be on the machine, and getting it there.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs};

use tokio::process::Command;

use crate::lock::Lock;
use crate::process::User;
use crate::{Name, StackError, apt, chdb, progress};

/// Two commands that both find something missing install it one after the other.
const LOCK_LIMIT: Duration = Duration::from_secs(900);

/// The programs of the servers. A program that was not asked for may be missing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Programs {
    /// The directory of `postgres` and `initdb`, which is not in PATH on Debian.
    postgres_bin: Option<PathBuf>,
    redis_server: Option<PathBuf>,
    libchdb: Option<PathBuf>,
}

impl Programs {
    /// Finds the programs of these servers, and installs those that are missing.
    pub(crate) async fn ensure(servers: &[Name]) -> Result<Self, StackError> {
        let found = Self::find();
        if found.missing(servers).is_empty() {
            return Ok(found);
        }
        let dir = chdb::cache_dir();
        fs::create_dir_all(&dir).map_err(StackError::file("create directory", &dir))?;
        let _lock = Lock::acquire(&dir.join("install.lock"), LOCK_LIMIT).await?;
        let missing = Self::find().missing(servers);
        let packages: Vec<&str> = missing.iter().filter_map(|name| apt_package(*name)).collect();
        if !packages.is_empty() {
            apt::install(&packages).await?;
        }
        if missing.contains(&Name::Clickhouse) {
            chdb::fetch().await?;
        }
        let found = Self::find();
        match found.missing(servers).first() {
            None => Ok(found),
            Some(name) => Err(StackError::Setting(format!("{name} was installed but its program cannot be found"))),
        }
    }

    fn find() -> Self {
        Self {
            postgres_bin: postgres_bin(),
            redis_server: in_path(Name::Redis.program()),
            libchdb: Some(chdb::library()).filter(|path| path.is_file()),
        }
    }

    fn missing(&self, servers: &[Name]) -> Vec<Name> {
        let is_missing = |name: &&Name| match name {
            Name::Postgres => self.postgres_bin.is_none() || postgres_user().is_err(),
            Name::Redis => self.redis_server.is_none(),
            Name::Clickhouse => self.libchdb.is_none(),
            Name::IngestApi | Name::IngestWorker => false,
        };
        servers.iter().filter(is_missing).copied().collect()
    }

    pub(crate) fn postgres_bin(&self) -> Result<&Path, StackError> {
        present(self.postgres_bin.as_deref(), "postgres")
    }

    pub(crate) fn redis_server(&self) -> Result<&Path, StackError> {
        present(self.redis_server.as_deref(), "redis-server")
    }

    pub(crate) fn libchdb(&self) -> Result<&Path, StackError> {
        present(self.libchdb.as_deref(), "libchdb.so")
    }
}

/// The user Postgres runs as: it refuses to be root. None if this is not root anyway.
pub(crate) fn postgres_user() -> Result<Option<User>, StackError> {
    if !is_root() {
        return Ok(None);
    }
    User::named("postgres").map(Some).ok_or_else(|| StackError::Missing {
        what: "the user `postgres`, as which Postgres must run because it refuses to run as root,".into(),
        command: "useradd --system postgres".into(),
    })
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn apt_package(name: Name) -> Option<&'static str> {
    match name {
        Name::Postgres => Some("postgresql"),
        Name::Redis => Some("redis-server"),
        Name::Clickhouse => in_path("npm").is_none().then_some("npm"),
        Name::IngestApi | Name::IngestWorker => None,
    }
}

fn present<'a>(path: Option<&'a Path>, what: &str) -> Result<&'a Path, StackError> {
    path.ok_or_else(|| StackError::Missing { what: what.into(), command: "cargo stack up".into() })
}

/// The newest version that Debian's packages installed, else what is in PATH.
fn postgres_bin() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    versions
        .filter_map(|entry| {
            let dir = entry.ok()?.path();
            let version: u32 = dir.file_name()?.to_str()?.parse().ok()?;
            Some((version, dir.join("bin")))
        })
        .filter(|(_, bin)| bin.join("postgres").is_file() && bin.join("initdb").is_file())
        .max()
        .map(|(_, bin)| bin)
        .or_else(|| in_path("initdb")?.canonicalize().ok()?.parent().map(Path::to_owned))
}

/// A program in PATH, or where servers are on systems that keep those out of a user's PATH.
pub(crate) fn in_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|candidate| candidate.is_file())
}

/// Says what is about to take a while, and runs it.
pub(crate) async fn step(what: &str, command: &mut Command, limit: Duration) -> Result<String, StackError> {
    progress::say(what);
    crate::command::output(command, limit).await
}
