//! Real servers on this machine: for a person (`cargo stack`), for `cargo demo`, and for the tests of a checkout.
//!
//! A person's stack lives in `.tracebility` until [`down`]; [`up`] makes or repairs it. The tests of a checkout share
//! one set of servers per run: [`shared`] starts or joins it, [`Shared::fresh_database`] gives a test databases of its
//! own, and [`Service`] runs our services on them.
//!
//! | module | one idea |
//! | --- | --- |
//! | `stack` | what `up`, `down`, `status`, `start` and `kill` do |
//! | `shared`, `socket`, `hold` | one set of servers per test run: the test's side, the wire, the holder's side |
//! | `service` | our services as a test runs them |
//! | `given` | which servers the environment names instead of ours |
//! | `postgres`, `redis`, `clickhouse`, `services` | how each is started, asked and prepared |
//! | `redis_cluster` | three Redis nodes for the tests that need a cluster |
//! | `redis_server` | one Redis, Valkey or Sentinel for a test that breaks it |
//! | `containers` | the three servers as containers (feature `containers`) |
//! | `install`, `apt`, `chdb`, `valkey` | what must be on the machine, and getting it there |
//! | `binaries` | our own executables: building and finding them |
//! | `process` | processes: started apart from us, found again, stopped with a deadline |
//! | `layout`, `state`, `env_file`, `logs`, `lock`, `ports` | what lies in the directory, and where |
//!
//! Invariants:
//!
//! - Everything listens on loopback only, and every wait has a named limit.
//! - A process is known by number and start time, so a number that was used again is never signalled.
//! - Nothing outlives a test run: databases go with the connection they were given to, servers with the holder, and
//!   services with the test process.
//! - `down` removes what the stack made, and nothing else.

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
mod redis_cluster;
mod redis_server;
mod registry;
mod service;
mod services;
mod shared;
mod socket;
mod stack;
mod state;
mod valkey;
mod wait;

pub use containers::look_after;
pub use error::StackError;
pub use given::{Urls, User};
pub use hold::hold;
pub use layout::Layout;
pub use name::Name;
pub use redis_cluster::RedisCluster;
pub use redis_server::{Flavour, RedisServer};
pub use service::{Service, Services, migrate};
pub use shared::{Shared, TestDb, shared};
pub use stack::{
    Endpoints, Extra, Health, ProcessStatus, UpOptions, down, endpoints, kill, start, start_with, status, up,
};

pub(crate) use given::Given;
