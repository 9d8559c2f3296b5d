//! Processes: started apart from the caller, found again by later commands, stopped with a deadline.

use std::ffi::OsString;
use std::fs;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::{Name, StackError, wait};

/// A killed process is gone within this time, or the kernel has a problem that we cannot solve.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// A process, told apart from a later one that got the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// The number of the process, which a later one can get again.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    started: u64,
}

impl ProcessId {
    /// The process that has this number now; none if it has ended, reaped or not.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the program's name in parentheses, and the name may hold spaces and parentheses.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let (state, threads, started) = (*fields.first()?, *fields.get(17)?, fields.get(19)?.parse().ok()?);
        // The first thread is a zombie as soon as it has ended itself, while others still hold the sockets open.
        let ended = matches!(state, "Z" | "X") && matches!(threads, "0" | "1");
        (!ended).then_some(Self { pid, started })
    }

    /// Whether it still runs.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends a signal; false if the process has ended.
    pub fn signal(self, signal: Signal) -> Result<bool, StackError> {
        let fail = |e: rustix::io::Errno| StackError::Setting(format!("cannot signal process {}: {e}", self.pid));
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return Ok(false) };
        // The descriptor pins the process, so that it cannot be replaced between the check and the signal.
        let pinned = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pinned) => pinned,
            Err(rustix::io::Errno::SRCH) => return Ok(false),
            Err(e) => return Err(fail(e)),
        };
        if !self.is_alive() {
            return Ok(false);
        }
        match pidfd_send_signal(&pinned, signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(e) => Err(fail(e)),
        }
    }

    /// Waits until it has ended; false if it still runs after the limit.
    pub async fn ended(self, limit: Duration) -> bool {
        wait::until(limit, async || (!self.is_alive()).then_some(())).await.is_some()
    }

    /// Asks it to stop, and kills it if it has not done so within the limit.
    pub async fn stop(self, graceful: Signal, limit: Duration) -> Result<(), StackError> {
        if self.signal(graceful)? && !self.ended(limit).await {
            self.kill().await?;
        }
        Ok(())
    }

    /// Kills it and waits until it is gone.
    pub async fn kill(self) -> Result<(), StackError> {
        if self.signal(Signal::KILL)? && !self.ended(KILL_LIMIT).await {
            return Err(StackError::Timeout { what: format!("killing process {}", self.pid), limit: KILL_LIMIT });
        }
        Ok(())
    }

    /// Whether its program was replaced on disk since it started, as `cargo build` does.
    pub fn is_outdated(self) -> bool {
        fs::read_link(format!("/proc/{}/exe", self.pid)).is_ok_and(|exe| exe.to_string_lossy().ends_with(" (deleted)"))
    }
}

/// A signal by its name, with or without SIG.
pub fn signal_named(name: &str) -> Result<Signal, StackError> {
    let upper = name.to_ascii_uppercase();
    Ok(match upper.strip_prefix("SIG").unwrap_or(&upper) {
        "KILL" => Signal::KILL,
        "TERM" => Signal::TERM,
        "INT" => Signal::INT,
        "HUP" => Signal::HUP,
        "QUIT" => Signal::QUIT,
        "STOP" => Signal::STOP,
        "CONT" => Signal::CONT,
        "USR1" => Signal::USR1,
        "USR2" => Signal::USR2,
        _ => {
            return Err(StackError::Setting(format!(
                "unknown signal {name}; known are KILL, TERM, INT, HUP, QUIT, STOP, CONT, USR1, USR2"
            )));
        }
    })
}

/// The processes of a program that work in a directory: what an interrupted run left behind, known to no state file.
pub(crate) fn working_in(dir: &Path, name: Name) -> Vec<ProcessId> {
    let (Ok(dir), Ok(entries)) = (fs::canonicalize(dir), fs::read_dir("/proc")) else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            let link = |what: &str| fs::read_link(format!("/proc/{pid}/{what}")).unwrap_or_default();
            name.is_program(&link("exe")) && link("cwd") == dir
        })
        .filter_map(ProcessId::of)
        .collect()
}

/// The user a process runs as.
#[derive(Clone, Copy, Debug)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl User {
    /// A user of this machine, by name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let users = fs::read_to_string("/etc/passwd").ok()?;
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some(Self { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
    }
}

/// A process to be started.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    /// Added to the caller's environment, of which everything named `TRACEBILITY_*` is withheld: those variables say
    /// how to reach a stack, and a service would take them for its settings.
    pub(crate) env: Vec<(String, String)>,
    withhold_ours: bool,
    pub(crate) cwd: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) user: Option<User>,
    /// The signal the kernel sends when the caller's process ends, however it ends; none to outlive it.
    pub(crate) on_parent_death: Option<&'static str>,
}

impl Launch {
    pub(crate) fn new(program: impl Into<PathBuf>, cwd: &Path, log: &Path) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            withhold_ours: true,
            cwd: cwd.to_owned(),
            log: log.to_owned(),
            user: None,
            on_parent_death: None,
        }
    }

    pub(crate) fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Hands on all of the caller's environment, `TRACEBILITY_*` included.
    pub(crate) fn keep_env(mut self) -> Self {
        self.withhold_ours = false;
        self
    }

    /// Starts it in a session of its own, so that neither Ctrl-C nor a closed terminal reaches it, with nothing of ours
    /// open but its log.
    pub(crate) fn spawn(self) -> Result<ProcessId, StackError> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&self.log)
            .map_err(StackError::file("open log", &self.log))?;
        let stderr = log.try_clone().map_err(StackError::file("open log", &self.log))?;
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(log).stderr(stderr);
        let shown = self.program.display().to_string();
        let (sender, receiver) = mpsc::channel();
        // The thread lives as long as the process: it reaps it, and the kernel's parent-death signal, which is about
        // the parent's *thread*, then means the end of this whole process.
        let reaper = move || match command.spawn() {
            Ok(mut child) => {
                // Its log is open in it.
                drop(command);
                let id = ProcessId::of(child.id());
                // Fails only if the caller is gone, which is not this thread's concern.
                _ = sender.send(Ok(id));
                _ = child.wait();
            }
            Err(e) => _ = sender.send(Err(e)),
        };
        let fail = |source| StackError::Run { command: shown.clone(), source };
        std::thread::Builder::new().name("child".into()).spawn(reaper).map_err(fail)?;
        match receiver.recv() {
            Ok(Ok(Some(id))) => Ok(id),
            Ok(Err(e)) => Err(fail(e)),
            Ok(Ok(None)) | Err(_) => Err(fail(std::io::Error::other("it ended at once"))),
        }
    }

    fn command(&self) -> Command {
        // util-linux does in two words what would otherwise need unsafe code between fork and exec. Both programs
        // replace themselves by their argument, so the process id is the server's.
        let mut command = Command::new("setsid");
        if let Some(signal) = self.on_parent_death {
            command.args(["setpriv", "--pdeathsig", signal]);
        }
        command.arg(&self.program).args(&self.args).current_dir(&self.cwd);
        for (name, _) in std::env::vars_os() {
            if self.withhold_ours && name.to_string_lossy().starts_with("TRACEBILITY_") {
                command.env_remove(name);
            }
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(user) = self.user {
            command.uid(user.uid).gid(user.gid);
        }
        command
    }
}
