//! Runs the genuine ClickHouse HTTP interface as a local process, out of `libchdb.so`.
//!
//! The library is ClickHouse as a shared object. Its C function `chdb_query_cmdline(argc, argv)` is `clickhouse-local`:
//! we give it a script which starts the HTTP and TCP listeners and then reads standard input to its end. Standard input
//! is a pipe that only this process can close, and closing it is how the server is asked to stop: running queries
//! finish and the tables are shut down properly.

mod chdb;
mod stop;

use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::Parser;

/// Serve ClickHouse on 127.0.0.1 until SIGTERM or SIGINT.
///
/// Example: clickhouse-local-server --lib libchdb.so --data ./data --config config.xml --http-port 8123 --tcp-port 9000
#[derive(Parser)]
struct Args {
    /// The shared library from the npm package @chdb/lib-linux-*-gnu.
    #[arg(long)]
    lib: PathBuf,
    /// The data directory; created when absent.
    #[arg(long)]
    data: PathBuf,
    /// The server's configuration (XML).
    #[arg(long)]
    config: PathBuf,
    /// The port of the HTTP interface.
    #[arg(long)]
    http_port: u16,
    /// The port of the native TCP interface.
    #[arg(long)]
    tcp_port: u16,
}

/// Start the listeners, then wait for the end of standard input.
const SCRIPT: &str = "SYSTEM START LISTEN HTTP; SYSTEM START LISTEN TCP; \
                      SELECT count() FROM file('/dev/stdin', 'LineAsString', 'l String')";

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    stop::close_stdin_on_signal()?;
    let library = chdb::Library::open(&args.lib)?;
    library.run(&command_line(&args)?).context("clickhouse stopped with an error")?;
    // The library answers some failures with a message on standard error and an empty result.
    ensure!(stop::was_requested(), "clickhouse ended without being asked to; see its messages above");
    Ok(())
}

fn command_line(args: &Args) -> anyhow::Result<Vec<String>> {
    let data = args.data.to_str().context("--data is not UTF-8")?;
    let config = args.config.to_str().context("--config is not UTF-8")?;
    Ok(vec![
        "clickhouse".into(),
        format!("--path={data}"),
        format!("--config-file={config}"),
        format!("--http_port={}", args.http_port),
        format!("--tcp_port={}", args.tcp_port),
        "--listen_host=127.0.0.1".into(),
        // The library has no asynchronous inserts and would ignore the setting without a word.
        "--async_insert=0".into(),
        // Warnings and errors go to standard error; without this there would be no log at all.
        "--logger.console=1".into(),
        "--log-level=warning".into(),
        format!("--query={SCRIPT}"),
    ])
}
