//! `just faults`: every fault under load, on real processes and servers, and a table of what came of it.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use faults::run::{Outcome, run, summary};
use faults::scenarios::{SCENARIOS, Scenario};
use faults::scene::Size;
use faults::servers::Servers;

/// Break things under load and compare what was promised with what is stored. Exits non-zero on any loss or duplicate.
#[derive(Parser)]
#[command(
    name = "just faults",
    bin_name = "just faults",
    after_help = "Examples:\n  just faults\n  just faults --list\n  just faults killed-before-insert poison\n  just faults --full"
)]
struct Options {
    /// Scenarios by name, such as killed-before-insert; all of them if none is named.
    names: Vec<String>,
    /// Longer pauses and outages, and more restarts: about half an hour.
    #[arg(long)]
    full: bool,
    /// Name the scenarios and what each does.
    #[arg(long)]
    list: bool,
    /// Break nothing: measure how soon single requests can be queried.
    #[arg(long)]
    latency: bool,
    /// The seed of the load's random numbers; with --times, each further time has the next one.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many times to run each scenario.
    #[arg(long, default_value_t = 1)]
    times: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    match all(&options).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("faults: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn all(options: &Options) -> anyhow::Result<bool> {
    if options.list {
        for scenario in SCENARIOS {
            println!("{:<28} {}", scenario.name, scenario.about);
        }
        return Ok(true);
    }
    let chosen = chosen(&options.names)?;
    let servers = Servers::up().await?;
    if options.latency {
        let measured = faults::latency::measure(&servers).await;
        servers.down().await?;
        println!("{}", measured?);
        return Ok(true);
    }
    let mut outcomes = Vec::new();
    let done = tokio::select! {
        () = run_all(options, &chosen, &servers, &mut outcomes) => true,
        _ = tokio::signal::ctrl_c() => false,
    };
    servers.down().await?;
    println!("\n{}", summary(&outcomes));
    Ok(done && outcomes.iter().all(|(_, outcome)| outcome.as_ref().is_ok_and(Outcome::holds)))
}

fn chosen(names: &[String]) -> anyhow::Result<Vec<&'static Scenario>> {
    if names.is_empty() {
        return Ok(SCENARIOS.iter().collect());
    }
    let find = |name: &String| {
        let found = SCENARIOS.iter().find(|scenario| scenario.name == name);
        found.with_context(|| format!("there is no scenario {name}; see: just faults --list"))
    };
    names.iter().map(find).collect()
}

async fn run_all(
    options: &Options,
    chosen: &[&'static Scenario],
    servers: &Servers,
    outcomes: &mut Vec<(&'static str, anyhow::Result<Outcome>)>,
) {
    let size = if options.full { Size::Full } else { Size::Usual };
    for time in 0..options.times {
        for scenario in chosen {
            println!("--- {}: {}", scenario.name, scenario.about);
            // A scenario that failed may have left a server dead.
            let outcome = match servers.mend().await {
                Ok(()) => run(scenario, Some(servers), size, options.seed + time).await,
                Err(error) => Err(error),
            };
            let outcome = [(scenario.name, outcome)];
            println!("{}", summary(&outcome));
            outcomes.extend(outcome);
        }
    }
}
