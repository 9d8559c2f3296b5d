//! One Redis or Valkey server, or a Sentinel, of a test's own: with settings of its choice, to be killed and started
//! again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::install::Programs;
use crate::process::{Launch, ProcessId, signal_named};
use crate::state::write_private;
use crate::{Name, StackError, logs, ports, redis as node, valkey, wait};

/// How long a server may take until it answers.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// A port can be taken between choosing it and using it.
const START_ATTEMPTS_MAX: usize = 3;
const LOG_LINES_SHOWN: usize = 20;

/// The program that the server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// Debian's Redis 7.0, which has no `WAITAOF`.
    Redis,
    /// Valkey, which has `WAITAOF`.
    Valkey,
    /// Valkey as a Sentinel.
    Sentinel,
}

/// A server on loopback without a password. It is killed when dropped, and when the test process ends in any other way.
#[derive(Debug)]
pub struct RedisServer {
    program: PathBuf,
    flavour: Flavour,
    port: u16,
    preload: Option<PathBuf>,
    process: ProcessId,
    dir: TempDir,
}

impl RedisServer {
    /// Starts one with lines for its configuration file, beside its address and directory, and waits until it answers.
    pub async fn start(flavour: Flavour, settings: &str) -> Result<Self, StackError> {
        Self::start_with(flavour, settings, None).await
    }

    /// The same, with a library that is loaded before those of the system.
    pub async fn start_with(flavour: Flavour, settings: &str, preload: Option<&Path>) -> Result<Self, StackError> {
        let program = match flavour {
            Flavour::Redis => Programs::ensure(&[Name::Redis]).await?.redis_server()?.to_owned(),
            Flavour::Valkey | Flavour::Sentinel => valkey::server().await?,
        };
        for _ in 1..START_ATTEMPTS_MAX {
            match Self::try_start(&program, flavour, settings, preload).await {
                Err(StackError::NotReady { tail, .. }) if tail.contains("Address already in use") => {}
                other => return other,
            }
        }
        Self::try_start(&program, flavour, settings, preload).await
    }

    async fn try_start(
        program: &Path,
        flavour: Flavour,
        settings: &str,
        preload: Option<&Path>,
    ) -> Result<Self, StackError> {
        let dir = TempDir::with_prefix("tracebility-redis-server-");
        let dir = dir.map_err(StackError::file("create a directory in", &std::env::temp_dir()))?;
        let port = ports::free()?;
        let config = format!("bind 127.0.0.1\nport {port}\n{settings}\n");
        write_private(&dir.path().join("redis.conf"), config.as_bytes())?;
        let preload = preload.map(Path::to_owned);
        let process = launch(program, flavour, dir.path(), preload.as_deref())?;
        let server = Self { program: program.to_owned(), flavour, port, preload, process, dir };
        server.ready().await?;
        Ok(server)
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its URL: `redis://127.0.0.1:<port>/`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// The number of its process, to signal it.
    pub fn pid(&self) -> u32 {
        self.process.pid
    }

    /// Where its data is.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Sends one command, on a connection of its own.
    pub async fn command<T: redis::FromRedisValue>(&self, words: &[&str]) -> Result<T, StackError> {
        let Some((name, arguments)) = words.split_first() else {
            return Err(StackError::Setting("no command was given".into()));
        };
        node::command(&self.url(), redis::cmd(name).arg(arguments).to_owned()).await
    }

    /// One field of `INFO`; empty if there is none.
    pub async fn info(&self, field: &str) -> Result<String, StackError> {
        let info: String = self.command(&["INFO"]).await?;
        let found = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        Ok(found.unwrap_or_default().trim().to_owned())
    }

    /// Sends a signal, by name.
    pub fn signal(&self, signal: &str) -> Result<(), StackError> {
        self.process.signal(signal_named(signal)?).map(drop)
    }

    /// Kills it as a crash would.
    pub async fn kill(&self) -> Result<(), StackError> {
        self.process.kill().await
    }

    /// Starts it again on the data that it left, where it was.
    pub async fn start_again(&mut self) -> Result<(), StackError> {
        self.process.kill().await?;
        self.process = launch(&self.program, self.flavour, self.dir.path(), self.preload.as_deref())?;
        self.ready().await
    }

    async fn ready(&self) -> Result<(), StackError> {
        let pong = wait::until(READY_LIMIT, async || match self.process.is_alive() {
            true => self.command::<String>(&["PING"]).await.ok(),
            false => Some(String::new()),
        });
        if pong.await.is_some_and(|pong| pong == "PONG") {
            return Ok(());
        }
        let log = self.dir.path().join("log");
        let tail = logs::tail(&log, LOG_LINES_SHOWN);
        Err(StackError::NotReady { name: "a Redis server".into(), problem: "does not answer".into(), log, tail })
    }
}

fn launch(program: &Path, flavour: Flavour, dir: &Path, preload: Option<&Path>) -> Result<ProcessId, StackError> {
    let mut args = vec![dir.join("redis.conf").into_os_string()];
    if flavour == Flavour::Sentinel {
        args.push("--sentinel".into());
    }
    let mut launch = Launch::new(program, dir, &dir.join("log")).args(args);
    launch.on_parent_death = Some("KILL");
    if let Some(library) = preload {
        launch.env.push(("LD_PRELOAD".into(), library.display().to_string()));
    }
    launch.spawn()
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // Best effort: it dies with this process at the latest.
        _ = self.process.signal(Signal::KILL);
    }
}
