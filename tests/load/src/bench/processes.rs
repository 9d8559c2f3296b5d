//! CPU and memory of processes, from `/proc`.
//!
//! A process is accounted with its descendants, because Postgres is one process per connection. CPU time has the
//! resolution of the kernel's clock tick, which is 10 ms nearly everywhere: divided by the spans of a round, that is
//! the error of a figure.

use std::collections::BTreeMap;
use std::fs;

use anyhow::Context;

/// What the load generator is called among the processes.
pub(super) const GENERATOR: &str = "load generator";

/// Seconds of CPU time since a process began.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Cpu {
    /// In its own code, seconds.
    pub(super) user: f64,
    /// In the kernel, seconds.
    pub(super) system: f64,
}

impl Cpu {
    /// What was spent after an earlier reading.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self { user: self.user - earlier.user, system: self.system - earlier.system }
    }

    /// User and system time, seconds.
    pub(super) fn total(self) -> f64 {
        self.user + self.system
    }
}

/// Memory of a process, in KiB. Pages that several processes share are counted in each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    /// What is resident now.
    pub(super) resident: u64,
    /// The most that was resident since [`Processes::forget_peaks`], or since it began where the kernel forbids that.
    pub(super) peak: u64,
}

/// The processes that are accounted, by name.
#[derive(Clone, Debug, Default)]
pub(super) struct Processes(pub(super) Vec<(String, u32)>);

impl Processes {
    /// The CPU time of each so far.
    pub(super) fn cpu(&self) -> anyhow::Result<BTreeMap<String, Cpu>> {
        let (all, tick) = (stats()?, seconds_per_tick());
        let of = |(name, pid): &(String, u32)| {
            let mut sum = Cpu::default();
            for pid in tree(&all, *pid) {
                let stat = all.get(&pid).with_context(|| format!("{name} (process {pid}) does not run any more"))?;
                sum.user += stat.user_ticks as f64 * tick;
                sum.system += stat.system_ticks as f64 * tick;
            }
            anyhow::Ok((name.clone(), sum))
        };
        self.0.iter().map(of).collect()
    }

    /// The memory of each now.
    pub(super) fn memory(&self) -> anyhow::Result<BTreeMap<String, Memory>> {
        let all = stats()?;
        let of = |(name, pid): &(String, u32)| {
            let mut sum = Memory::default();
            for pid in tree(&all, *pid) {
                // A child may have ended since.
                let memory = fs::read_to_string(format!("/proc/{pid}/status")).map(|text| memory(&text));
                let memory = memory.unwrap_or_default();
                sum.resident += memory.resident;
                sum.peak += memory.peak;
            }
            (name.clone(), sum)
        };
        Ok(self.0.iter().map(of).collect())
    }

    /// Begins to look for the largest memory anew, where the kernel allows it.
    pub(super) fn forget_peaks(&self) -> anyhow::Result<()> {
        const PEAK: &str = "5";
        let all = stats()?;
        for (_, pid) in &self.0 {
            for pid in tree(&all, *pid) {
                _ = fs::write(format!("/proc/{pid}/clear_refs"), PEAK);
            }
        }
        Ok(())
    }
}

/// The CPU time of this process so far.
pub(super) fn own_cpu() -> anyhow::Result<Cpu> {
    let text = fs::read_to_string("/proc/self/stat").context("reading /proc/self/stat")?;
    let stat = parse(&text).context("/proc/self/stat is not as proc(5) says")?;
    let tick = seconds_per_tick();
    Ok(Cpu { user: stat.user_ticks as f64 * tick, system: stat.system_ticks as f64 * tick })
}

/// The resolution of CPU times, in seconds.
pub(super) fn seconds_per_tick() -> f64 {
    1.0 / rustix::param::clock_ticks_per_second() as f64
}

/// The part of `/proc/PID/stat` that is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    /// Of the process and of the children that it has waited for, in ticks.
    user_ticks: u64,
    system_ticks: u64,
}

/// proc(5): after the command in parentheses, the state is field 3, the parent field 4; utime, stime, cutime and cstime
/// are fields 14 to 17.
fn parse(stat: &str) -> Option<Stat> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Stat {
        parent: u32::try_from(number(4)?).ok()?,
        user_ticks: number(14)? + number(16)?,
        system_ticks: number(15)? + number(17)?,
    })
}

/// Every process of this machine.
fn stats() -> anyhow::Result<BTreeMap<u32, Stat>> {
    let entries = fs::read_dir("/proc").context("reading /proc; the bench runs on Linux only")?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    // A process may have ended since.
    let read = |pid: u32| Some((pid, parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?));
    Ok(pids.filter_map(read).collect())
}

/// A process and its descendants.
fn tree(all: &BTreeMap<u32, Stat>, root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        found.extend(all.iter().filter(|(_, stat)| stat.parent == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    found
}

fn memory(status: &str) -> Memory {
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default()
    };
    Memory { resident: kib("VmRSS:"), peak: kib("VmHWM:") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_stat_are_found_after_a_command_with_spaces_and_parentheses() {
        let stat = "7 (a b) c) S 3 7 7 0 -1 4194560 1 2 3 4 100 50 20 10 20 0 1 0 99 1 1";
        assert_eq!(parse(stat), Some(Stat { parent: 3, user_ticks: 120, system_ticks: 60 }));
        assert_eq!(parse("7 (cut) S 3"), None);
    }

    #[test]
    fn a_process_is_counted_with_its_descendants_only() {
        let stat = |parent| Stat { parent, user_ticks: 0, system_ticks: 0 };
        let all = BTreeMap::from([(1, stat(0)), (2, stat(1)), (3, stat(2)), (4, stat(1)), (5, stat(3))]);
        assert_eq!(tree(&all, 2), [2, 3, 5]);
    }

    #[test]
    fn memory_is_read_in_kib() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(memory(status), Memory { resident: 1_024, peak: 2_048 });
    }

    #[test]
    fn this_process_can_be_read() {
        let processes = Processes(vec![("self".to_owned(), std::process::id())]);
        assert!(processes.cpu().unwrap()["self"].total() >= 0.0);
        assert!(processes.memory().unwrap()["self"].resident > 0);
    }
}
