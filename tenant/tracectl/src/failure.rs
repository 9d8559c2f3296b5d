//! The error message of a failed command: what is wrong, and what to do next.

use std::{fmt, io};

use auth::envelope_key::EnvelopeKeyError;
use registry::RegistryError;
use stores::secret::SecretUrl;

use crate::environment::DSN;
use crate::printable::printable;

/// The exit status of a command that was tried and failed.
const FAILED: u8 = 1;
/// The exit status for a wrong command line or a missing confirmation.
const USAGE: u8 = 2;
/// The exit status of a command that succeeded and found a problem that a person must look at.
const ALARM: u8 = 3;

/// Why a command failed. Printed on one line.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    next: Option<String>,
    /// The exit status: [`FAILED`], [`USAGE`] or [`ALARM`].
    pub(crate) code: u8,
}

impl Failure {
    /// For a command that was tried and failed.
    pub(crate) fn new(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { what: what.into(), next: Some(next.into()), code: FAILED }
    }

    /// For a command that was not tried, because it is wrong or not confirmed.
    pub(crate) fn usage(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { code: USAGE, ..Self::new(what, next) }
    }

    /// For a command that succeeded and found a problem that a person must look at.
    pub(crate) fn alarm(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { code: ALARM, ..Self::new(what, next) }
    }

    /// The registry could not be opened. The message has the URL, without the password.
    pub(crate) fn connecting(error: &RegistryError, dsn: &SecretUrl) -> Self {
        match error {
            RegistryError::Database(sqlx::Error::PoolTimedOut | sqlx::Error::Io(_)) => {
                let cause = match error {
                    RegistryError::Database(sqlx::Error::Io(cause)) => cause.to_string(),
                    _ => format!("no connection within {} s", stores::postgres::CONNECT_TIMEOUT.as_secs()),
                };
                Self::new(
                    format!("Postgres cannot be reached at {dsn}: {cause}"),
                    format!("check that it runs and that {DSN} names it"),
                )
            }
            RegistryError::Database(sqlx::Error::Database(refused)) => Self::new(
                format!("Postgres refused the login at {dsn}: {}", refused.message()),
                format!("check the user, the password and the database in {DSN}"),
            ),
            other => Self::of(other),
        }
    }

    fn of(error: &RegistryError) -> Self {
        Self { what: error.to_string(), next: next_step(error), code: FAILED }
    }
}

impl From<EnvelopeKeyError> for Failure {
    fn from(error: EnvelopeKeyError) -> Self {
        Self::new(error.to_string(), "check that Postgres is migrated (migrate up) and repeat the command")
    }
}

/// Advice for errors whose message does not give any.
fn next_step(error: &RegistryError) -> Option<String> {
    use RegistryError as E;
    let next = match error {
        E::UnknownOrg { .. } => "tracectl orgs list shows them",
        E::UnknownWorkspace { .. } => "tracectl workspaces list ORG shows them",
        E::UnknownProject { .. } => "tracectl projects list ORG shows them",
        E::UnknownProduct { .. } => "--config '{}' gives it one with an empty configuration",
        E::UnknownKey { .. } => "tracectl keys list ORG shows them",
        E::UnknownPlan { .. } => "tracectl orgs plans shows them",
        E::DuplicateSlug { .. } => "choose another one",
        E::OrgArchived => "archiving is for good; create another org",
        E::Archived { .. } => "archiving is for good; create another one",
        E::NotAssigned | E::NotMoving => "tracectl shards list shows those that were or are",
        E::MoveSuperseded => "tracectl shards list shows it",
        E::NotFrozen { .. } => "tracectl orgs show ORG says where it stands",
        E::Database(sqlx::Error::Database(refused)) if is_old_schema(refused.code().as_deref()) => {
            "run migrate up: the database is older than this program"
        }
        E::Database(sqlx::Error::PoolTimedOut | sqlx::Error::Io(_)) => "Postgres went away; repeat the command",
        _ => return None,
    };
    Some(next.to_owned())
}

/// Whether Postgres lacks a table, a column, a function or a type.
fn is_old_schema(code: Option<&str>) -> bool {
    matches!(code, Some("42P01" | "42703" | "42883" | "42704"))
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.what))?;
        self.next.as_ref().map_or(Ok(()), |next| write!(f, "; {}", printable(next)))
    }
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        Self::of(&error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self { what: error.to_string(), next: None, code: FAILED }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self { what: format!("the answer cannot be written as JSON: {error}"), next: None, code: FAILED }
    }
}
