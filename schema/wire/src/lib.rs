//! The bytes of rows: rows as columns, columns in an envelope, envelopes in a block that ClickHouse takes unchanged.
//!
//! | module | one idea |
//! | --- | --- |
//! | [`columns`] | rows written column by column |
//! | [`tables`] | the tables that are filled, and their columns |
//! | [`envelope`] | one accepted request's rows, as appended to a shard's stream |
//! | [`block`] | envelopes of one table as one insert |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod block;
pub mod columns;
pub mod envelope;
pub mod tables;
