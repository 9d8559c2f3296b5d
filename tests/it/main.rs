//! Black-box tests: real servers, real services, real SDKs. One binary, so that they share one set of servers.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod ack;
mod cli;
mod columns;
mod crashes;
mod cutover;
mod demo;
mod dependencies;
mod derived;
mod dlq;
mod documented;
mod envelopes;
mod faults;

mod http;
mod langsmith;
mod ledger;
mod ledger_scale;
mod limits;
mod native;
mod openapi;
mod otlp;
mod otlp_inputs;
mod quotas;
mod retries;
mod sdks;
mod shard_moves;
mod shards;
mod structure;
mod usage;
mod worker;
