//! The checked-in counts: a step and its instructions per span on each line, in the order of the steps.

use std::fmt::Write;
use std::fs;

use anyhow::{Context, bail};

use crate::steps::Step;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/baseline.txt");
const TOOLS: &str = "# Tools: ";
/// The only kind of processor that the checked-in counts are of.
pub(crate) const ARCHITECTURE: &str = "x86_64";

/// Instructions per span of some steps.
pub(crate) type Counts = Vec<(Step, u64)>;

/// Reads the file. A step that it does not have is new.
pub(crate) fn read() -> anyhow::Result<Counts> {
    parse(&fs::read_to_string(PATH).context(PATH)?).context(PATH)
}

/// The tools that the file's counts were made with, as [`crate::count::tools`] names them.
pub(crate) fn tools() -> anyhow::Result<String> {
    let text = fs::read_to_string(PATH).context(PATH)?;
    let tools = text.lines().find_map(|line| line.strip_prefix(TOOLS));
    Ok(tools.context("tests/instructions/baseline.txt does not say by which tools; --save it")?.to_owned())
}

/// Replaces the file.
pub(crate) fn write(counts: &[(Step, u64)], tools: &str) -> anyhow::Result<()> {
    fs::write(PATH, format(counts, tools)).context(PATH)?;
    println!("\nwritten to {PATH}");
    Ok(())
}

fn format(counts: &[(Step, u64)], tools: &str) -> String {
    let mut text =
        format!("# Instructions per span on {ARCHITECTURE}, by `just instructions --save`.\n{TOOLS}{tools}\n");
    for (step, count) in counts {
        _ = writeln!(text, "{} {count}", step.name());
    }
    text
}

fn parse(text: &str) -> anyhow::Result<Counts> {
    let mut counts = Counts::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, count) = line.split_once(' ').with_context(|| format!("not a step and a number: {line}"))?;
        let Some(step) = Step::named(name) else { bail!("there is no step {name} any more; --save leaves it out") };
        counts.push((step, count.parse().with_context(|| format!("not a number: {line}"))?));
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let counts: Counts = Step::ALL.into_iter().zip(1..).collect();
        assert_eq!(parse(&format(&counts, "t")).unwrap(), counts);
        assert!(parse("gone 1\n").unwrap_err().to_string().contains("no step gone"));
        assert!(parse("walk\n").is_err() && parse("walk much\n").is_err());
    }

    #[test]
    fn every_step_has_a_baseline() {
        let steps: Vec<_> = read().unwrap().into_iter().map(|(step, _)| step).collect();
        assert_eq!(steps, Step::ALL);
    }
}
