//! `tracectl`: the registry's command line, for operators.
//!
//! | module | one idea |
//! | --- | --- |
//! | `cli` | what all commands share: the registry, the actor, the output format |
//! | `orgs`, `limits`, `workspaces`, `projects`, `products`, `idp`, `keys` | the commands of one noun each |
//! | `quota`, `audit` | running the workers' quota and audit jobs by hand |
//! | `shards` | moving orgs between shards, and planning it |
//! | `dlq` | dead letters: showing, replaying, dropping and exporting them |
//! | `cutover` | closing the legacy stream |
//! | `ledger` | whether any accepted item is lost or doubled |
//! | `stores` | the other stores, for `quota`, `audit` and `dlq` |
//! | `config` | JSON documents from the command line or a file |
//! | `when` | times and durations as people write them |
//! | `confirm` | asking before a change that stops something |
//! | `output` | tables, JSON, and what is safe to print on a terminal |
//! | `failure` | error messages and exit statuses |
//!
//! It needs only Postgres; if it also has the URL of Redis, it announces to the services which keys have changed. The
//! rules are in `registry`; this crate only has the commands and the output.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod audit;
mod cli;
mod config;
mod confirm;
mod cutover;
mod dlq;
mod environment;
mod failure;
mod idp;
mod keys;
mod ledger;
mod limits;
mod orgs;
mod output;
mod printable;
mod products;
mod projects;
mod quota;
mod shards;
mod stores;
mod when;
mod workspaces;

use std::process::ExitCode;

use clap::Parser as _;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let format = cli.global.output;
    match cli.run().await.and_then(|answer| answer.print(format)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("tracectl: {failure}");
            ExitCode::from(failure.code)
        }
    }
}
