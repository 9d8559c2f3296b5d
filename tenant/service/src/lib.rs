//! What every service does the same way: read its settings, log, count, and wait to be told to stop.
//!
//! | module | one idea |
//! | --- | --- |
//! | [`settings`] | how a program reads its `TRACEBILITY_*` settings |
//! | [`mode`] | for customers, or self-hosted |
//! | [`http_path`] | one form for all ways to write a path |
//! | [`turn`] | work that one process of all does at a time |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod http_path;
pub mod mode;
pub mod settings;
pub mod turn;

use std::fmt;
use std::process::ExitCode;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::settings::{Errors, LOG, Program, Start, Values};

/// The whole of a service's `main`: reads its arguments and settings, starts logging, and serves until `serve` returns.
/// The program's table must hold [`LOG`].
pub fn main<C, E: fmt::Display>(
    program: &Program,
    read: impl FnOnce(&Values) -> Result<C, Errors>,
    serve: impl FnOnce(C) -> Result<(), E>,
) -> ExitCode {
    let read = |values: &Values| Ok((values.get(&LOG)?, read(values)?));
    let (log, config) = match program.start(std::env::args_os().skip(1), std::env::vars_os(), read) {
        Start::Run(config) => config,
        Start::Exit(exit) => return exit.print(),
    };
    log_to_stderr(&log);
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Logs what `filter` lets through, as text for a terminal and as JSON lines for everything else.
fn log_to_stderr(filter: &str) {
    use std::io::IsTerminal;
    let builder = tracing_subscriber::fmt().with_env_filter(EnvFilter::new(filter)).with_writer(std::io::stderr);
    let installed = if std::io::stderr().is_terminal() {
        builder.try_init()
    } else {
        builder.json().flatten_event(true).try_init()
    };
    if let Err(error) = installed {
        eprintln!("logging was set up already: {error}");
    }
}

/// Why metrics cannot be collected.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// There are no buckets.
    #[error("the histogram buckets are wrong: {0}")]
    Buckets(#[from] metrics_exporter_prometheus::BuildError),
    /// This was called twice.
    #[error("metrics are collected elsewhere already")]
    Installed,
}

/// Begins to collect metrics, once per process. `buckets` are the upper bounds of all histograms, in seconds.
pub fn collect_metrics(buckets: &[f64]) -> Result<PrometheusHandle, MetricsError> {
    let recorder = PrometheusBuilder::new().set_buckets(buckets)?.build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|_| MetricsError::Installed)?;
    Ok(handle)
}

/// Waits for SIGTERM or SIGINT and tells which it was. If signals cannot be listened for, waits for ever: the process
/// is then ended by the signal itself.
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
