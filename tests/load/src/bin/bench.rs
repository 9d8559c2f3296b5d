//! `just bench`: what a span costs, how long it takes, and what stays on disk; see [`load::bench`].

use std::process::ExitCode;

use clap::Parser;
use load::bench::{self, Options};

#[tokio::main]
async fn main() -> ExitCode {
    match bench::run(&Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
