//! What all services have in common: reading settings, logging, metrics, and waiting for the signal to stop.
//!
//! | module | one idea |
//! | --- | --- |
//! | [`settings`] | how a program reads its `TRACEBILITY_*` settings |
//! | [`mode`] | for customers, or self-hosted |
//! | [`http_path`] | one form for all spellings of a path |
//! | [`turn`] | jobs that one process of the fleet runs at a time |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod http_path;
pub mod mode;
pub mod settings;
pub mod turn;

use std::fmt;
use std::process::ExitCode;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::settings::{Errors, LOG, Program, Start, Values};

/// The whole `main` of a service: reads its arguments and settings, starts logging, and runs until `serve` returns. The
/// program's table must contain [`LOG`].
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
    log_to_stderr(log);
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Logs what `filter` accepts: as text on a terminal, otherwise as JSON lines.
fn log_to_stderr(filter: Targets) {
    use std::io::IsTerminal;
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let layer = if std::io::stderr().is_terminal() {
        layer.with_filter(filter).boxed()
    } else {
        layer.json().flatten_event(true).with_filter(filter).boxed()
    };
    let installed = tracing_subscriber::registry().with(layer).try_init();
    if let Err(error) = installed {
        eprintln!("logging was set up already: {error}");
    }
}

/// Why metrics cannot be collected.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// `buckets` is empty, and a histogram needs at least one bound.
    #[error("the histogram buckets are wrong: {0}")]
    Buckets(#[from] metrics_exporter_prometheus::BuildError),
    /// Metrics are collected already: this was called twice.
    #[error("metrics are collected elsewhere already")]
    Installed,
}

/// Starts to collect metrics, once per process. `buckets` are the upper bounds of all histograms, in seconds.
pub fn collect_metrics(buckets: &[f64]) -> Result<PrometheusHandle, MetricsError> {
    let recorder = PrometheusBuilder::new().set_buckets(buckets)?.build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|_| MetricsError::Installed)?;
    Ok(handle)
}

/// Waits for SIGTERM or SIGINT and returns its name. If the process cannot listen for signals, waits forever: the
/// signal itself then ends the process.
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
