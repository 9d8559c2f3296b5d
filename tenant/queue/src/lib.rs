//! The shards' streams: appending to them, and dead letters.
//!
//! | module | one idea |
//! | --- | --- |
//! | [`appender`] | appending to a shard, and closing it to an org |
//! | [`arrival`] | appending an arrival from another slot of a cluster, once |
//! | [`dlq`] | envelopes that could not be stored |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod appender;
pub mod arrival;
pub mod dlq;
