//! `just instructions`: how many instructions each step of the hot path executes per span, and how many it did before.
//!
//! Time depends on the machine and on what else it does. The number of instructions hardly does, so that a change of a
//! few per cent is seen; `docs/testing/instructions.md` says what it does not see.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

use std::env;
use std::process::ExitCode;

use anyhow::ensure;
use clap::Parser;

use baseline::Counts;
use steps::{Bench, Step};

mod baseline;
mod bodies;
mod count;
mod steps;

/// That of the services, since it is part of the cost.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How far a count may be from the baseline.
const TOLERANCE_PERCENT: u64 = 3;
/// The profile in the workspace's Cargo.toml, and with that the name of the directory that the program is in.
const PROFILE: &str = "counted";

/// Counts the instructions per span of each step of the hot path, under valgrind, and compares them with the baseline.
#[derive(Parser)]
#[command(after_help = "Example: cargo run --profile counted -p instructions -- --check")]
struct Options {
    /// Exit with 1 if a count is more than 3 % above or below the baseline.
    #[arg(long, conflicts_with_all = ["save", "run"])]
    check: bool,
    /// Write the counts down as the new baseline, tests/instructions/baseline.txt.
    #[arg(long, conflicts_with_all = ["run", "steps"])]
    save: bool,
    /// Only these steps; without any, all.
    #[arg(value_name = "STEP", value_parser = step, conflicts_with = "run")]
    steps: Vec<Step>,
    /// Count nothing, but do this step, for a profiler to look at.
    #[arg(long, value_name = "STEP", value_parser = step)]
    run: Option<Step>,
    /// How often `--run` does its step with all spans.
    #[arg(long, requires = "run", default_value_t = 10)]
    rounds: u64,
}

fn step(name: &str) -> Result<Step, String> {
    let names = || Step::ALL.map(Step::name).join(", ");
    Step::named(name).ok_or_else(|| format!("the steps are {}", names()))
}

fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse();
    if let Some(step) = options.run {
        let mut bench = Bench::new()?;
        (0..options.rounds).try_for_each(|_| bench.run(step))?;
        return Ok(ExitCode::SUCCESS);
    }
    let program = env::current_exe()?;
    let is_counted = program.parent().is_some_and(|directory| directory.ends_with(PROFILE));
    ensure!(is_counted, "counts of another profile mean nothing: cargo run --profile {PROFILE} -p instructions");
    if env::consts::ARCH != baseline::ARCHITECTURE {
        println!(
            "the baseline is of {}, and this is {}: nothing is counted",
            baseline::ARCHITECTURE,
            env::consts::ARCH
        );
        return Ok(ExitCode::SUCCESS);
    }
    let steps = if options.steps.is_empty() { Step::ALL.to_vec() } else { options.steps };
    // What cannot be read is replaced.
    let before = if options.save { baseline::read().unwrap_or_default() } else { baseline::read()? };
    let counts = count::count(&steps)?;
    let changed = table(&before, &counts);
    if options.save {
        baseline::write(&counts, &count::tools()?)?;
    } else if options.check && count::tools()? != baseline::tools()? {
        println!("\nnot compared: the baseline was made with {}, and this is {}", baseline::tools()?, count::tools()?);
    } else if options.check && !changed.is_empty() {
        eprintln!("\n{}", advice(&changed));
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the counts, and returns the steps whose count is too far from the baseline or not in it.
fn table(before: &Counts, counts: &Counts) -> Vec<&'static str> {
    println!("{:<18} {:>10} {:>10} {:>7}", "instructions/span", "baseline", "now", "ratio");
    let mut changed = Vec::new();
    for (step, now) in counts {
        let name = step.name();
        let Some((_, baseline)) = before.iter().find(|(known, _)| known == step) else {
            println!("{name:<18} {:>10} {now:>10} {:>7}", "-", "new");
            changed.push(name);
            continue;
        };
        let ratio = *now as f64 / *baseline as f64;
        let is_close = now.abs_diff(*baseline) * 100 <= TOLERANCE_PERCENT * baseline;
        let mark = if is_close { "" } else { "  <-" };
        println!("{name:<18} {baseline:>10} {now:>10} {ratio:>7.3}{mark}");
        if !is_close {
            changed.push(name);
        }
    }
    changed
}

fn advice(changed: &[&str]) -> String {
    let changed = changed.join(", ");
    format!(
        "More than 3 % from the baseline: {changed}.\n\
         Above: find out what costs more (docs/testing/instructions.md says how) and take it back, or accept it.\n\
         To accept it, and when it is below: `just instructions --save`, commit the baseline with your change, and say\n\
         in the commit's message why."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_too_far_above_or_below_or_unknown_is_named() {
        let before = vec![(Step::Walk, 1_000), (Step::Seal, 1_000), (Step::Merge, 1_000), (Step::Decode, 1_000)];
        let now =
            vec![(Step::Walk, 1_031), (Step::Seal, 969), (Step::Merge, 1_030), (Step::Decode, 970), (Step::Shard, 1)];
        assert_eq!(table(&before, &now), ["walk", "seal", "shard"]);
        assert!(advice(&["walk"]).contains("walk"));
    }

    #[test]
    fn every_step_can_be_done() {
        Bench::new().unwrap();
    }

    #[test]
    fn a_step_is_found_by_its_name() {
        assert_eq!(step("seal").unwrap(), Step::Seal);
        assert!(step("sael").unwrap_err().contains("seal, content-id"));
    }
}
