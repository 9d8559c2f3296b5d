//! Whether everything that was accepted is somewhere: per org and hour,
//! `accepted = stored + set aside + dead-lettered + in flight`.
//!
//! Each of these is counted where it happens, by whoever does it, and none is computed from another. An item belongs to
//! the hour that its request was received in, on every side. What is missing, or there twice, is a *residue*.
//! `docs/ledger.md` says what each count is and what a residue means.
//!
//! | module | one idea |
//! | --- | --- |
//! | `balance` | the arithmetic, without any I/O |
//! | `books` | reading all counts, in an order in which nothing that moves is missed |
//! | `filter` | whose items are counted |
//! | `residues` | what the watch remembers |
//! | `transit` | what lies in streams, dead letters and parked envelopes |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod balance;
mod books;
mod filter;
mod residues;
mod transit;

pub use balance::{Amounts, Balance, Bucket, DeadLettered, Row, SetAside, Window};
pub use books::{ASIDE_ORGS_MAX, Books, Look, ROWS_MAX};
pub use filter::Whose;
pub use residues::{Residue, Residues, residues};
pub use transit::{PAGE_BYTES, SCAN_BYTES_MAX, SCAN_ENTRIES_MAX};

use redis::RedisError;
use thiserror::Error;

use queue::dlq::DlqError;
use stores::clickhouse::InsertError;

/// The most hours that are balanced at once: a week.
pub const HOURS_MAX: u32 = 7 * 24;

/// Why there is no balance.
#[derive(Debug, Error)]
pub enum LedgerError {
    /// Redis.
    #[error("redis: {0}")]
    Redis(#[from] RedisError),
    /// The dead letters.
    #[error(transparent)]
    DeadLetters(#[from] DlqError),
    /// ClickHouse.
    #[error(transparent)]
    Clickhouse(#[from] InsertError),
    /// More orgs and hours than one answer holds.
    #[error(
        "one bucket of orgs has more than {ROWS_MAX} orgs and hours to balance; ask for one org, or for fewer hours"
    )]
    TooMany,
}
