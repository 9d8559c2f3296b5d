//! The stack on its real servers.

#![allow(clippy::disallowed_methods, reason = "waiting in a test without a runtime blocks nobody")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

mod processes;
mod services;
mod shared;
mod up;
