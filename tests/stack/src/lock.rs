//! A lock between processes, released by the kernel when its holder ends, however it ends.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use crate::{StackError, wait};

/// Held until dropped. Children do not inherit it: std opens every file close-on-exec.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for the lock.
    pub(crate) async fn acquire(path: &Path, limit: Duration) -> Result<Self, StackError> {
        let found = wait::until(limit, async || Self::try_acquire(path).transpose()).await;
        found.unwrap_or_else(|| {
            let what = format!("waiting for another command to release {}", path.display());
            Err(StackError::Timeout { what, limit })
        })
    }

    /// Takes the lock if nobody has it.
    pub(crate) fn try_acquire(path: &Path) -> Result<Option<Self>, StackError> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .map_err(StackError::file("open lock", path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(e) => return Err(StackError::file("lock", path)(e.into())),
        }
        // The last holder may have removed the file after we opened it: then we hold a lock that nobody else sees.
        let ours = file.metadata().map_err(StackError::file("read", path))?.ino();
        Ok(std::fs::metadata(path).is_ok_and(|meta| meta.ino() == ours).then_some(Self { _file: file }))
    }
}
