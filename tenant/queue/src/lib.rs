//! The shards' streams: what is appended to them, and what ends as a dead letter.
//!
//! | module | one idea |
//! | --- | --- |
//! | [`fence`] | appending to a shard, and closing it to an org |
//! | [`arrival`] | appending what comes from another slot of a cluster, once |
//! | [`dlq`] | envelopes that could not be stored |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod arrival;
pub mod dlq;
pub mod fence;
