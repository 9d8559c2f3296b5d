//! Whether everything that was accepted is somewhere: per org and hour,
//! `accepted = stored + set aside + dead-lettered + in flight`.
//!
//! Each of these is counted where it happens, by whoever does it, and none is computed from another. An item belongs to the hour that
//! its request was received in, on every side. What is missing, or there twice, is a *residue*. `docs/ledger.md` says what each
//! count is and what a residue means.
//!
//! | module | one idea |
//! | --- | --- |
//! | `balance` | the arithmetic, without any I/O |
//! | `books` | reading all counts, in an order in which nothing that moves is missed |
//! | `transit` | what lies in streams, dead letters and parked envelopes |
//! | `watch` | looking again and again, and raising an alarm |

mod balance;
mod books;
mod transit;
mod watch;

pub use balance::{Amounts, Balance, DeadLettered, Row, SetAside, Window};
pub use books::{ASIDE_ORGS_MAX, Books, ROWS_MAX, Whose};
pub use transit::{PAGE_BYTES, SCAN_BYTES_MAX, SCAN_ENTRIES_MAX};
pub use watch::{Report, Residue, SETTLE, WATCHED_HOURS, Watch, residues};

use std::time::Duration;

use redis::RedisError;
use thiserror::Error;

use crate::clickhouse::InsertError;
use crate::dlq::DlqError;
use crate::registry::RegistryError;

/// The most hours that are balanced at once: a week.
pub const HOURS_MAX: u32 = 7 * 24;
/// How long it is remembered what was accepted in an hour: a day longer than it can be asked for.
pub const ACCEPTED_KEPT: Duration = Duration::from_secs((HOURS_MAX as u64 + 24) * 3600);

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
    /// Postgres, where an alarm is written down.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// More orgs and hours than one answer holds.
    #[error(
        "one bucket of orgs has more than {ROWS_MAX} orgs and hours to balance; ask for one org, or for fewer hours"
    )]
    TooMany,
}
