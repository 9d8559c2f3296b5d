//! The types that all services share. Pure data: no I/O, no client of a store, no HTTP.
//!
//! | module | one idea |
//! | --- | --- |
//! | [`ids`] | the ids of orgs, workspaces, projects, keys and envelopes |
//! | [`trace`] | spans, runs, scores and what belongs to them |
//! | [`meter`] | what is billed, and the month it is billed in |
//! | [`org`] | the states of an org, and the org of a self-hosted deployment |
//! | [`rate`] | rate limits as GCRA sees them |
//! | [`shard`] | the 16 shards, and which is an org's |
//! | [`entry_id`] | the id of a stream's entry |
//! | [`mod@words`] | enums that are words in the database |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod entry_id;
pub mod ids;
pub mod meter;
pub mod org;
pub mod rate;
pub mod shard;
pub mod trace;
pub mod words;
