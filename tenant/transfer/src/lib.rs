//! Moving orgs between shards.
//!
//! | module | one idea |
//! | --- | --- |
//! | [`moving`] | the steps of a move |
//! | [`plan`] | which moves would even out the shards |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod moving;
pub mod plan;
