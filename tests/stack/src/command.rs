//! Commands that run to their end: package installers, builds, migrations.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::StackError;

/// Enough of a failed command's output to see why.
const OUTPUT_LINES_MAX: usize = 40;

/// Runs a command and returns what it wrote to standard output.
pub(crate) async fn output(command: &mut Command, limit: Duration) -> Result<String, StackError> {
    let shown = shown(command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let ended = tokio::time::timeout(limit, command.output())
        .await
        .map_err(|_| StackError::Timeout { what: format!("`{shown}`"), limit })?
        .map_err(|source| StackError::Run { command: shown.clone(), source })?;
    let stdout = String::from_utf8_lossy(&ended.stdout).into_owned();
    if ended.status.success() {
        return Ok(stdout);
    }
    let all = format!("{stdout}{}", String::from_utf8_lossy(&ended.stderr));
    let lines: Vec<&str> = all.lines().collect();
    Err(StackError::Failed {
        command: shown,
        status: ended.status.to_string(),
        output: lines[lines.len().saturating_sub(OUTPUT_LINES_MAX)..].join("\n"),
    })
}

/// Runs a command whose progress the user watches, on standard error.
pub(crate) async fn watched(command: &mut Command, limit: Duration) -> Result<(), StackError> {
    let shown = shown(command);
    command.stdin(Stdio::null()).stdout(std::io::stderr()).stderr(Stdio::inherit()).kill_on_drop(true);
    let status = tokio::time::timeout(limit, command.status())
        .await
        .map_err(|_| StackError::Timeout { what: format!("`{shown}`"), limit })?
        .map_err(|source| StackError::Run { command: shown.clone(), source })?;
    if status.success() {
        return Ok(());
    }
    Err(StackError::Failed { command: shown, status: status.to_string(), output: String::new() })
}

fn shown(command: &Command) -> String {
    let command = command.as_std();
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}
