//! Standard output: a table for people or one JSON document for programs. Notes go to standard error, so that standard
//! output contains only data.

use std::fmt::Write as _;
use std::io;
use std::io::{ErrorKind, Write as _};

use clap::ValueEnum;
use registry::LIST_MAX;
use serde::Serialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::failure::Failure;
use crate::printable::{is_unsafe, printable};

/// The text of a cell without a value.
pub(crate) const NONE: &str = "-";

/// The format of standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns, or one line per field.
    Table,
    /// One JSON document for the whole answer.
    Json,
}

/// The result of a command.
#[derive(Debug)]
pub(crate) struct Answer {
    table: String,
    json: Value,
    notes: Vec<String>,
    /// What to do when a secret could not be printed. The secret is in `table` and `json`, and exists nowhere else.
    if_lost: Option<String>,
}

impl Answer {
    /// A list, as `{"<name>": […], "next": …}`. `cursor` gives the value of `--after` that continues after an element,
    /// for lists that may be cut.
    pub(crate) fn list<T: Serialize, const N: usize>(
        name: &'static str,
        things: &[T],
        cursor: Option<fn(&T) -> &str>,
        headings: [&str; N],
        row: impl Fn(&T) -> [String; N],
    ) -> Result<Self, Failure> {
        let is_cut = u32::try_from(things.len()).map_or(true, |n| n >= LIST_MAX);
        let next = things.last().filter(|_| is_cut).zip(cursor).map(|(last, cursor)| cursor(last));
        let json = json!({ name: serde_json::to_value(things)?, "next": next });
        let answer = Self::table(json, &headings, things.iter().map(row).collect());
        Ok(match next {
            Some(next) => answer.note(format!("there may be more: --after {next}")),
            None => answer,
        })
    }

    /// A table, and the JSON that replaces it for programs.
    pub(crate) fn table<const N: usize>(json: Value, headings: &[&str; N], rows: Vec<[String; N]>) -> Self {
        Self { table: columns(headings, &rows), json, notes: Vec::new(), if_lost: None }
    }

    /// One object; the table has one line per field.
    pub(crate) fn record(thing: &impl Serialize, fields: &[(&str, String)]) -> Result<Self, Failure> {
        let width = fields.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
        let mut table = String::new();
        for (name, value) in fields {
            line(&mut table, &format!("{name:<width$}  {}", printable(value)));
        }
        Ok(Self { table, json: serde_json::to_value(thing)?, notes: Vec::new(), if_lost: None })
    }

    /// A change of `what`, or the note that nothing changed. The table is empty.
    pub(crate) fn change(what: &impl Serialize, changed: bool, note: &str, note_if_not: &str) -> Result<Self, Failure> {
        let mut json = serde_json::to_value(what)?;
        json["changed"] = changed.into();
        let answer = Self { table: String::new(), json, notes: Vec::new(), if_lost: None };
        Ok(answer.note(if changed { note } else { note_if_not }))
    }

    /// A secret, alone on its line; all other facts are in `json` and in the notes. `if_lost` says what to do when it
    /// cannot be printed.
    pub(crate) fn secret(secret: &str, json: Value, if_lost: String) -> Self {
        Self { table: format!("{secret}\n"), json, notes: Vec::new(), if_lost: Some(if_lost) }
    }

    /// Adds a note for people, on standard error.
    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Prints data and notes.
    pub(crate) fn print(self, format: Format) -> Result<(), Failure> {
        let text = match format {
            Format::Table => self.table,
            Format::Json => json_text(&self.json),
        };
        let mut out = io::stdout().lock();
        let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        self.notes.iter().for_each(|note| eprintln!("{}", printable(note)));
        match (written, self.if_lost) {
            (Ok(()), _) => Ok(()),
            (Err(error), Some(next)) => Err(Failure::new(format!("the secret could not be printed: {error}"), next)),
            // A reader that closes the pipe early (`tracectl orgs list | head -1`) is not a failure.
            (Err(error), None) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            (Err(error), None) => Err(error.into()),
        }
    }
}

/// A table with columns as wide as their content. Freely chosen texts belong in the last column, where their width does
/// no harm.
fn columns<const N: usize>(headings: &[&str; N], rows: &[[String; N]]) -> String {
    let rows: Vec<[String; N]> = rows.iter().map(|row| row.each_ref().map(|cell| printable(cell))).collect();
    let headings = headings.map(str::to_owned);
    let all = || std::iter::once(&headings).chain(&rows);
    let widths: Vec<usize> =
        (0..N).map(|c| all().map(|row| row[c].chars().count()).max().unwrap_or_default()).collect();
    let mut text = String::new();
    for row in all() {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        line(&mut text, &cells.join("  "));
    }
    text
}

fn line(text: &mut String, line: &str) {
    text.push_str(line.trim_end());
    text.push('\n');
}

/// JSON that is safe to print: JSON itself does not escape all characters that control a terminal. They occur only in
/// strings, where an escape means the same.
fn json_text(json: &Value) -> String {
    let mut text = String::new();
    for c in format!("{json:#}").chars() {
        if c != '\n' && is_unsafe(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ok = write!(text, "\\u{unit:04x}").is_ok();
            }
        } else {
            text.push(c);
        }
    }
    text + "\n"
}

/// A time in UTC, to the second.
pub(crate) fn moment(at: OffsetDateTime) -> String {
    let at = at.to_offset(time::UtcOffset::UTC);
    at.replace_nanosecond(0).unwrap_or(at).format(&Rfc3339).unwrap_or_else(|_| NONE.to_owned())
}

/// A time, or [`NONE`].
pub(crate) fn moment_or_none(at: Option<OffsetDateTime>) -> String {
    at.map_or_else(|| NONE.to_owned(), moment)
}

/// A value, or [`NONE`].
pub(crate) fn or_none(value: Option<impl ToString>) -> String {
    value.map_or_else(|| NONE.to_owned(), |value| value.to_string())
}

/// A truth value as people read it: `yes` or `no`.
pub(crate) fn yes_no(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_where_their_text_ends() {
        let rows = [["a".to_owned(), "1".to_owned()], ["long".to_owned(), String::new()]];
        assert_eq!(columns(&["NAME", "N"], &rows), "NAME  N\na     1\nlong\n");
        assert_eq!(columns(&["NAME", "N"], &[]), "NAME  N\n", "an empty list has its header");
    }

    #[test]
    fn terminal_control_characters_are_never_printed() {
        let hostile = "a\u{1b}[2Jb\u{7}\u{9b}31m\u{202e}c\r\n\u{e0041}é日";
        assert_eq!(printable(hostile), r"a\u{1b}[2Jb\u{7}\u{9b}31m\u{202e}c\r\n\u{e0041}é日");
        let text = json_text(&json!({ "name": hostile }));
        assert!(!text.trim_end().chars().any(|c| c != '\n' && is_unsafe(c)), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["name"], hostile, "and a program reads it as it is");
    }

    #[test]
    fn times_are_printed_in_utc() {
        let at = OffsetDateTime::parse("2027-01-31T01:30:00.25+02:00", &Rfc3339).unwrap();
        assert_eq!(moment(at), "2027-01-30T23:30:00Z");
    }
}
