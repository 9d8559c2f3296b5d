//! What can go wrong, said so that the reader knows what to do next.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why the stack could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StackError {
    /// A file or directory could not be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// A program could not be started at all.
    #[error("cannot run `{command}`: is it installed and in PATH?")]
    Run {
        /// The command line that could not be run.
        command: String,
        /// The error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// A program ran and failed.
    #[error("`{command}` failed ({status}){}", indented(output))]
    Failed {
        /// The command line, to be run by hand.
        command: String,
        /// How the program ended, as the system says it.
        status: String,
        /// The last lines it wrote.
        output: String,
    },
    /// Something must be installed, and not by us.
    #[error("{what} is not installed; install it with: {command}")]
    Missing {
        /// The name of the program or package.
        what: String,
        /// The exact command that installs it.
        command: String,
    },
    /// A process did not become ready in time, or ended while starting.
    #[error("{name} {problem}; its log ({}) ends with:{}", log.display(), indented(tail))]
    NotReady {
        /// The name of the process.
        name: String,
        /// What was seen instead.
        problem: String,
        /// The file with the whole log.
        log: PathBuf,
        /// The end of the log.
        tail: String,
    },
    /// Something took longer than its deadline.
    #[error("{what} took longer than {} s", limit.as_secs())]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long was waited.
        limit: Duration,
    },
    /// No port in our range can be bound.
    #[error("no free port on 127.0.0.1 between {first} and {last}")]
    NoPort {
        /// The first port that was tried.
        first: u16,
        /// The last port that was tried.
        last: u16,
    },
    /// A server refused a statement or a connection.
    #[error("{server}: {message}")]
    Server {
        /// What refused, such as postgres, redis or clickhouse.
        server: &'static str,
        /// The message of the server or the driver.
        message: String,
    },
    /// There is no stack in this directory.
    #[error("no stack in {}; start one with: cargo stack up", dir.display())]
    NoStack {
        /// The state directory that has no stack in it.
        dir: PathBuf,
    },
    /// A setting makes no sense.
    #[error("{0}")]
    Setting(String),
}

impl StackError {
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }

    pub(crate) fn server(server: &'static str, error: impl std::fmt::Display) -> Self {
        Self::Server { server, message: error.to_string() }
    }
}

/// Output of a program, set off from the sentence before it; nothing when there was none.
fn indented(text: &str) -> String {
    text.trim_end().lines().map(|line| format!("\n    {line}")).collect()
}
