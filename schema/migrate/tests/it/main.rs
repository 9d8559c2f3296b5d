//! `migrate` against real servers. One test binary, so that the servers are started once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
// Tests look at tables directly.
#![allow(clippy::disallowed_types)]

mod catalogue;
mod cli;
mod cluster;
mod durable;
mod kill;
mod postgres;
mod proxy;
mod support;
mod upgrade;
