//! Real servers on this machine: for a person (`cargo stack`), for `cargo demo`, and for the tests of a checkout.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod apt;
mod binaries;
mod chdb;
mod clickhouse;
mod command;
#[cfg_attr(not(feature = "containers"), path = "no_containers.rs")]
mod containers;
mod env_file;
mod error;
mod given;
mod hold;
mod http;
mod install;
mod layout;
mod lock;
pub mod logs;
mod name;
pub mod ports;
mod postgres;
pub mod process;
mod progress;
mod redis;
mod registry;
mod service;
mod services;
mod shared;
mod socket;
mod stack;
mod state;
mod wait;

pub use containers::look_after;
pub use error::StackError;
pub use given::Urls;
pub use hold::hold;
pub use layout::Layout;
pub use name::Name;
pub use service::{Service, Services, migrate};
pub use shared::{Shared, TestDb, shared};
pub use stack::{Endpoints, Health, ProcessStatus, UpOptions, down, endpoints, kill, start, status, up};

pub(crate) use given::Given;
