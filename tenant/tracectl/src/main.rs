//! `tracectl`: the registry's command line, for operators.
//!
//! | module | one idea |
//! | --- | --- |
//! | `cli` | what all commands share: the registry, who acts, how to print |
//! | `orgs`, `limits`, `workspaces`, `projects`, `products`, `idp`, `keys` | one noun each: its arguments and what they do |
//! | `quota`, `audit` | what the workers do about usage and the audit trail, by hand |
//! | `shards` | moving orgs between shards, and planning it |
//! | `dlq` | dead letters: looked at, sent again, thrown away, written to a file |
//! | `cutover` | closing the stream of envelopes written before tenancy |
//! | `ledger` | whether everything that was accepted is somewhere |
//! | `stores` | the other stores, for `quota`, `audit` and `dlq` |
//! | `config` | JSON documents from the command line or a file |
//! | `when` | moments and spans of time as people write them |
//! | `confirm` | nothing stops working by accident |
//! | `output` | tables, JSON, and what is safe to print on a terminal |
//! | `failure` | what is told when a command fails |
//!
//! It needs Postgres and nothing else; told where Redis is, it also tells the services which keys have changed. The
//! rules are the registry's (`registry`); here is only how they are asked for and told.

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
