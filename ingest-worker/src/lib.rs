//! Shards in, ClickHouse inserts out.
//!
//! Which shards are this worker's, [`lease`](::lease) says. Per shard one task ([`shard`]) reads its stream ([`feed`],
//! [`window`]), gathers envelopes ([`batch`]) and has them delivered: what is to be done is [`delivery`](::delivery)'s
//! to say, and `carrier` does it, against Redis ([`stream`]) and ClickHouse, at a [`pace`] that it can follow. What
//! cannot be stored is parked as dead letters, and [`parked`] tells of it; `care` finds what crashes workers. What was
//! written before there were shards, [`legacy`] moves into them. Beside that a worker may have [`roles`].

pub mod arrived;
mod backoff;
pub mod batch;
mod care;
mod carrier;
pub mod config;
#[cfg(debug_assertions)]
mod crash;
mod dead_letter;
pub mod feed;
pub mod health;
pub mod legacy;
pub mod metrics;
pub mod pace;
pub mod parked;
mod persist;
pub mod quota;
pub mod recent;
pub mod roles;
pub mod shard;
pub mod shared;
mod statements;
pub mod stream;
mod waiting;
pub mod window;
