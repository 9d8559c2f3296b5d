//! Where everything of one stack lives: one directory, and nothing outside it.

use std::fs;
use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::{Name, StackError, socket};

/// The directory of one stack.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The stack of this checkout: `.tracebility` in the workspace's root.
    pub fn of_checkout() -> Self {
        Self { root: workspace().join(".tracebility") }
    }

    /// A stack in a directory of its own.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        Self { root: std::path::absolute(&root).unwrap_or(root) }
    }

    /// The state directory, which all other paths are in.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file a shell sources to talk to this stack.
    pub fn env_file(&self) -> PathBuf {
        self.root.join("stack.env")
    }

    /// Ports, passwords and process ids, so that the next command finds what this one started.
    pub fn state_file(&self) -> PathBuf {
        self.root.join("state.json")
    }

    /// What a process wrote.
    pub fn log(&self, name: Name) -> PathBuf {
        self.logs().join(format!("{name}.log"))
    }

    /// The working directory of a process, which holds its data.
    pub fn home(&self, name: Name) -> PathBuf {
        self.root.join(name.as_str())
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    pub(crate) fn lock_file(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// Creates the directory, for this user only but passable, because Postgres runs as another user below it.
    pub(crate) fn create(&self) -> Result<(), StackError> {
        for dir in [&self.root, &self.logs()] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o711)
                .create(dir)
                .map_err(StackError::file("create directory", dir))?;
        }
        Ok(())
    }

    /// Postgres refuses to run as root. Run as another user it must be able to reach its directory, which it cannot
    /// below a home directory like /root. Then its data lives in the system's temporary directory, under a name that
    /// the same stack always finds again.
    pub(crate) fn postgres_home(&self, runs_as_other_user: bool) -> PathBuf {
        if runs_as_other_user && !self.root.ancestors().all(everyone_may_pass) {
            return std::env::temp_dir().join(format!("tracebility-postgres-{:016x}", self.id()));
        }
        self.home(Name::Postgres)
    }

    /// A number for names outside the directory, which the same stack always finds again.
    pub(crate) fn id(&self) -> u64 {
        fnv1a(self.root.as_os_str().as_encoded_bytes())
    }

    /// Removes what `create` and the servers made, and only that: `--dir` may name a directory with other things in it.
    pub(crate) fn remove(&self) -> Result<(), StackError> {
        for name in Name::ALL {
            remove_dir(&self.home(name))?;
        }
        for runs_as_other_user in [true, false] {
            remove_dir(&self.postgres_home(runs_as_other_user))?;
        }
        remove_dir(&self.logs())?;
        for file in [self.env_file(), self.state_file(), self.root.join(socket::SOCKET), self.lock_file()] {
            remove_file(&file)?;
        }
        match fs::remove_dir(&self.root) {
            Err(e) if !matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::DirectoryNotEmpty) => {
                Err(StackError::file("remove directory", &self.root)(e))
            }
            _ => Ok(()),
        }
    }
}

/// The root of the workspace this was compiled in.
pub(crate) fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

pub(crate) fn remove_dir(path: &Path) -> Result<(), StackError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(StackError::file("remove directory", path)(e)),
        _ => Ok(()),
    }
}

pub(crate) fn remove_file(path: &Path) -> Result<(), StackError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(StackError::file("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Whether any user may pass through a directory. One that does not exist yet will be created passable.
fn everyone_may_pass(dir: &Path) -> bool {
    fs::metadata(dir).map(|meta| meta.mode() & 0o001 != 0).unwrap_or(true)
}

/// A hash that is the same in every build, unlike std's: the name must be found again.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_fnv1a() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
    }

    #[test]
    fn removing_leaves_foreign_files_alone() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        layout.create().unwrap();
        fs::write(dir.path().join("mine.txt"), "x").unwrap();
        layout.remove().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
