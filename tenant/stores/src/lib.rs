//! The only doors to shared stores. What an org may do is decided elsewhere.
//!
//! | module | one idea |
//! | --- | --- |
//! | [`secret`] | values that never reach a log |
//! | [`keys`] | every Redis key there is |
//! | [`redis`] | connections to Redis, and whether it can be trusted |
//! | [`entries`] | reading entries of a stream, bounded in bytes |
//! | [`postgres`] | the pool of connections to the registry |
//! | [`clickhouse`] | the door through which rows enter ClickHouse |
//! | [`clock`] | time, so that tests need not wait |
//!
//! Invariants:
//!
//! - No other module than [`keys`] spells a Redis key, and no other than [`clickhouse`] holds a raw client.
//! - Parameters are bound, never formatted into SQL; the names in an insert are in the program's text.
//! - No secret is printed: those types print `***`.
//! - Every pool, cache and wait has a named limit.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod clickhouse;
pub mod clock;
pub mod entries;
pub mod keys;
pub mod postgres;
pub mod redis;
pub mod secret;
