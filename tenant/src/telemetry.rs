//! What every service does the same way at its start and end: logging, and waiting to be told to stop.

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Logs to standard error what `filter` lets through (see [`crate::settings::LOG`]), as text for a terminal and as JSON
/// lines for everything else.
pub fn log_to_stderr(filter: &str) {
    use std::io::IsTerminal;
    let filter = EnvFilter::new(filter);
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let installed = if std::io::stderr().is_terminal() {
        builder.try_init()
    } else {
        builder.json().flatten_event(true).try_init()
    };
    if let Err(error) = installed {
        eprintln!("logging was set up already: {error}");
    }
}

/// Waits for SIGTERM or SIGINT and tells which it was. If signals cannot be listened for, waits for ever: the process is
/// then ended by the signal itself.
pub async fn stop_signal() -> &'static str {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
