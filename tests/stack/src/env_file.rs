//! `stack.env`: how to talk to the stack, for a shell to source.
//!
//! A shell that sourced it names our own servers, perhaps long after they were stopped, and does not mean "use these
//! instead of starting any". So the file also says which URLs are ours, as digests: a URL that was set by hand
//! afterwards is not.

use crate::state::{State, write_private};
use crate::{Endpoints, Layout, Name, StackError};

/// Digests of the URLs in a `stack.env` that name servers we started, separated by spaces.
const STARTED: &str = "TRACEBILITY_STACK_STARTED";

pub(crate) fn write(layout: &Layout, state: &State) -> Result<(), StackError> {
    let mut text = String::from("# Written by `cargo stack up`. Use it with: . ");
    text.push_str(&layout.env_file().display().to_string());
    text.push('\n');
    for (name, value) in Endpoints::of(state).variables() {
        text.push_str(&format!("export {name}='{}'\n", value.replace('\'', r"'\''")));
    }
    let urls = state.urls();
    let started = [
        (Name::Postgres, &urls.pg_app_dsn),
        (Name::Postgres, &urls.pg_operator_dsn),
        (Name::Postgres, &urls.pg_owner_dsn),
        (Name::Redis, &urls.redis_url),
        (Name::Clickhouse, &urls.clickhouse_url),
    ];
    let started: Vec<_> =
        started.into_iter().filter(|(name, _)| !state.given.has(*name)).map(|(_, url)| digest(url)).collect();
    text.push_str(&format!("export {STARTED}='{}'\n", started.join(" ")));
    write_private(&layout.env_file(), text.as_bytes())
}

/// Whether a URL in the environment came from a `stack.env` and names a server that we started.
pub(crate) fn is_ours(url: &str) -> bool {
    let started = std::env::var_os(STARTED).unwrap_or_default();
    let digest = digest(url);
    started.to_string_lossy().split(' ').any(|ours| ours == digest)
}

fn digest(url: &str) -> String {
    format!("{:016x}", wire::tables::content_hash(url.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::Given;

    #[test]
    fn a_shell_reads_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let given = Given { redis: Some("redis://:it's $HOME@127.0.0.1:1/0".into()), ..Given::default() };
        let mut state = State::choose(given, false, true).unwrap();
        state.api_key = Some("tb_key".into());
        write(&layout, &state).unwrap();
        let mode = std::fs::metadata(layout.env_file()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let names = ["TRACEBILITY_REDIS_URL", "TRACEBILITY_API_KEY", STARTED];
        let script = format!(". {} && printenv {}", layout.env_file().display(), names.join(" "));
        let shell = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        let urls = state.urls();
        let started = [&urls.pg_app_dsn, &urls.pg_operator_dsn, &urls.pg_owner_dsn, &urls.clickhouse_url];
        let started = started.map(|url| digest(url)).join(" ");
        assert_eq!(
            String::from_utf8(shell.stdout).unwrap().lines().collect::<Vec<_>>(),
            ["redis://:it's $HOME@127.0.0.1:1/0", "tb_key", &started],
            "a server that was given is not one that we started"
        );
    }
}
