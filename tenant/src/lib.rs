//! Policy, and the only doors to shared stores. Knows nothing of HTTP.
//!
//! | module | one idea |
//! | --- | --- |
//! | [`settings`] | how a program reads its `TRACEBILITY_*` settings |
//! | [`mode`] | for customers, or self-hosted |
//! | [`secret`] | values that never reach a log |
//! | [`api_key`] | the form of an API key, and its hash |
//! | [`resolver`] | from a presented key to a [`TenantContext`] |
//! | [`context`] | who a request is from and what its org may do |
//! | [`admission`] | whether a request may pass: rates and monthly limits |
//! | [`outcome`] | what became of every item |
//! | [`ledger`] | whether everything that was accepted is somewhere |
//! | [`eval`] | how many evaluations of an org run at the same time |
//! | [`shard`] | which stream an org's envelopes go to |
//! | [`entries`] | reading entries of a stream, bounded in bytes |
//! | [`invalidate`] | announcing that keys must be looked up anew |
//! | [`keys`] | every Redis key there is |
//! | [`redis`] | connections to Redis, and whether it can be trusted |
//! | [`postgres`] | the pool of connections to the registry |
//! | [`clickhouse`] | the door through which rows enter ClickHouse |
//! | [`envelope_key`] | the key under which envelopes are written and read |
//! | [`dlq`] | envelopes that could not be stored |
//! | [`legacy`] | envelopes that were written before tenancy |
//! | [`flags`] | switches that are flipped while the services run |
//! | [`audit`] | what was done, by whom: told, copied, and looked for |
//! | [`quota`] | accepted data of orgs that are over a monthly limit |
//! | [`reconcile`] | monthly usage, summed up from what is billed |
//! | [`registry`] | orgs, projects, limits and keys: what there is, and how it changes |
//! | [`service`] | what every service does the same way at its start and end |
//! | [`words`] | enums that are words in the database |
//! | [`clock`] | time, so that tests need not wait |
//!
//! Invariants:
//!
//! - Only the resolver makes a [`TenantContext`] (a `compile_fail` example in [`context`]).
//! - No other module than [`keys`] spells a Redis key, and no other than [`clickhouse`] holds a raw client.
//! - No other module than [`registry`] begins a transaction on Postgres: each is bound to one org (`clippy.toml`).
//! - Parameters are bound, never formatted into SQL; the names in an insert are in the program's text.
//! - No secret is printed: those types print `***`.
//! - Every pool, cache and wait has a named limit.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod admission;
pub mod api_key;
pub mod audit;
pub mod clickhouse;
pub mod clock;
pub mod dlq;
pub mod entries;
pub mod envelope_key;
pub mod eval;
pub mod flags;
pub mod http_path;
pub mod invalidate;
pub mod keys;
pub mod ledger;
pub mod legacy;
pub mod mode;
pub mod outcome;
pub mod postgres;
pub mod quota;
pub mod reconcile;
pub mod redis;
pub mod registry;
pub mod resolver;
pub mod secret;
pub mod service;
pub mod settings;
pub mod shard;
pub mod words;

pub use resolver::context::TenantContext;
pub use resolver::{ResolveError, Resolver, context};
