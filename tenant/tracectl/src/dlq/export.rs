//! Writes dead letters to a file.

use std::fs::{File, OpenOptions};
use std::io;
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use queue::dlq::{DeadLetters, PAGE_LETTERS};
use registry::event::EventType;
use serde_json::json;

use super::AuditTrail;
use super::choose::Selection;
use crate::failure::Failure;
use crate::output::Answer;

/// The file's permissions: its content is customers' data.
const OWNER_ONLY: u32 = 0o600;

/// Writes a file that appears under its name only when it is complete.
pub(super) async fn export(
    dead_letters: &DeadLetters,
    picked: Selection,
    file: &Path,
    mut trail: AuditTrail<'_>,
) -> Result<Answer, Failure> {
    let cannot = |error: io::Error| {
        Failure::new(
            format!("{} cannot be written: {error}", file.display()),
            "choose another file that does not exist yet",
        )
    };
    if file.try_exists().map_err(cannot)? {
        return Err(cannot(io::ErrorKind::AlreadyExists.into()));
    }
    let part = Part::create(file).map_err(cannot)?;
    let mut out = BufWriter::new(&part.file);
    let mut written = 0_u64;
    for some in picked.letters.chunks(PAGE_LETTERS) {
        trail.write(EventType::DlqShow, "export", some).await?;
        for (id, _) in some {
            // A letter that was replayed or dropped meanwhile is no longer a dead letter.
            let Some(letter) = dead_letters.read(*id).await? else { continue };
            let mut line = serde_json::to_value(&letter.listed)?;
            line["envelope"] = STANDARD.encode(&letter.content).into();
            writeln!(out, "{line}").map_err(cannot)?;
            written += 1;
        }
        eprintln!("{written} of {} letters", picked.letters.len());
    }
    out.flush().map_err(cannot)?;
    drop(out);
    part.finish(file).map_err(cannot)?;
    let fields = [("written", written.to_string()), ("file", file.display().to_string())];
    Answer::record(&json!({ "written": written, "file": file }), &fields)
}

/// A temporary file; deleted unless it is renamed to its final name.
struct Part {
    path: PathBuf,
    file: File,
}

impl Part {
    fn create(target: &Path) -> io::Result<Self> {
        let name = target.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let path = target.with_file_name(format!(".{}.{}.part", name.to_string_lossy(), std::process::id()));
        let file = OpenOptions::new().write(true).create_new(true).mode(OWNER_ONLY).open(&path)?;
        Ok(Self { path, file })
    }

    fn finish(self, target: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        std::fs::rename(&self.path, target)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Fails harmlessly if the file was renamed.
        let _gone = std::fs::remove_file(&self.path).is_ok();
    }
}
