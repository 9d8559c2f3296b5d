//! The processes of a stack.

use std::fmt;
use std::path::Path;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

/// A process of the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "each is the program of that name")]
pub enum Name {
    Postgres,
    Redis,
    Clickhouse,
    IngestApi,
    IngestWorker,
}

impl Name {
    /// In the order in which they start; they stop in reverse.
    pub const ALL: [Self; 5] = [Self::Postgres, Self::Redis, Self::Clickhouse, Self::IngestApi, Self::IngestWorker];
    pub(crate) const SERVERS: [Self; 3] = [Self::Postgres, Self::Redis, Self::Clickhouse];
    pub(crate) const SERVICES: [Self; 2] = [Self::IngestApi, Self::IngestWorker];

    /// As on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Redis => "redis",
            Self::Clickhouse => "clickhouse",
            Self::IngestApi => "ingest-api",
            Self::IngestWorker => "ingest-worker",
        }
    }

    /// The file name of its executable.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Redis => "redis-server",
            Self::Clickhouse => "clickhouse-local-server",
            Self::IngestApi | Self::IngestWorker => self.as_str(),
        }
    }

    /// The signal that asks it to stop. Postgres takes SIGTERM as "once every client has left".
    pub(crate) fn stop_signal(self) -> Signal {
        if self == Self::Postgres { Signal::INT } else { Signal::TERM }
    }

    /// Whether a path is one of its executable.
    pub(crate) fn is_program(self, path: &Path) -> bool {
        let file_name = path.file_name().unwrap_or_default().to_string_lossy();
        // Debian's redis-server is a link to redis-check-rdb, which looks at the name it was called by.
        let target = if self == Self::Redis { "redis-check-rdb" } else { self.program() };
        let name = file_name.trim_end_matches(" (deleted)");
        // What looks after a container is our own executable.
        name == self.program() || name == target || (name == "stack" && Self::SERVERS.contains(&self))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
