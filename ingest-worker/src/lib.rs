//! Reads envelopes from the shards and inserts their rows into ClickHouse.
//!
//! The [`lease`] decides which shards this worker owns. Each shard has one task ([`shard`]). It reads the
//! shard's stream ([`reader`]) into a [`fair_queue`] and gathers envelopes into a [`batch`]. [`delivery`]
//! decides the steps in which the batch is delivered, and `deliverer` carries them out against Redis ([`stream`]) and
//! ClickHouse, no faster than the [`insert_throttle`] allows. Entries that cannot be stored become dead letters, and
//! [`dead_letter_notes`] writes them to the audit trail. `crash_recovery` finds entries that crash workers. [`legacy`]
//! moves the stream from before tenancy into the shards. Beside its shards, a worker may do [`background_jobs`].

pub mod arrived;
pub mod background_jobs;
mod backoff;
pub mod batch;
pub mod config;
#[cfg(debug_assertions)]
mod crash;
mod crash_recovery;
mod dead_letter;
pub mod dead_letter_notes;
mod deliverer;
pub mod fair_queue;
pub mod health;
pub mod insert_throttle;
pub mod legacy;
pub mod metrics;
mod persist;
pub mod quota;
pub mod reader;
pub mod recent;
pub mod shard;
pub mod shared;
mod statements;
pub mod stream;
mod waiting;
