//! Checks that no accepted item is lost or doubled: per org and hour, `accepted = stored + withheld + dead-lettered +
//! in flight`.
//!
//! Each of these is counted independently, by the code that performs the step, and none is computed from another. Every
//! count assigns an item to the hour in which its request was received. A difference is an *imbalance*.
//! `docs/operations/ledger.md` describes each count and what an imbalance means.
//!
//! | module | one idea |
//! | --- | --- |
//! | `balance` | the arithmetic, without any I/O |
//! | `reader` | reading all counts, in an order that misses no moving item |
//! | `filter` | which orgs' items are counted |
//! | `imbalances` | the imbalances that the watch has stored |
//! | `transit` | counting items in streams, dead letters and parked envelopes |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod balance;
mod filter;
mod imbalances;
mod reader;
mod transit;

pub use balance::{Amounts, Balance, Bucket, DeadLettered, Hours, Row, Withheld};
pub use filter::Scope;
pub use imbalances::{Imbalance, Imbalances, imbalances};
pub use reader::{Check, LedgerReader, ROWS_MAX, WITHHELD_ORGS_MAX};
pub use transit::{PAGE_BYTES, SCAN_BYTES_MAX, SCAN_ENTRIES_MAX};

use redis::RedisError;
use thiserror::Error;

use queue::dlq::DlqError;
use stores::clickhouse::InsertError;

/// The most hours in one balance: a week.
pub const HOURS_MAX: u32 = 7 * 24;

/// Why the ledger could not be balanced.
#[derive(Debug, Error)]
pub enum LedgerError {
    /// Redis, which has the streams and what was accepted, did not answer or refused.
    #[error("redis: {0}")]
    Redis(#[from] RedisError),
    /// Reading the dead letters failed.
    #[error(transparent)]
    DeadLetters(#[from] DlqError),
    /// ClickHouse, which has the stored rows, did not answer or refused.
    #[error(transparent)]
    Clickhouse(#[from] InsertError),
    /// More orgs and hours than one balance can hold.
    #[error(
        "one bucket of orgs has more than {ROWS_MAX} orgs and hours to balance; ask for one org, or for fewer hours"
    )]
    TooMany,
}
