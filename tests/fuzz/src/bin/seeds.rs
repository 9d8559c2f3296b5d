//! Writes the seeds of every target into a directory: `fuzz-seeds <directory>`.

use std::path::PathBuf;

use anyhow::{Context, Result};

fn main() -> Result<()> {
    let into = PathBuf::from(std::env::args_os().nth(1).context("usage: fuzz-seeds <directory>")?);
    for seed in fuzz::seeds::all()? {
        let directory = into.join(seed.target);
        std::fs::create_dir_all(&directory)?;
        std::fs::write(directory.join(seed.name), seed.bytes)?;
    }
    Ok(())
}
