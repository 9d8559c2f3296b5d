//! Parts of the worker against real servers. One test binary, so that the servers are started once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod lease;
mod reading;
mod versions;
