//! `tracectl`, the program itself, on real Postgres.

mod ledger;
mod life;
mod printing;
mod refusals;
mod shards;
mod stores;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::World;

/// The program, which the harness has built.
fn tracectl_path() -> PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("tracectl")
}

/// What a run printed, and its exit status.
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Run {
    /// What was printed, of a run that did what it should.
    #[track_caller]
    pub(crate) fn done(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.out, self.err);
        self.out
    }

    #[track_caller]
    pub(crate) fn refused(&self, code: i32, error: &str) {
        assert_eq!((self.code, self.err.as_str(), self.out.as_str()), (Some(code), error, ""));
    }
}

/// The program with nothing in its environment but what every shell sets.
fn program() -> Command {
    let mut command = Command::new(tracectl_path());
    command.env_clear().env("USER", "olga").stdin(Stdio::null());
    command
}

pub(crate) fn with(world: &World) -> Command {
    let mut command = program();
    command.env("TRACEBILITY_PG_OPERATOR_DSN", &world.db.pg_operator_dsn);
    command
}

fn run(world: &World, args: &[&str]) -> Run {
    with(world).args(args).output().unwrap().into()
}

/// The same with something on its standard input, which is no terminal.
fn feed(world: &World, args: &[&str], input: &str) -> Run {
    let mut command = with(world);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap().into()
}

/// Runs a command that succeeds, and reads its one JSON document.
#[track_caller]
fn json(world: &World, args: &[&str]) -> Value {
    let out = run(world, &[args, &["--output", "json"]].concat()).done();
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{args:?}: {error}\n{out}"))
}

/// Creates a project of the org `acme` and a key of it, and returns the key's public id.
fn key(world: &World, project: &str) -> String {
    run(world, &["projects", "create", "acme", project]).done();
    let key = json(world, &["keys", "create", "acme", project, "--name", "a key"]);
    key["public_id"].as_str().unwrap().to_owned()
}
