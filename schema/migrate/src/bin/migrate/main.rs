//! `migrate`: migrates the databases to the newest schema, takes migrations back, or prints the version they are at.

mod args;
mod print;

use std::io::IsTerminal;
use std::process::ExitCode;

use args::{Cli, Command};
use clap::Parser;
use migrate::{Change, MigrateError, Options};
use tokio::signal::unix::{SignalKind, signal};

/// Migrating failed; the message says why.
const EXIT_FAILED: u8 = 1;
/// The arguments are wrong, or a setting or a confirmation is missing. Nothing was changed.
const EXIT_USAGE: u8 = 2;
/// Added to the number of the signal that ended the process, as shells do.
const EXIT_SIGNALLED: u8 = 128;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let ended = tokio::select! {
        ended = run(cli) => ended,
        // The first process of a container ignores signals that it has no handler for, so this one needs a handler.
        // Stopping at any point is safe: it is the same as being killed, and the next run goes on.
        number = stop_signal() => return ExitCode::from(EXIT_SIGNALLED + number),
    };
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("migrate: {error}");
            ExitCode::from(if matches!(error, MigrateError::Missing { .. }) { EXIT_USAGE } else { EXIT_FAILED })
        }
    }
}

async fn run(cli: Cli) -> Result<u8, MigrateError> {
    match cli.command {
        Command::Up(up) => {
            let (target, stores, options) =
                (up.place.target(), up.place.stores(), with_progress(up.options(), cli.verbose));
            if up.dry_run {
                print::previews(&migrate::preview(target, &stores, Change::Up, &options).await?);
            } else {
                print::outcomes(&migrate::up(target, &stores, &options).await?);
            }
        }
        Command::Down(down) => {
            let (target, stores, count) = (down.place.target(), down.place.stores(), down.count());
            let options = with_progress(down.options(), cli.verbose);
            if down.dry_run || !down.yes {
                let previews = migrate::preview(target, &stores, Change::Down(count), &options).await?;
                if down.dry_run {
                    print::previews(&previews);
                } else if print::asks_to_confirm_down(&previews) {
                    return Ok(EXIT_USAGE);
                }
            } else {
                print::outcomes(&migrate::down(target, &stores, count, &options).await?);
            }
        }
        Command::Version(place) => print::versions(&migrate::version(place.target(), &place.stores()).await?),
        Command::Force(force) => {
            let (store, stores, version) = (force.store(), force.stores(), force.version);
            let changes = migrate::preview_force(store, &stores, version).await?;
            if !changes.is_empty() && !force.i_verified {
                print::asks_to_confirm_force(store, version, &changes);
                return Ok(EXIT_USAGE);
            }
            let changes = migrate::force(store, &stores, version, &with_progress(force.options(), cli.verbose)).await?;
            print::forced(store, version, &changes);
        }
        Command::Create(create) => {
            for path in migrate::create(&create.dir, create.store(), &create.name)? {
                println!("{}", path.display());
            }
        }
    }
    Ok(0)
}

/// An operator at a terminal sees what runs; a log gets only the result.
fn with_progress(options: Options, verbose: bool) -> Options {
    if verbose || std::io::stderr().is_terminal() {
        return Options { progress: |line| eprintln!("{line}"), ..options };
    }
    options
}

/// Waits for SIGTERM or SIGINT and returns its number.
async fn stop_signal() -> u8 {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => 15,
        _ = interrupt.recv() => 2,
    }
}
