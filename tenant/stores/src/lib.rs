//! Access to the shared stores: Redis, Postgres and ClickHouse. What an org may do is decided elsewhere.
//!
//! | module | one idea |
//! | --- | --- |
//! | [`secret`] | values that never reach a log |
//! | [`keys`] | all Redis keys |
//! | [`redis`] | connections to Redis, and whether Redis can be trusted |
//! | [`entries`] | reading entries of a stream, bounded in bytes |
//! | [`postgres`] | the pool of connections to the registry |
//! | [`clickhouse`] | inserts into ClickHouse, and a few queries |
//! | [`clock`] | time, so that tests need not wait |
//!
//! Invariants:
//!
//! - Only [`keys`] contains the text of a Redis key, and only [`clickhouse`] holds a raw client.
//! - Parameters are bound, never formatted into SQL; the names in an insert are in the program's text.
//! - No secret is printed: the types that hold one print `***`.
//! - Every pool, cache and wait has a named limit.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod clickhouse;
pub mod clock;
pub mod entries;
pub mod keys;
pub mod postgres;
pub mod redis;
pub mod secret;
