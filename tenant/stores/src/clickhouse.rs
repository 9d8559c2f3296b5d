//! The only way to insert rows into ClickHouse; no other module of the services holds a raw client. The few queries
//! that services send, apart from ingest, are in [`Records`].
//!
//! An insert is one Native block under a deduplication token. ClickHouse compares tokens per block, so what makes a
//! retry harmless is that the same token always comes with the same bytes in one block: [`Inserter`] refuses bodies
//! that the server would split.

// This is the one place that the ban points to.
#![allow(clippy::disallowed_types)]

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clickhouse::Client;
use clickhouse::error::Error;
use percent_encoding::percent_decode_str;
use thiserror::Error;
use url::Url;

use crate::secret::{Secret, SecretUrl};

mod parts;
mod records;
mod refusal;
mod tally;

pub use parts::FullestPartition;
pub use records::{AuditGap, AuditRow, Billed, NAMES_MAX, QUERY_DEADLINE, Records};
pub use refusal::{InsertError, Refusal, known_codes};
pub use tally::{OrgTally, Tally, TallyOf};

/// How long one insert may take from its first byte to the server's answer.
pub const INSERT_DEADLINE: Duration = Duration::from_secs(60);
/// How long the server may work on one insert, counted from its head. Less than [`INSERT_DEADLINE`], so that usually
/// the server gives up before its client does.
pub const SERVER_DEADLINE: Duration = Duration::from_secs(55);
/// How long the server may wait for other replicas; less than [`SERVER_DEADLINE`], which does not end that wait.
pub const QUORUM_DEADLINE: Duration = Duration::from_secs(45);
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
    /// The text is not a URL.
    #[error("is not a URL of the form http://user:password@host:8123/database: {0}")]
    Syntax(#[from] url::ParseError),
    /// A scheme other than HTTP, for example that of the native protocol.
    #[error("must start with http://; it is the HTTP interface that is used, port 8123 by default")]
    Scheme,
    /// The URL has no host.
    #[error("names no host")]
    Host,
    /// The URL has no database, or one that would need quoting.
    #[error("must end in a database of letters, digits and _, as in http://host:8123/tracebility")]
    Database,
    /// The URL has a query. Settings belong in the server's profile.
    #[error("must not carry a query or a fragment")]
    Query,
    /// A percent sign that does not start valid UTF-8.
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
    /// The name of the database, from the URL's path.
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

/// `INSERT INTO table (columns) FORMAT Native`. All names are constants of the program, so that no outside text can
/// become SQL.
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

    /// The name of the table that the statement inserts into.
    pub const fn table(&self) -> &'static str {
        self.table
    }
}

/// Inserts ready-made Native blocks.
///
/// **An insert can land after its client has given up**, because its last byte may be on its way or in the server's
/// hands: closing the connection does not stop it. What ends it is [`SERVER_DEADLINE`]. The server looks at its clock
/// between the steps of an insert and not within one; a step that is late stores nothing. So an insert can land up to
/// [`INSERT_DEADLINE`] + [`SERVER_DEADLINE`] after its first attempt began, while others have inserted the same token
/// and gone on. It is dropped as long as the table remembers the token: its deduplication window must hold more blocks
/// than all workers together insert into the table in that time, one per partition and insert.
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
            .with_setting("max_execution_time", SERVER_DEADLINE.as_secs().to_string())
            // A column that the statement does not name would be skipped without a word.
            .with_setting("input_format_skip_unknown_fields", "0")
            // The status line is sent when the insert is done, not when it starts.
            .with_setting("wait_end_of_query", "1");
        Self { client }
    }

    /// The same, for replicated tables: an insert succeeds once `replicas` replicas have it. 0 uses the server's
    /// setting. Tables that are not replicated ignore it.
    #[must_use]
    pub fn with_quorum(self, replicas: u64) -> Self {
        if replicas == 0 {
            return self;
        }
        let client = self
            .client
            .with_setting("insert_quorum", replicas.to_string())
            // One insert does not wait for the others of its table.
            .with_setting("insert_quorum_parallel", "1")
            .with_setting("insert_quorum_timeout", QUORUM_DEADLINE.as_millis().to_string());
        Self { client }
    }

    /// Inserts one Native block of `rows` rows, given in pieces, and waits until ClickHouse has stored it. When the
    /// same `token` was stored in this table before, ClickHouse drops the block and this succeeds.
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
        self.insert_native_while(statement, token, pieces, rows, || true).await
    }

    /// The same for a caller that may lose the right to insert: calls `still` before each piece and before the end of
    /// the body, without which nothing is stored. When `still` returns false, the insert ends as
    /// [`Refusal::Abandoned`].
    pub async fn insert_native_while(
        &self,
        statement: &InsertStatement,
        token: &str,
        pieces: &[Bytes],
        rows: u64,
        still: impl Fn() -> bool,
    ) -> Result<(), InsertError> {
        let table = statement.table;
        let bytes: usize = pieces.iter().map(Bytes::len).sum();
        let refuse = |message| Err(InsertError::ours(table, Refusal::Permanent, message));
        if rows > INSERT_ROWS_MAX || bytes > INSERT_BYTES_MAX {
            return refuse(format!(
                "{rows} rows in {bytes} bytes are more than one block holds ({INSERT_ROWS_MAX} rows, {INSERT_BYTES_MAX} bytes)"
            ));
        }
        if bytes == 0 {
            // The client would send no request at all and call that a success.
            return refuse("a block of no bytes".to_owned());
        }
        let abandon = || Err(InsertError::ours(table, Refusal::Abandoned, "the right to insert has ended".to_owned()));
        let failed = |error: Error| InsertError::new(table, &error);
        let give_up = Instant::now() + INSERT_DEADLINE;
        // The body is chunked, and only `end` sends its last chunk: a send that fails half-way, or is given up here,
        // cannot end in a shorter body that still parses. An insert that is dropped before closes its connection.
        let mut insert =
            self.client.insert_formatted_with(statement.sql.as_str()).with_setting("insert_deduplication_token", token);
        for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
            if !still() {
                return abandon();
            }
            let sent = tokio::time::timeout_at(give_up.into(), insert.send(piece.clone())).await;
            sent.unwrap_or(Err(Error::TimedOut)).map_err(failed)?;
        }
        if !still() {
            return abandon();
        }
        let left = give_up.saturating_duration_since(Instant::now());
        insert.with_timeouts(None, Some(left)).end().await.map_err(failed)
    }

    /// Whether ClickHouse answers a query, within [`PING_DEADLINE`].
    pub async fn ping(&self) -> Result<(), InsertError> {
        match tokio::time::timeout(PING_DEADLINE, self.client.query("SELECT 1 FORMAT Null").execute()).await {
            Ok(answer) => answer.map_err(|error| InsertError::new("", &error)),
            Err(_elapsed) => Err(InsertError::new("", &Error::TimedOut)),
        }
    }
}

#[cfg(test)]
mod tests {
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

    /// The head of the insert that it sends.
    async fn sent_by(with: impl FnOnce(Inserter) -> Inserter) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://u:p@{}/db", listener.local_addr().unwrap());
        let inserter = with(Inserter::new(&url.parse().unwrap()));
        let statement = InsertStatement::new("span", ["org_id"]);
        let insert = tokio::spawn(async move {
            // The test's server never answers.
            inserter.insert_native(&statement, "t", &[Bytes::from_static(b"x")], 1).await.unwrap_err()
        });
        let (mut connection, _) = listener.accept().await.unwrap();
        let mut head = vec![0; 4096];
        let read = tokio::io::AsyncReadExt::read(&mut connection, &mut head).await.unwrap();
        drop(connection);
        insert.await.unwrap();
        String::from_utf8_lossy(&head[..read]).into_owned()
    }

    #[tokio::test]
    async fn a_quorum_is_asked_for_only_when_it_is_set_and_ends_before_the_insert_does() {
        let usual = sent_by(|inserter| inserter.with_quorum(0)).await;
        assert!(usual.contains("insert_deduplication_token=t") && !usual.contains("quorum"), "{usual}");
        let quorum = sent_by(|inserter| inserter.with_quorum(2)).await;
        // The client sends the settings in any order, so any of them can be the last.
        for setting in ["insert_quorum=2", "insert_quorum_parallel=1", "insert_quorum_timeout=45000"] {
            let is_set = quorum.split(['?', '&', ' ']).any(|parameter| parameter == setting);
            assert!(is_set, "{setting}: {quorum}");
        }
        assert!(QUORUM_DEADLINE < SERVER_DEADLINE);
    }

    #[tokio::test]
    async fn an_insert_that_clickhouse_would_split_is_refused() {
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
