//! What fuzzers have learned, kept from run to run: per target one file, of inputs that each reach something the others
//! do not.
//!
//! A file is zstd over `length (u32, little-endian), bytes` per input, the shortest first. One file and not a thousand,
//! because nobody reads them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The largest input that is kept, in bytes: what a longer one reaches, a shorter one does too, nearly always.
const INPUT_BYTES_MAX: usize = 8 << 10;
/// Kept files are read by every test run and written once: small is better than fast.
const ZSTD_LEVEL: i32 = 19;

fn file(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(format!("{target}.zst"))
}

/// The inputs that are kept for a target; none if there is no file.
#[allow(clippy::disallowed_methods)] // our own file
pub fn read(target: &str) -> Result<Vec<Vec<u8>>> {
    let file = file(target);
    if !file.exists() {
        return Ok(Vec::new());
    }
    let bytes = zstd::stream::decode_all(&std::fs::read(&file)?[..])?;
    let mut rest = &bytes[..];
    let mut inputs = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let (input, after) =
            after.split_at_checked(length).with_context(|| format!("{} is cut off", file.display()))?;
        inputs.push(input.to_vec());
        rest = after;
    }
    Ok(inputs)
}

/// Keeps the files of a directory as the inputs of a target.
pub fn keep(target: &str, directory: &Path) -> Result<()> {
    let files = std::fs::read_dir(directory)?.map(|entry| Ok(std::fs::read(entry?.path())?));
    let mut inputs = files.collect::<Result<Vec<_>>>()?;
    inputs.retain(|input| input.len() <= INPUT_BYTES_MAX);
    inputs.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    let framed: Vec<_> = inputs.iter().flat_map(|i| [&(i.len() as u32).to_le_bytes()[..], i].concat()).collect();
    std::fs::create_dir_all(file(target).parent().context("no directory")?)?;
    Ok(std::fs::write(file(target), zstd::stream::encode_all(&framed[..], ZSTD_LEVEL)?)?)
}
