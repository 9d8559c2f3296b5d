//! From what was sent to an envelope: rows of a request, what follows from them, and our own batch of runs and spans.
//!
//! Here is what both services need, so that neither has to import the other: the API reads requests with it, the worker
//! the JSON envelopes of the legacy stream.
//!
//! | module | one idea |
//! | --- | --- |
//! | [`batch`] | the rows of one request, and the items that are set aside |
//! | [`native`] | our own batch of runs and spans, in JSON |
//! | [`fields`] | a JSON object taken apart without losing anything |
//! | [`instant`] | a time as clients write it in JSON |
//! | [`times`] | times that cannot be true |
//! | [`unique`] | keys that occur again |
//! | [`usage`] | token counts and costs, in the words of every convention |
//! | [`provider`] | names of those who serve models |
//! | [`prices`] | what a call cost, where the client did not say |
//! | [`replay`] | calls as a replayer looks for them |
//! | [`lenient`] | JSON that strict parsers refuse, mended |
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
