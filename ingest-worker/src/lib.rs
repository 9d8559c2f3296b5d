//! Shards in, ClickHouse inserts out.
//!
//! Per shard one task ([`shard`]) reads its stream ([`stream`]), gathers envelopes ([`batch`]) and inserts each table's
//! rows as one block; then, and only then, it is done with the entries. Beside that it may have [`roles`].

mod backoff;
pub mod batch;
pub mod config;
pub mod delivery;
pub mod health;
pub mod lease;
pub mod metrics;
pub mod roles;
pub mod shard;
mod statements;
pub mod stream;
pub mod window;
