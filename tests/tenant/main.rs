//! The crates of `tenant/` on real servers. One binary, so that the servers are started once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
// Tests look at tables as they are.
#![allow(clippy::disallowed_types)]

mod ack;
mod admission;
mod api_keys;
mod audit;
mod bad_input;
mod clickhouse;
mod constraints;
mod cutover;
mod dlq;
mod eval;
mod fleet;
mod grants;
mod quota;
mod reconcile;
mod redis;
mod refusals;
mod registry;
mod resolver;
mod rls;
mod sentinel;
mod shards;
mod support;
mod tracectl;
