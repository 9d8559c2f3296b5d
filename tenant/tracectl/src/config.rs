//! Reads a JSON document from the command line or from a file. Its values may be secret, so no message repeats them.

use std::fs::File;
use std::io;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use crate::failure::Failure;

/// The most bytes of a document. The registry's limit is lower, but does not count white space.
const DOCUMENT_BYTES_MAX: u64 = 1024 * 1024;

/// Reads a document from a file, or from standard input when the file is `-`.
pub(crate) fn from_file(path: &Path) -> Result<Value, Failure> {
    let shown = path.display();
    let cannot = |error: io::Error| Failure::new(format!("{shown} cannot be read: {error}"), "check the file");
    let text = if path == Path::new("-") {
        bounded(io::stdin().lock()).map_err(cannot)?
    } else {
        File::open(path).and_then(bounded).map_err(cannot)?
    };
    if text.len() as u64 > DOCUMENT_BYTES_MAX {
        return Err(Failure::new(
            format!("{shown} has more than {DOCUMENT_BYTES_MAX} bytes"),
            "check that it is the right file",
        ));
    }
    parse(&text, &format!("{shown}"))
}

/// Reads a document from an argument.
pub(crate) fn from_text(text: &str) -> Result<Value, Failure> {
    parse(text.as_bytes(), "--config")
}

fn bounded(from: impl Read) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    from.take(DOCUMENT_BYTES_MAX + 1).read_to_end(&mut text)?;
    Ok(text)
}

fn parse(text: &[u8], place: &str) -> Result<Value, Failure> {
    serde_json::from_slice(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        Failure::new(
            format!("{place} is not JSON: it cannot be read at line {line}, column {column}"),
            "give one JSON object, such as {\"model\":\"small\"}",
        )
    })
}
