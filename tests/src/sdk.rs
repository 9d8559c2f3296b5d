//! Real SDKs from PyPI and npm: installed once per checkout, then run as a user would.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::process::Command;
use tokio::sync::Mutex;

/// How long an installation may take.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a script may take.
const RUN_TIMEOUT: Duration = Duration::from_secs(120);

/// One installation at a time: two tests may want the same one.
static INSTALLING: Mutex<()> = Mutex::const_new(());

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk").join(name)
}

/// Where an SDK is installed: named after what is pinned, so that a changed pin is a new installation.
fn home(name: &str, pins: &str) -> PathBuf {
    let tmp = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/sdk");
    tmp.join(format!("{name}-{:016x}", wire::tables::content_hash(pins.as_bytes())))
}

/// Runs `script` of `tests/sdk/<name>` in a virtual environment with its `requirements.txt`; returns what it printed.
pub async fn python(name: &str, script: &str, args: &[&str], env: &[(&str, &str)]) -> anyhow::Result<String> {
    let source = source(name);
    let requirements = source.join("requirements.txt");
    let home = home(name, &std::fs::read_to_string(&requirements)?);
    let python = home.join("bin/python");
    install(&home, async |fresh| {
        run(Command::new("python3").args(["-m", "venv"]).arg(fresh), INSTALL_TIMEOUT)
            .await
            .context("making a virtual environment; on Debian or Ubuntu: apt-get install python3-venv")?;
        let mut pip = Command::new(fresh.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "-r"])
            .arg(&requirements);
        run(&mut pip, INSTALL_TIMEOUT).await.map(drop)
    })
    .await?;
    let mut command = Command::new(python);
    // What scripts share; nothing is written beside it.
    command.env("PYTHONPATH", self::source("common")).env("PYTHONDONTWRITEBYTECODE", "1");
    command.arg(source.join(script)).args(args).envs(env.iter().copied());
    run(&mut command, RUN_TIMEOUT).await
}

/// Runs `script` of `tests/sdk/<name>` with the packages of its `package.json`; returns what it printed.
pub async fn node(name: &str, script: &str, args: &[&str], env: &[(&str, &str)]) -> anyhow::Result<String> {
    let source = source(name);
    let package = std::fs::read_to_string(source.join("package.json"))?;
    let home = home(name, &package);
    install(&home, async |fresh| {
        std::fs::write(fresh.join("package.json"), &package)?;
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"]).current_dir(fresh);
        run(&mut npm, INSTALL_TIMEOUT).await.context("npm; on Debian or Ubuntu: apt-get install nodejs npm").map(drop)
    })
    .await?;
    // Node looks for packages beside the script. Another test may run it: it is put there whole.
    let beside = home.join(script);
    put(&source.join(script), &beside)?;
    put(&self::source("common").join("report.mjs"), &home.join("report.mjs"))?;
    let mut command = Command::new("node");
    command.arg(beside).args(args).envs(env.iter().copied());
    run(&mut command, RUN_TIMEOUT).await
}

/// Copies a file to where no reader ever sees half of it.
fn put(from: &Path, to: &Path) -> anyhow::Result<()> {
    let whole = tempfile::NamedTempFile::new_in(to.parent().context("a directory")?)?;
    std::fs::copy(from, whole.path())?;
    whole.persist(to)?;
    Ok(())
}

/// Fills `home` unless it is there already. A half-made one never is: a mark is written last.
async fn install(home: &Path, fill: impl AsyncFnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let _one_at_a_time = INSTALLING.lock().await;
    let mark = home.join("installed");
    if mark.exists() {
        return Ok(());
    }
    if home.exists() {
        std::fs::remove_dir_all(home)?;
    }
    std::fs::create_dir_all(home)?;
    fill(home).await?;
    Ok(std::fs::write(mark, "")?)
}

async fn run(command: &mut Command, timeout: Duration) -> anyhow::Result<String> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let what = format!("{:?}", command.as_std());
    let output =
        tokio::time::timeout(timeout, command.output()).await.with_context(|| format!("{what} took too long"))?;
    let output = output.with_context(|| format!("running {what}"))?;
    if !output.status.success() {
        bail!("{what} failed ({}):\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    let complaints = String::from_utf8_lossy(&output.stderr);
    if !complaints.is_empty() {
        eprintln!("{what} said:\n{complaints}");
    }
    String::from_utf8(output.stdout).context("its output is not UTF-8")
}
