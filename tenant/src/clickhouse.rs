//! The door through which rows enter ClickHouse, and the only holder of a raw client among the services. The few questions
//! that services ask beside ingest are [`Records`].
//!
//! An insert is one Native block under a deduplication token. ClickHouse compares tokens per block, so what makes a
//! retry harmless is that the same token always comes with the same bytes in one block: [`Inserter`] refuses bodies that
//! the server would split.

// This is the one place that the ban points to.
#![allow(clippy::disallowed_types)]

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use clickhouse::Client;
use percent_encoding::percent_decode_str;
use schema::migrate::CLOSED;
use thiserror::Error;
use url::Url;

use crate::secret::{Secret, SecretUrl};

mod records;

pub use records::{AuditRow, Billed, Gap, NAMES_MAX, QUERY_DEADLINE, Records};

/// How long one insert may take from its first byte to the server's answer.
pub const INSERT_DEADLINE: Duration = Duration::from_secs(60);
/// How long a ping may take.
pub const PING_DEADLINE: Duration = Duration::from_secs(2);
/// The most rows in one insert; above `min_insert_block_size_rows` (1 048 449) the server cuts a body into blocks.
pub const INSERT_ROWS_MAX: u64 = 1_000_000;
/// The most bytes in one insert; above `min_insert_block_size_bytes` (256 MiB) the server cuts a body into blocks.
pub const INSERT_BYTES_MAX: usize = 250_000_000;

/// Where ClickHouse is: `http://user:password@host:8123/database`. User and password are percent-decoded.
#[derive(Clone)]
pub struct ClickHouseUrl {
    endpoint: String,
    user: String,
    password: Secret<String>,
    database: String,
    printable: SecretUrl,
}

/// Why a text is not a [`ClickHouseUrl`]. Never repeats the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ClickHouseUrlError {
    /// No URL at all.
    #[error("is not a URL of the form http://user:password@host:8123/database: {0}")]
    Syntax(#[from] url::ParseError),
    /// Another scheme, for example that of the native protocol.
    #[error("must start with http://; it is the HTTP interface that is used, port 8123 by default")]
    Scheme,
    /// Nothing between `//` and the path.
    #[error("names no host")]
    Host,
    /// No database, or one that would need quoting.
    #[error("must end in a database of letters, digits and _, as in http://host:8123/tracebility")]
    Database,
    /// Settings belong to the server's profile, not here.
    #[error("must not carry a query or a fragment")]
    Query,
    /// A percent sign that starts no valid UTF-8.
    #[error("has a user or password that is not percent-encoded UTF-8")]
    Encoding,
}

impl FromStr for ClickHouseUrl {
    type Err = ClickHouseUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url = Url::parse(text)?;
        if url.scheme() != "http" {
            return Err(ClickHouseUrlError::Scheme);
        }
        let Some(host) = url.host_str() else { return Err(ClickHouseUrlError::Host) };
        if url.query().is_some() || url.fragment().is_some() {
            return Err(ClickHouseUrlError::Query);
        }
        let database = url.path().trim_matches('/');
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if database.is_empty() || !database.chars().all(plain) {
            return Err(ClickHouseUrlError::Database);
        }
        let decode = |text: &str| {
            percent_decode_str(text).decode_utf8().map(String::from).map_err(|_| ClickHouseUrlError::Encoding)
        };
        Ok(Self {
            endpoint: format!("http://{host}:{}/", url.port().unwrap_or(8123)),
            user: decode(url.username())?,
            password: Secret::new(decode(url.password().unwrap_or_default())?),
            database: database.to_owned(),
            printable: SecretUrl::new(url),
        })
    }
}

impl ClickHouseUrl {
    /// The database's name.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// A raw client. Only this module and the scoped reader may hold one.
    pub(crate) fn client(&self) -> Client {
        let client = Client::default()
            .with_url(&self.endpoint)
            .with_database(&self.database)
            .with_compression(clickhouse::Compression::None);
        if self.user.is_empty() {
            return client;
        }
        client.with_user(&self.user).with_password(self.password.expose())
    }
}

impl fmt::Display for ClickHouseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.printable.fmt(f)
    }
}

impl fmt::Debug for ClickHouseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.printable.fmt(f)
    }
}

/// `INSERT INTO table (columns) FORMAT Native`, made of names that are in the program's text, so that nothing from
/// outside can become SQL.
#[derive(Clone, Debug)]
pub struct InsertStatement {
    table: &'static str,
    sql: String,
}

impl InsertStatement {
    /// The statement that inserts those columns, in that order.
    pub fn new(table: &'static str, columns: impl IntoIterator<Item = &'static str>) -> Self {
        let columns: Vec<String> = columns.into_iter().map(|name| format!("`{name}`")).collect();
        Self { table, sql: format!("INSERT INTO `{table}` ({}) FORMAT Native", columns.join(", ")) }
    }

    /// The table's name.
    pub const fn table(&self) -> &'static str {
        self.table
    }
}

/// Inserts ready-made Native blocks.
#[derive(Clone)]
pub struct Inserter {
    client: Client,
}

impl fmt::Debug for Inserter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The client holds the password.
        f.write_str("Inserter")
    }
}

impl Inserter {
    /// An inserter. No I/O happens here; connections are made, kept and reused as inserts need them.
    pub fn new(url: &ClickHouseUrl) -> Self {
        let client = url
            .client()
            .with_setting("async_insert", "0")
            .with_setting("optimize_on_insert", "0")
            .with_setting("insert_deduplicate", "1")
            // The status line is sent when the insert is done, not when it starts.
            .with_setting("wait_end_of_query", "1");
        Self { client }
    }

    /// Inserts one Native block of `rows` rows, given in pieces, and waits until ClickHouse has stored it. When the same
    /// `token` was stored in this table before, ClickHouse drops the block and this succeeds.
    ///
    /// Fails after [`INSERT_DEADLINE`]. A failure does not say that nothing was stored: repeat with the same token and
    /// the same bytes until it succeeds.
    pub async fn insert_native(
        &self,
        statement: &InsertStatement,
        token: &str,
        pieces: &[Bytes],
        rows: u64,
    ) -> Result<(), InsertError> {
        let bytes: usize = pieces.iter().map(Bytes::len).sum();
        let refuse =
            |message| Err(InsertError { table: statement.table, code: None, class: Refusal::Permanent, message });
        if rows > INSERT_ROWS_MAX || bytes > INSERT_BYTES_MAX {
            return refuse(format!(
                "{rows} rows in {bytes} bytes are more than one block holds ({INSERT_ROWS_MAX} rows, {INSERT_BYTES_MAX} bytes)"
            ));
        }
        if bytes == 0 {
            // The client would send no request at all and call that a success.
            return refuse("a block of no bytes".to_owned());
        }
        let mut insert = self
            .client
            .insert_formatted_with(statement.sql.as_str())
            .with_setting("insert_deduplication_token", token)
            .with_timeouts(Some(INSERT_DEADLINE), Some(INSERT_DEADLINE));
        // The body is chunked, and only `end` sends its last chunk: a send that fails half-way cannot end in a shorter body
        // that still parses.
        let sent = async {
            for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
                insert.send(piece.clone()).await?;
            }
            insert.end().await
        };
        sent.await.map_err(|error| InsertError::new(statement.table, &error))
    }

    /// Whether ClickHouse answers a query, within [`PING_DEADLINE`].
    pub async fn ping(&self) -> Result<(), InsertError> {
        match tokio::time::timeout(PING_DEADLINE, self.client.query("SELECT 1 FORMAT Null").execute()).await {
            Ok(answer) => answer.map_err(|error| InsertError::new("", &error)),
            Err(_elapsed) => Err(InsertError::new("", &clickhouse::error::Error::TimedOut)),
        }
    }
}

/// What a refusal says about what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// ClickHouse, or the way to it, does not work now: the same insert will succeed later.
    Outage,
    /// These bytes will never be accepted.
    Permanent,
    /// Not known to be either.
    Unknown,
}

/// Why an insert, or a ping, failed.
#[derive(Clone, Debug, Error)]
#[error("clickhouse refused {}: {message}", if table.is_empty() { "a ping" } else { table })]
pub struct InsertError {
    table: &'static str,
    code: Option<u32>,
    class: Refusal,
    message: String,
}

/// A row that the table's constraints refuse.
const VIOLATED_CONSTRAINT: u32 = 469;

/// Codes that say that these bytes are wrong, whoever sends them and whenever.
const PERMANENT_CODES: [u32; 21] = [
    6,   // CANNOT_PARSE_TEXT
    9,   // SIZES_OF_COLUMNS_DOESNT_MATCH
    26,  // CANNOT_PARSE_QUOTED_STRING
    27,  // CANNOT_PARSE_INPUT_ASSERTION_FAILED
    32,  // ATTEMPT_TO_READ_AFTER_EOF
    33,  // CANNOT_READ_ALL_DATA
    41,  // CANNOT_PARSE_DATETIME
    50,  // UNKNOWN_TYPE
    53,  // TYPE_MISMATCH
    69,  // ARGUMENT_OUT_OF_BOUND
    70,  // CANNOT_CONVERT_TYPE
    72,  // CANNOT_PARSE_NUMBER
    108, // NO_DATA_TO_INSERT
    117, // INCORRECT_DATA
    128, // TOO_LARGE_ARRAY_SIZE
    131, // TOO_LARGE_STRING_SIZE
    190, // SIZES_OF_ARRAYS_DONT_MATCH
    321, // VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
    349, // CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN
    VIOLATED_CONSTRAINT,
    691, // UNKNOWN_ELEMENT_OF_ENUM
];

/// Codes that say that the server cannot store anything now: overload, lost parts of a cluster, a table that is read-only
/// or not there yet, credentials that were changed. None of them is the data's fault.
const OUTAGE_CODES: [u32; 28] = [
    16,  // NO_SUCH_COLUMN_IN_TABLE: the migration has not run
    60,  // UNKNOWN_TABLE: the migration has not run
    81,  // UNKNOWN_DATABASE
    159, // TIMEOUT_EXCEEDED
    164, // READONLY
    192, // UNKNOWN_USER
    193, // WRONG_PASSWORD
    194, // REQUIRED_PASSWORD
    201, // QUOTA_EXCEEDED
    202, // TOO_MANY_SIMULTANEOUS_QUERIES
    209, // SOCKET_TIMEOUT
    210, // NETWORK_ERROR
    225, // NO_ZOOKEEPER
    236, // ABORTED
    241, // MEMORY_LIMIT_EXCEEDED
    242, // TABLE_IS_READ_ONLY
    243, // NOT_ENOUGH_SPACE
    252, // TOO_MANY_PARTS
    279, // ALL_CONNECTION_TRIES_FAILED
    285, // TOO_FEW_LIVE_REPLICAS
    319, // UNKNOWN_STATUS_OF_INSERT
    394, // QUERY_WAS_CANCELLED
    425, // SYSTEM_ERROR
    439, // CANNOT_SCHEDULE_TASK
    497, // ACCESS_DENIED
    499, // S3_ERROR
    516, // AUTHENTICATION_FAILED
    999, // KEEPER_EXCEPTION
];

impl InsertError {
    fn new(table: &'static str, error: &clickhouse::error::Error) -> Self {
        use clickhouse::error::Error;
        let message = error.to_string();
        let code = exception_code(&message);
        let class = match (error, code) {
            // A migration holds the table's writers up for a moment; the same rows will do afterwards.
            (_, Some(VIOLATED_CONSTRAINT)) if message.contains(CLOSED) => Refusal::Outage,
            (_, Some(code)) if PERMANENT_CODES.contains(&code) => Refusal::Permanent,
            (_, Some(code)) if OUTAGE_CODES.contains(&code) => Refusal::Outage,
            (_, Some(_)) => Refusal::Unknown,
            // Nothing of ClickHouse's own in it: the connection, or a proxy's answer.
            (Error::Network(_) | Error::TimedOut | Error::BadResponse(_), None) => Refusal::Outage,
            (_, None) => Refusal::Unknown,
        };
        Self { table, code, class, message }
    }

    /// ClickHouse's error code, when it was ClickHouse that answered.
    pub const fn code(&self) -> Option<u32> {
        self.code
    }

    /// What to do next.
    pub const fn refusal(&self) -> Refusal {
        self.class
    }

    /// Whether the same insert will succeed once ClickHouse is well again.
    pub fn is_outage(&self) -> bool {
        self.class == Refusal::Outage
    }

    /// Whether these bytes will never be accepted.
    pub fn is_permanent(&self) -> bool {
        self.class == Refusal::Permanent
    }
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
    fn a_url_is_taken_apart_and_printed_without_its_password() {
        let url: ClickHouseUrl = "http://wr%40iter:p%3Aw@ch.example/tracebility".parse().unwrap();
        assert_eq!(url.endpoint, "http://ch.example:8123/");
        assert_eq!((url.user.as_str(), url.password.expose().as_str()), ("wr@iter", "p:w"));
        assert_eq!(url.database(), "tracebility");
        assert_eq!(format!("{url} {url:?}"), "http://wr%40iter:***@ch.example/tracebility ".repeat(2).trim_end());
    }

    #[test]
    fn a_wrong_url_says_what_is_wrong() {
        let parse = |text: &str| text.parse::<ClickHouseUrl>().unwrap_err();
        assert!(matches!(parse("ch:"), ClickHouseUrlError::Scheme));
        assert!(matches!(parse("hunter2"), ClickHouseUrlError::Syntax(_)));
        assert_eq!(parse("https://u:hunter2@h/db"), ClickHouseUrlError::Scheme);
        assert_eq!(parse("http://h:8123"), ClickHouseUrlError::Database);
        assert_eq!(parse("http://h:8123/a-b"), ClickHouseUrlError::Database);
        assert_eq!(parse("http://h:8123/db?x=1"), ClickHouseUrlError::Query);
        assert_eq!(parse("http://u:%ff@h:8123/db"), ClickHouseUrlError::Encoding);
    }

    #[test]
    fn a_statement_names_its_columns() {
        let statement = InsertStatement::new("span", ["org_id", "trace_id"]);
        assert_eq!(statement.sql, "INSERT INTO `span` (`org_id`, `trace_id`) FORMAT Native");
    }

    #[test]
    fn refusals_are_classified() {
        let refused = |text: &str| InsertError::new("span", &Error::BadResponse(text.to_owned()));
        let bad = refused("Code: 117. DB::Exception: Incorrect data. (INCORRECT_DATA) (version 26.7)");
        assert_eq!((bad.code(), bad.refusal()), (Some(117), Refusal::Permanent));
        assert_eq!(refused("Code: 252. DB::Exception: Too many parts").refusal(), Refusal::Outage);
        assert_eq!(refused("Code: 1001. DB::Exception: std").refusal(), Refusal::Unknown);
        let constraint = |name: &str| {
            refused(&format!("Code: 469. DB::Exception: Constraint `{name}` for table d.span (…) is violated at row 1"))
        };
        assert_eq!(constraint("org_is_set").refusal(), Refusal::Permanent);
        assert_eq!(constraint(CLOSED).refusal(), Refusal::Outage);
        assert_eq!(refused("502 Bad Gateway").refusal(), Refusal::Outage);
        assert!(InsertError::new("span", &Error::TimedOut).is_outage());
        assert_eq!(refused("Code: 6").to_string(), "clickhouse refused span: bad response: Code: 6");
    }

    #[tokio::test]
    async fn what_would_be_split_is_refused() {
        let inserter = Inserter::new(&"http://127.0.0.1:1/db".parse().unwrap());
        let statement = InsertStatement::new("span", ["org_id"]);
        let error = inserter.insert_native(&statement, "t", &[], INSERT_ROWS_MAX + 1).await.unwrap_err();
        assert!(error.is_permanent(), "{error}");
        let error = inserter.insert_native(&statement, "t", &[Bytes::new()], 1).await.unwrap_err();
        assert!(error.is_permanent(), "nothing was sent, so nothing was stored: {error}");
        let error = inserter.insert_native(&statement, "t", &[Bytes::from_static(b"x")], 1).await.unwrap_err();
        assert!(error.is_outage() && error.code().is_none(), "{error}");
    }
}
