//! The worker's parts against real servers. One binary, so that the servers are started once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod lease;
mod reading;
mod versions;
