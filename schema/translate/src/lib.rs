//! Translates requests into envelopes: the rows of a request, the rows that follow from them, and our own batch of runs
//! and spans.
//!
//! This crate has what both services need, so that neither imports the other: `ingest-api` reads requests with it, and
//! `ingest-worker` reads the JSON envelopes of the legacy stream.
//!
//! | module | one idea |
//! | --- | --- |
//! | [`batch`] | the rows of one request, and its rejected items |
//! | [`native`] | our own batch of runs and spans, in JSON |
//! | [`fields`] | a JSON object read field by field, without losing any |
//! | [`instant`] | a time as clients write it in JSON |
//! | [`times`] | times that cannot be true |
//! | [`unique`] | keys that occur again |
//! | [`usage`] | token counts and costs, by the names of every convention |
//! | [`provider`] | names of model providers |
//! | [`prices`] | the cost of a call, where the client did not send it |
//! | [`replay`] | calls in the form in which a replayer looks for them |
//! | [`lenient`] | JSON that strict parsers refuse, repaired |
//! | [`json_text`] | writing JSON |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod batch;
mod canonical;
pub mod fields;
pub mod instant;
pub mod json_text;
pub mod lenient;
pub mod native;
pub mod prices;
pub mod provider;
pub mod replay;
pub mod times;
pub mod unique;
pub mod usage;
