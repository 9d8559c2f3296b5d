//! `cargo stack logs`: prints what processes wrote, and with `--follow` what they write from now on.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::time::Duration;

use stack::{Layout, Name, logs};

/// How often to look for new lines.
const POLL_EVERY: Duration = Duration::from_millis(250);

/// Prints the end of the logs, and with `follow` what is added to them. With several logs each line is marked.
pub(crate) async fn print(layout: &Layout, names: &[Name], lines: usize, follow: bool) -> anyhow::Result<()> {
    anyhow::ensure!(layout.root().is_dir(), "no stack in {}; start one with: cargo stack up", layout.root().display());
    let mark = names.len() > 1;
    // Before the tails, so that nothing written in between is lost; a line may then be printed twice instead.
    let mut ends: Vec<u64> = names.iter().map(|name| size(layout, *name)).collect();
    for name in names {
        write(*name, mark, &logs::tail(&layout.log(*name), lines))?;
    }
    if !follow {
        return Ok(());
    }
    loop {
        tokio::time::sleep(POLL_EVERY).await;
        for (name, end) in names.iter().zip(&mut ends) {
            write(*name, mark, &added(layout, *name, end)?)?;
        }
    }
}

fn size(layout: &Layout, name: Name) -> u64 {
    std::fs::metadata(layout.log(name)).map(|meta| meta.len()).unwrap_or(0)
}

/// The whole lines after `end`, which is moved behind them.
fn added(layout: &Layout, name: Name, end: &mut u64) -> anyhow::Result<String> {
    let now = size(layout, name);
    if now < *end {
        // Started afresh by `down` and `up`.
        *end = 0;
    }
    if now == *end {
        return Ok(String::new());
    }
    let mut file = File::open(layout.log(name))?;
    file.seek(SeekFrom::Start(*end))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    bytes.truncate(whole);
    *end += whole as u64;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn write(name: Name, mark: bool, text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for line in text.lines() {
        if mark {
            write!(out, "{name:<13} | ")?;
        }
        writeln!(out, "{line}")?;
    }
    out.flush()
}
