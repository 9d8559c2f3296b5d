//! `stack.env`: how to talk to the stack, for a shell to source.

use std::collections::BTreeMap;
use std::fs;

use crate::state::{State, write_private};
use crate::{Endpoints, Layout, StackError};

pub(crate) fn write(layout: &Layout, state: &State) -> Result<(), StackError> {
    let mut text = String::from("# Written by `cargo stack up`. Use it with: . ");
    text.push_str(&layout.env_file().display().to_string());
    text.push('\n');
    for (name, value) in Endpoints::of(state).variables() {
        text.push_str(&format!("export {name}='{}'\n", value.replace('\'', r"'\''")));
    }
    write_private(&layout.env_file(), text.as_bytes())
}

/// The variables of an existing file; none if there is no file.
pub(crate) fn read(layout: &Layout) -> BTreeMap<String, String> {
    let text = fs::read_to_string(layout.env_file()).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.strip_prefix("export ")?.split_once('=')?;
            let value = value.strip_prefix('\'')?.strip_suffix('\'')?;
            Some((name.to_owned(), value.replace(r"'\''", "'")))
        })
        .collect()
}
