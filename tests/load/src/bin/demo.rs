//! `cargo demo`: the whole system on this machine, real traces through it, and what arrived.

use std::process::ExitCode;

use clap::Parser;
use load::demo;
use stack::{Layout, UpOptions};

/// Starts everything on this machine, sends traces through it, shows what arrived, and cleans up.
#[derive(Parser)]
#[command(
    name = "cargo demo",
    bin_name = "cargo demo",
    after_help = "Examples:\n  cargo demo          look, then everything is gone again\n  cargo demo --keep   leave it running, to try things; end it with: cargo stack down"
)]
struct Options {
    /// Leave everything running, until `cargo stack down`.
    #[arg(long)]
    keep: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> anyhow::Result<()> {
    let layout = Layout::of_checkout();
    let ran_before = layout.state_file().exists();
    let shown = async {
        let endpoints = stack::up(&layout, &UpOptions::default()).await?;
        let report = demo::send_and_look(&endpoints).await?;
        let keep = options.keep || ran_before;
        println!("{report}\n{}", demo::what_next(&layout, &endpoints, keep));
        anyhow::Ok(())
    }
    .await;
    if ran_before {
        eprintln!("demo: this stack was running before, so it goes on; end it with: cargo stack down");
    } else if !options.keep {
        stack::down(&layout, false).await?;
        eprintln!("demo: everything was stopped and removed");
    }
    shown
}
