//! ClickHouse as a shared library, from npm.

use std::path::PathBuf;
use std::time::Duration;
use std::{env, fs};

use tokio::process::Command;

use crate::install::step;
use crate::{StackError, command};

const VERSION: &str = "26.7.3-stable.1";
const PACKAGE: &str = "@chdb/lib-linux-x64-gnu";
/// Of the package's archive: what runs here is what was tested.
const INTEGRITY: &str =
    "sha512-XP97mMqnc5tZpKQywR8N7cLTsHNiTmHr30pC5mzo3jWmukjKn2IBa60c2B/gWUNcuFjOMjWoorQICCqBVj5wpw==";

/// The archive has about 200 MB.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(1800);
const EXTRACT_LIMIT: Duration = Duration::from_secs(300);

/// Where the library is, or will be.
pub(crate) fn library() -> PathBuf {
    cache_dir().join("libchdb.so")
}

/// What is kept between stacks.
pub(crate) fn cache_dir() -> PathBuf {
    let base = env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let home = || env::home_dir().unwrap_or_else(env::temp_dir).join(".cache");
    base.unwrap_or_else(home).join("tracebility").join(format!("chdb-{VERSION}"))
}

/// Downloads the library. The file appears under its name only once it is whole, so a run that was interrupted, or
/// another one at the same time, does no harm.
pub(crate) async fn fetch() -> Result<(), StackError> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")) {
        return Err(StackError::Setting(
            "ClickHouse as a local process needs Linux on x86-64 with glibc; point TRACEBILITY_CLICKHOUSE_URL at a \
             running server instead"
                .into(),
        ));
    }
    let dir = cache_dir();
    let fail = |action| StackError::file(action, &dir);
    let draft = tempfile::Builder::new().prefix("download-").tempdir_in(&dir).map_err(fail("write to"))?;
    let package = format!("{PACKAGE}@{VERSION}");
    let mut npm = Command::new("npm");
    npm.args(["pack", &package, "--json", "--pack-destination"]).arg(draft.path()).current_dir(draft.path());
    let report = step(&format!("downloading ClickHouse ({package}, 200 MB)"), &mut npm, DOWNLOAD_LIMIT).await?;
    if !report.contains(INTEGRITY) {
        return Err(StackError::Setting(format!("{package} is not the archive this was tested with ({INTEGRITY})")));
    }
    let archive = only_file(draft.path(), "tgz")?;
    let mut tar = Command::new("tar");
    tar.arg("-xzf").arg(&archive).arg("-C").arg(draft.path()).arg("package/libchdb.so");
    command::output(&mut tar, EXTRACT_LIMIT).await?;
    fs::rename(draft.path().join("package/libchdb.so"), library()).map_err(fail("move the library to"))
}

fn only_file(dir: &std::path::Path, extension: &str) -> Result<PathBuf, StackError> {
    let files = fs::read_dir(dir).map_err(StackError::file("read", dir))?;
    files
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|found| found == extension))
        .ok_or_else(|| StackError::Setting(format!("npm left no .{extension} file in {}", dir.display())))
}
