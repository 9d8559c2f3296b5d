//! What fuzzers start from, as the directories of files that they take.

use std::path::Path;

use anyhow::{Result, bail};
use fuzz::{TARGETS, corpus, seeds};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["unpack", directory] => unpack(Path::new(directory)),
        ["keep", target, directory] => corpus::keep(target, Path::new(directory)),
        _ => bail!("usage: fuzz-corpus unpack <directory> | keep <target> <directory>"),
    }
}

/// Writes what each target starts from into a directory of its name.
fn unpack(into: &Path) -> Result<()> {
    for target in TARGETS {
        let directory = into.join(target.name);
        std::fs::create_dir_all(&directory)?;
        for (i, input) in corpus::read(target.name)?.iter().enumerate() {
            std::fs::write(directory.join(format!("kept-{i}")), input)?;
        }
    }
    for seed in seeds::all()? {
        std::fs::write(into.join(seed.target).join(seed.name), seed.bytes)?;
    }
    Ok(())
}
