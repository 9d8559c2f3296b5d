//! Sends statements to ClickHouse one after the other, each only while this process holds the lock.

// Migrations change whole tables; no rows of single orgs pass through here.
#![allow(clippy::disallowed_types)]

use std::time::Duration;

use clickhouse::query::Query;
use clickhouse::{Client, RowOwned, RowRead};
use thiserror::Error;

use super::{MigrateError, Options, cluster, postgres};

/// How long the server lets one statement run. Copying is cut into statements of a few seconds.
const STATEMENT_TIME_MAX: Duration = Duration::from_secs(3600);

/// Why a statement was not executed.
#[derive(Debug, Error)]
pub(super) enum Failure {
    /// The lock is lost: another process may be migrating by now, so nothing more is sent.
    #[error(transparent)]
    LockLost(Box<MigrateError>),
    /// The message of the server, or of the connection to it.
    #[error("{0}")]
    Server(String),
}

impl From<clickhouse::error::Error> for Failure {
    fn from(error: clickhouse::error::Error) -> Self {
        Self::Server(error.to_string())
    }
}

/// A parameter of a statement: its name and its value, as text.
pub(super) type Parameter = (String, String);

/// A connection to the database that is migrated, together with the lock for it.
pub(super) struct Session<'a> {
    client: Client,
    options: &'a Options,
    lock: &'a mut postgres::Database,
}

impl<'a> Session<'a> {
    /// `client` must have its database set.
    pub(super) fn new(client: Client, options: &'a Options, lock: &'a mut postgres::Database) -> Self {
        let client = client
            // The server then sends the status line only when the statement is done, with the number of rows that it
            // wrote.
            .with_setting("wait_end_of_query", "1")
            .with_setting("max_execution_time", STATEMENT_TIME_MAX.as_secs().to_string())
            // Whether rows are there is decided by the content of the table. A block that equals one inserted before
            // may have to be inserted again.
            .with_setting("insert_deduplicate", "0")
            .with_setting("async_insert", "0")
            // Every dropped table was proven to be copied, or an operator has confirmed it. The server's own limit
            // would ask for a file.
            .with_setting("max_table_size_to_drop", "0")
            // If a row has two versions, both are copied; merging them here would make the older one look missing.
            .with_setting("optimize_on_insert", "0");
        Self { client, options, lock }
    }

    /// Reports a line of text to the operator.
    pub(super) fn say(&self, line: &str) {
        (self.options.progress)(line);
    }

    /// Changes a table, on all nodes if there is a cluster.
    pub(super) async fn change(&mut self, sql: &str) -> Result<(), Failure> {
        let sql = cluster::rewrite(sql, self.options.cluster.as_ref());
        self.execute(&sql, &[]).await.map(drop)
    }

    /// Runs a statement and returns how many rows it wrote.
    pub(super) async fn execute(&mut self, sql: &str, parameters: &[Parameter]) -> Result<u64, Failure> {
        let mut answer = self.query(sql, parameters).await?.fetch_bytes("TSV")?;
        while answer.next().await?.is_some() {}
        Ok(answer.summary().and_then(|summary| summary.written_rows()).unwrap_or(0))
    }

    /// Runs a query and returns its rows.
    pub(super) async fn rows<T>(&mut self, sql: &str, parameters: &[Parameter]) -> Result<Vec<T>, Failure>
    where
        T: RowOwned + RowRead,
    {
        Ok(self.query(sql, parameters).await?.fetch_all().await?)
    }

    /// Runs a query that returns exactly one row.
    pub(super) async fn row<T>(&mut self, sql: &str, parameters: &[Parameter]) -> Result<T, Failure>
    where
        T: RowOwned + RowRead,
    {
        Ok(self.query(sql, parameters).await?.fetch_one().await?)
    }

    async fn query(&mut self, sql: &str, parameters: &[Parameter]) -> Result<Query, Failure> {
        self.lock.still_held().await.map_err(|error| Failure::LockLost(Box::new(error)))?;
        let query = self.client.query_raw(sql);
        Ok(parameters.iter().fold(query, |query, (name, value)| query.param(name, value)))
    }
}
