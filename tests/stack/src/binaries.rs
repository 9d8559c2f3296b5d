//! Our own executables: where cargo puts them, and building them.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs};

use tokio::process::Command;

use crate::given::Source;
use crate::{StackError, command, layout};

/// A first build compiles every dependency.
const BUILD_LIMIT: Duration = Duration::from_secs(3600);

/// The packages whose programs a stack runs, or a test of one. Building the whole workspace would take the fault suite,
/// the fuzzers and the benches along.
const PROGRAMS: [&str; 6] = ["ingest-api", "ingest-worker", "migrate", "tracectl", "stack", "clickhouse-launcher"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Build {
    /// Every program of [`PROGRAMS`].
    All,
    /// What starting the three servers needs.
    ServersOnly,
}

/// Whether to show cargo's progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Show {
    Progress,
    FailureOnly,
}

/// Builds with the profile and into the directory of the running executable, so that what is found there is never old.
pub(crate) async fn build(what: Build, show: Show) -> Result<(), StackError> {
    let place = Place::of_current_exe();
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.arg("build").current_dir(layout::workspace());
    match what {
        Build::All => {
            PROGRAMS.iter().for_each(|package| _ = cargo.args(["--package", package]));
            cargo.arg("--bins")
        }
        Build::ServersOnly => cargo.args(["--package", "stack", "--package", "clickhouse-launcher", "--bins"]),
    };
    if Source::from_env()? == Source::Containers {
        cargo.args(["--features", "stack/containers"]);
    }
    if place.profile != "debug" {
        cargo.args(["--profile", &place.profile]);
    }
    cargo.arg("--target-dir").arg(&place.target);
    // Of the package that runs now; cargo and build scripts would take them as theirs.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        {
            cargo.env_remove(&*name);
        }
    }
    match show {
        Show::Progress => command::watched(&mut cargo, BUILD_LIMIT).await,
        Show::FailureOnly => command::output(cargo.arg("--quiet"), BUILD_LIMIT).await.map(drop),
    }
}

/// The path of one of our executables, which must have been built.
pub(crate) fn path(name: &str) -> Result<PathBuf, StackError> {
    let path = Place::of_current_exe().dir().join(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(StackError::Missing { what: path.display().to_string(), command: "cargo build --workspace --bins".into() })
}

/// `stack` itself: the running executable if it is that, because another build may have replaced the one in the
/// target directory by one with other features.
pub(crate) fn stack() -> Result<PathBuf, StackError> {
    let running = env::current_exe().ok().filter(|exe| exe.file_name().is_some_and(|name| name == "stack"));
    running.map_or_else(|| path("stack"), Ok)
}

/// The directory of cargo's output for all profiles.
pub(crate) fn target_dir() -> PathBuf {
    Place::of_current_exe().target
}

/// `<target>/<profile>/`, where executables are; those of tests are in `deps/` below.
struct Place {
    target: PathBuf,
    profile: String,
}

impl Place {
    fn of_current_exe() -> Self {
        env::current_exe().ok().and_then(|exe| Self::of(&exe)).unwrap_or_else(|| {
            let target = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
            Self { target: target.unwrap_or_else(|| layout::workspace().join("target")), profile: "debug".into() }
        })
    }

    fn of(exe: &Path) -> Option<Self> {
        let dir = exe.parent()?;
        let dir = if ["deps", "examples"].iter().any(|name| dir.ends_with(name)) { dir.parent()? } else { dir };
        // Cargo marks the directory of a profile with a file that locks it.
        fs::exists(dir.join(".cargo-lock")).ok().filter(|found| *found)?;
        Some(Self { target: dir.parent()?.to_owned(), profile: dir.file_name()?.to_str()?.to_owned() })
    }

    fn dir(&self) -> PathBuf {
        self.target.join(&self.profile)
    }
}
