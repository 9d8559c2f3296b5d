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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::Given;

    #[test]
    fn a_shell_and_we_read_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let given = Given { redis: Some("redis://:it's $HOME@127.0.0.1:1/0".into()), ..Given::default() };
        let mut state = State::choose(given, false, true).unwrap();
        state.api_key = Some("tb_key".into());
        write(&layout, &state).unwrap();

        let read = read(&layout);
        assert_eq!(read["TRACEBILITY_REDIS_URL"], "redis://:it's $HOME@127.0.0.1:1/0");
        assert_eq!(read["TRACEBILITY_API_KEY"], "tb_key");
        let mode = fs::metadata(layout.env_file()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let script = format!(". {} && printenv TRACEBILITY_REDIS_URL", layout.env_file().display());
        let shell = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8(shell.stdout).unwrap().trim(), read["TRACEBILITY_REDIS_URL"]);
    }
}
