//! The stack on its real servers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

mod processes;
mod shared;
mod up;
