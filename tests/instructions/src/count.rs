//! Counting: this program runs itself under valgrind.

use std::env;
use std::process::Command;
use std::thread;

use anyhow::{Context, anyhow, ensure};

use crate::baseline::Counts;
use crate::steps::{SPANS, Step};

/// How often a step is done in the run that counts it.
const ROUNDS: u64 = 10;
/// Keeps the C library from copying with `rep movsb`, which is one instruction to a processor and one for each byte to
/// valgrind, and from choosing other functions on a processor without AVX2.
const C_LIBRARY: (&str, &str) = ("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-ERMS,-AVX2");
/// Keeps the allocator from giving memory back, which it does by the clock.
const ALLOCATOR: (&str, &str) = ("MIMALLOC_PURGE_DELAY", "-1");

/// Instructions per span of each of these steps. Every run prepares the same, so what a run without any round executes
/// is taken off the others.
pub(crate) fn count(steps: &[Step]) -> anyhow::Result<Counts> {
    let first = *steps.first().context("there is no step to count")?;
    let mut runs = vec![(first, 0)];
    runs.extend(steps.iter().map(|step| (*step, ROUNDS)));
    let at_once = thread::available_parallelism()?.get();
    let mut executed = Vec::new();
    for some in runs.chunks(at_once) {
        thread::scope(|scope| {
            let running: Vec<_> = some.iter().map(|(step, rounds)| scope.spawn(|| execute(*step, *rounds))).collect();
            for run in running {
                executed.push(run.join().map_err(|_| anyhow!("a thread that waits for valgrind panicked"))??);
            }
            anyhow::Ok(())
        })?;
    }
    let (preparation, executed) = executed.split_first().context("nothing was executed")?;
    let spans = ROUNDS * SPANS as u64;
    let per_span = |executed: &u64| executed.saturating_sub(*preparation).div_ceil(spans);
    Ok(steps.iter().copied().zip(executed.iter().map(per_span)).collect())
}

/// The instructions of one run of this program, from the start of the process to its end.
fn execute(step: Step, rounds: u64) -> anyhow::Result<u64> {
    let mut valgrind = Command::new("valgrind");
    // Cachegrind without its caches: the fastest of valgrind's tools that counts.
    valgrind.args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]);
    valgrind.arg(env::current_exe()?).args(["--run", step.name(), "--rounds", &rounds.to_string()]);
    valgrind.envs([C_LIBRARY, ALLOCATOR]);
    let output = valgrind.output().context("valgrind does not start; apt-get install valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "step {} under valgrind: {}\n{said}", step.name(), output.status);
    refs(&said).with_context(|| format!("valgrind gave no count:\n{said}"))
}

/// The number in cachegrind's line `==1== I   refs:      1,240,970,629`.
fn refs(said: &str) -> Option<u64> {
    let (_, count) = said.lines().find(|line| line.contains(" I ") && line.contains("refs:"))?.split_once("refs:")?;
    count.trim().replace(',', "").parse().ok()
}

/// The versions of the tools that decide what is counted: valgrind and the C library.
pub(crate) fn tools() -> anyhow::Result<String> {
    let first_line = |program: &str| {
        let output = Command::new(program).arg("--version").output();
        let output = output.with_context(|| format!("{program} does not start; apt-get install valgrind libc-bin"))?;
        anyhow::Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().trim().to_owned())
    };
    // `ldd (Debian GLIBC 2.36-9+deb12u14) 2.36`
    let libc = first_line("ldd")?;
    Ok(format!("{}, glibc {}", first_line("valgrind")?, libc.rsplit(' ').next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_found_in_what_old_and_new_valgrinds_say() {
        assert_eq!(refs("==1== \n==1== I   refs:      1,240,970,629\n"), Some(1_240_970_629));
        assert_eq!(refs("==1== \n==1== I refs:        29\n"), Some(29));
        assert_eq!(refs("--1-- warning: L3 cache found\n"), None);
    }
}
