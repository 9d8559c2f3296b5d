//! What to do next when ClickHouse refuses an insert.
//!
//! One table classifies every known error code. A code that is not in it is [`Refusal::Unknown`], and so are codes that
//! either the rows or the connection can cause: the insert is retried some times first, and only then are the rows
//! taken to be the cause.

use Refusal::{Outage, Permanent, Unknown};
use thiserror::Error;
use wire::tables::CLOSED;

/// What to do next after a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// ClickHouse, or the connection to it, does not work at present, or is not set up correctly. The rows are not the
    /// cause, and the same insert will succeed once that is mended: retry for as long as it takes, and delete no entry
    /// meanwhile.
    Outage,
    /// ClickHouse will never accept these bytes: find the envelope that they came from.
    Permanent,
    /// Neither is certain: retry some times, then treat it as permanent.
    Unknown,
    /// The caller's right to insert ended before the last byte was sent. Nothing was stored.
    Abandoned,
}

/// Every known code with its name and class. Sorted by code.
const CODES: [(u32, &str, Refusal); 78] = [
    // A body that ends too early: the rows may be torn, and so may the connection, where something between us and the
    // server passes on what it got.
    (3, "UNEXPECTED_END_OF_FILE", Unknown),
    (6, "CANNOT_PARSE_TEXT", Permanent),
    (8, "THERE_IS_NO_COLUMN", Permanent),
    (9, "SIZES_OF_COLUMNS_DOESNT_MATCH", Permanent),
    // A column, table or database that is not there: the migration has not run, or an older one did. Which of them an
    // insert names is in our own text and never in the rows.
    (16, "NO_SUCH_COLUMN_IN_TABLE", Outage),
    (26, "CANNOT_PARSE_QUOTED_STRING", Permanent),
    (27, "CANNOT_PARSE_INPUT_ASSERTION_FAILED", Permanent),
    (32, "ATTEMPT_TO_READ_AFTER_EOF", Unknown),
    (33, "CANNOT_READ_ALL_DATA", Unknown),
    (38, "CANNOT_PARSE_DATE", Permanent),
    (41, "CANNOT_PARSE_DATETIME", Permanent),
    (50, "UNKNOWN_TYPE", Permanent),
    (53, "TYPE_MISMATCH", Permanent),
    (60, "UNKNOWN_TABLE", Outage),
    (69, "ARGUMENT_OUT_OF_BOUND", Permanent),
    (70, "CANNOT_CONVERT_TYPE", Permanent),
    (72, "CANNOT_PARSE_NUMBER", Permanent),
    // Disk errors.
    (74, "CANNOT_READ_FROM_FILE_DESCRIPTOR", Outage),
    (75, "CANNOT_WRITE_TO_FILE_DESCRIPTOR", Outage),
    (76, "CANNOT_OPEN_FILE", Outage),
    (81, "UNKNOWN_DATABASE", Outage),
    (108, "NO_DATA_TO_INSERT", Permanent),
    (117, "INCORRECT_DATA", Permanent),
    (128, "TOO_LARGE_ARRAY_SIZE", Permanent),
    (131, "TOO_LARGE_STRING_SIZE", Permanent),
    // Time: the server's own limit on an insert, and its overload.
    (159, "TIMEOUT_EXCEEDED", Outage),
    (160, "TOO_SLOW", Outage),
    (164, "READONLY", Outage),
    (173, "CANNOT_ALLOCATE_MEMORY", Outage),
    (190, "SIZES_OF_ARRAYS_DONT_MATCH", Permanent),
    // Credentials and grants: an operator changes them, and can change them back.
    (192, "UNKNOWN_USER", Outage),
    (193, "WRONG_PASSWORD", Outage),
    (194, "REQUIRED_PASSWORD", Outage),
    (195, "IP_ADDRESS_NOT_ALLOWED", Outage),
    (198, "DNS_ERROR", Outage),
    (201, "QUOTA_EXCEEDED", Outage),
    (202, "TOO_MANY_SIMULTANEOUS_QUERIES", Outage),
    (203, "NO_FREE_CONNECTION", Outage),
    (204, "CANNOT_FSYNC", Outage),
    (209, "SOCKET_TIMEOUT", Outage),
    (210, "NETWORK_ERROR", Outage),
    (218, "TABLE_IS_DROPPED", Outage),
    // Errors of a cluster and its Keeper.
    (225, "NO_ZOOKEEPER", Outage),
    (236, "ABORTED", Outage),
    // The server's memory, or the limit on one query: the inserts of many are smaller when they are fewer.
    (241, "MEMORY_LIMIT_EXCEEDED", Outage),
    (242, "TABLE_IS_READ_ONLY", Outage),
    (243, "NOT_ENOUGH_SPACE", Outage),
    (252, "TOO_MANY_PARTS", Outage),
    (254, "NO_ACTIVE_REPLICAS", Outage),
    (279, "ALL_CONNECTION_TRIES_FAILED", Outage),
    (285, "TOO_FEW_LIVE_REPLICAS", Outage),
    (286, "UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE", Outage),
    (291, "DATABASE_ACCESS_DENIED", Outage),
    // Stored or not: a retry with the same token is safe.
    (319, "UNKNOWN_STATUS_OF_INSERT", Outage),
    (321, "VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE", Permanent),
    (349, "CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN", Permanent),
    (394, "QUERY_WAS_CANCELLED", Outage),
    (425, "SYSTEM_ERROR", Outage),
    (439, "CANNOT_SCHEDULE_TASK", Outage),
    // A constraint, except the one of a migration: see `InsertError::new`.
    (VIOLATED_CONSTRAINT, "VIOLATED_CONSTRAINT", Permanent),
    (473, "DEADLOCK_AVOIDED", Outage),
    (497, "ACCESS_DENIED", Outage),
    (499, "S3_ERROR", Outage),
    (516, "AUTHENTICATION_FAILED", Outage),
    // Parts of a table's data that are busy, locked or lost for a while.
    (668, "INVALID_STATE", Outage),
    (691, "UNKNOWN_ELEMENT_OF_ENUM", Permanent),
    (692, "TOO_MANY_MUTATIONS", Outage),
    (700, "USER_SESSION_LIMIT_EXCEEDED", Outage),
    (722, "ASYNC_LOAD_WAIT_FAILED", Outage),
    (734, "CANNOT_WRITE_AFTER_BUFFER_CANCELED", Outage),
    (735, "QUERY_WAS_CANCELLED_BY_CLIENT", Outage),
    (738, "PART_IS_LOCKED", Outage),
    (745, "SERVER_OVERLOADED", Outage),
    // Despite its name a setting, which an operator can set back.
    (774, "TABLE_IS_PERMANENTLY_READ_ONLY", Outage),
    (999, "KEEPER_EXCEPTION", Outage),
    // An exception that ClickHouse does not classify: the disk may be the cause, or the rows.
    (1000, "POCO_EXCEPTION", Unknown),
    (1001, "STD_EXCEPTION", Unknown),
    (1002, "UNKNOWN_EXCEPTION", Unknown),
];

/// A row that the table's constraints refuse.
const VIOLATED_CONSTRAINT: u32 = 469;

/// Every known code, with ClickHouse's name for it and its class.
pub fn known_codes() -> impl Iterator<Item = (u32, &'static str, Refusal)> {
    CODES.into_iter()
}

/// Why an insert or a query failed.
#[derive(Clone, Debug, Error)]
#[error("clickhouse refused {}: {message}", if table.is_empty() { "a ping" } else { table })]
pub struct InsertError {
    table: &'static str,
    code: Option<u32>,
    class: Refusal,
    message: String,
}

impl InsertError {
    pub(super) fn new(table: &'static str, error: &clickhouse::error::Error) -> Self {
        use clickhouse::error::Error;
        let message = error.to_string();
        let code = exception_code(&message);
        let class = match (error, code) {
            // A migration blocks writes to the table for a moment; the same rows succeed afterwards.
            (_, Some(VIOLATED_CONSTRAINT)) if message.contains(CLOSED) => Outage,
            (_, Some(code)) => class_of(code),
            // No code of ClickHouse: the connection failed, or a proxy answered.
            (Error::Network(_) | Error::TimedOut | Error::BadResponse(_), None) => Outage,
            (_, None) => Unknown,
        };
        Self { table, code, class, message }
    }

    /// An error that we detected ourselves, before anything was stored.
    pub(super) const fn ours(table: &'static str, class: Refusal, message: String) -> Self {
        Self { table, code: None, class, message }
    }

    /// ClickHouse's error code; `None` if the error did not come from ClickHouse.
    pub const fn code(&self) -> Option<u32> {
        self.code
    }

    /// What to do next; see [`Refusal`].
    pub const fn refusal(&self) -> Refusal {
        self.class
    }

    /// Whether the same insert will succeed once ClickHouse is well again.
    pub fn is_outage(&self) -> bool {
        self.class == Outage
    }

    /// Whether these bytes will never be accepted.
    pub fn is_permanent(&self) -> bool {
        self.class == Permanent
    }

    /// Whether the caller's right to insert ended first.
    pub fn is_abandoned(&self) -> bool {
        self.class == Refusal::Abandoned
    }
}

fn class_of(code: u32) -> Refusal {
    CODES.binary_search_by_key(&code, |(code, ..)| *code).map_or(Unknown, |at| CODES[at].2)
}

/// The number in `Code: 60. DB::Exception: …`.
fn exception_code(message: &str) -> Option<u32> {
    let (_, after) = message.split_once("Code: ")?;
    let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
    after[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use clickhouse::error::Error;

    use super::*;

    #[test]
    fn codes_are_sorted() {
        assert!(CODES.is_sorted_by(|one, next| one.0 < next.0));
    }

    #[test]
    fn refusals_are_classified() {
        let refused = |text: &str| InsertError::new("span", &Error::BadResponse(text.to_owned()));
        let bad = refused("Code: 117. DB::Exception: Incorrect data. (INCORRECT_DATA) (version 26.7)");
        assert_eq!((bad.code(), bad.refusal()), (Some(117), Permanent));
        assert_eq!(refused("Code: 252. DB::Exception: Too many parts").refusal(), Outage);
        assert_eq!(refused("Code: 33. DB::Exception: Cannot read all data").refusal(), Unknown);
        assert_eq!(refused("Code: 2. DB::Exception: not in the table").refusal(), Unknown);
        let constraint = |name: &str| {
            refused(&format!("Code: 469. DB::Exception: Constraint `{name}` for table d.span (…) is violated at row 1"))
        };
        assert_eq!(constraint("org_is_set").refusal(), Permanent);
        assert_eq!(constraint(CLOSED).refusal(), Outage);
        assert_eq!(refused("502 Bad Gateway").refusal(), Outage);
        assert!(InsertError::new("span", &Error::TimedOut).is_outage());
        assert_eq!(refused("Code: 6").to_string(), "clickhouse refused span: bad response: Code: 6");
    }
}
