//! Why the registry refused.

use std::time::Duration;

use thiserror::Error;

use super::rules::{CONFIG_BYTES_MAX, NAME_CHARS_MAX, RETENTION_DAYS_MAX, SCOPES_MAX};
use super::{MAIN_WORKSPACE, OVERLAP_MAX, OrgStatus};
use auth::api_key::HashError;
use model::words::UnknownWord;

/// Why a change was refused, or a question not answered. Messages are for the operator: what is wrong, and what is
/// allowed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// Not `^[a-z0-9][a-z0-9-]{1,38}[a-z0-9]$`, or reserved.
    #[error("the slug {slug:?} is not valid: {reason}")]
    InvalidSlug {
        /// What was asked for.
        slug: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Empty or too long.
    #[error("the name {name:?} is not valid: a name has 1 to {NAME_CHARS_MAX} characters, not only blanks")]
    InvalidName {
        /// What was asked for, not more than fits.
        name: String,
    },
    /// Not of the form `area:action` or `area:*`, or too many.
    #[error(
        "the scope {scope:?} is not valid: a key has at most {SCOPES_MAX} scopes, each like ingest:write or admin:*"
    )]
    InvalidScope {
        /// The first that is wrong.
        scope: String,
    },
    /// Not `^[a-z][a-z0-9_]{0,62}$`.
    #[error("the product {product:?} is not valid: its name has 1 to 63 of a-z, 0-9 and _, and starts with a letter")]
    InvalidProduct {
        /// What was asked for.
        product: String,
    },
    /// Not a JSON object, or too large.
    #[error(
        "the config of {what} is not valid: {reason}; it must be a JSON object of at most {CONFIG_BYTES_MAX} bytes"
    )]
    InvalidConfig {
        /// Whose config.
        what: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Zero, or more than the registry takes.
    #[error("a retention of {days} days is not possible: it must be 1 to {RETENTION_DAYS_MAX}")]
    InvalidRetention {
        /// What was asked for.
        days: u32,
    },
    /// Negative, too large, or no number.
    #[error("the limit {value:?} is not valid: it must be `unlimited` or 0 (nothing) to {max}")]
    InvalidLimit {
        /// What was asked for.
        value: String,
        /// The largest that is allowed.
        max: u64,
    },
    /// An end that is not in the future.
    #[error("a key cannot end at {at}, which is over")]
    InvalidExpiry {
        /// What was asked for.
        at: time::OffsetDateTime,
    },
    /// Longer than [`OVERLAP_MAX`].
    #[error(
        "an overlap of {} s is too long: at most {} s ({} days)",
        overlap.as_secs(), OVERLAP_MAX.as_secs(), OVERLAP_MAX.as_secs() / 86_400
    )]
    InvalidOverlap {
        /// What was asked for.
        overlap: Duration,
    },
    /// Not a status that an org can begin with.
    #[error("an organization cannot begin as {status}; it can be demo, trial or active")]
    InvalidStatus {
        /// What was asked for.
        status: OrgStatus,
    },
    /// Blank: somebody will ask why.
    #[error("a reason is needed: at most {NAME_CHARS_MAX} characters, not only blanks")]
    InvalidReason,
    /// It is in use, by another org, or by another workspace or project of this org.
    #[error("the slug {slug:?} is taken by another {what}")]
    DuplicateSlug {
        /// What has such slugs.
        what: &'static str,
        /// What was asked for.
        slug: String,
    },
    /// No such plan.
    #[error("there is no plan {plan:?}")]
    UnknownPlan {
        /// What was asked for.
        plan: String,
    },
    /// No such org.
    #[error("there is no organization {org:?}")]
    UnknownOrg {
        /// The slug or id that was asked for.
        org: String,
    },
    /// The org has no such workspace; it may be another org's.
    #[error("the organization has no workspace {workspace:?}")]
    UnknownWorkspace {
        /// The slug or id that was asked for.
        workspace: String,
    },
    /// The org has no such project; it may be another org's.
    #[error("the organization has no project {project:?}")]
    UnknownProject {
        /// The slug or id that was asked for.
        project: String,
    },
    /// The org does not have it.
    #[error("the organization has no product {product:?}")]
    UnknownProduct {
        /// What was asked for.
        product: String,
    },
    /// No such key.
    #[error("there is no API key {public_id:?}; the public id is what is between tb_ and the dot")]
    UnknownKey {
        /// The public id that was asked for, or nothing when it looks like something that may be secret.
        public_id: String,
    },
    /// An archived org stays as it is.
    #[error("the organization is archived and cannot be changed")]
    OrgArchived,
    /// Nothing is added to what is archived.
    #[error("the {what} is archived; nothing can be added to it")]
    Archived {
        /// A workspace or a project.
        what: &'static str,
    },
    /// Only what is frozen can be thawed.
    #[error("the organization is {status} and not frozen")]
    NotFrozen {
        /// Where it stands.
        status: OrgStatus,
    },
    /// It is where its hash says, and always was.
    #[error("the organization was never assigned to a shard")]
    NotAssigned,
    /// A key in the settings of a service does not know where its org went.
    #[error("the organization of a self-hosted deployment stays in the shard that its hash says")]
    NotMovable,
    /// Nothing to finish or to take back.
    #[error("the organization is not moving to another shard")]
    NotMoving,
    /// Somebody has begun another move of the org.
    #[error("another move of this organization was begun meanwhile")]
    MoveSuperseded,
    /// Every org keeps it.
    #[error("the workspace {MAIN_WORKSPACE:?} cannot be archived: every organization has it; archive the organization")]
    MainWorkspace,
    /// Only a key that works can be rotated, and only once.
    #[error("the API key {public_id} was {ended} before; create a new one")]
    KeyEnded {
        /// Its public id.
        public_id: String,
        /// Revoked, expired or rotated.
        ended: &'static str,
    },
    /// A word that the registry does not know.
    #[error(transparent)]
    UnknownWord(#[from] UnknownWord),
    /// Row-level security does not bind the role that was logged in as.
    #[error(transparent)]
    UnboundRole(#[from] stores::postgres::UnboundRole),
    /// The role may not do this.
    #[error(
        "this Postgres role may not do that: {message}; orgs are managed with the operator's, \
         TRACEBILITY_PG_OPERATOR_DSN"
    )]
    NotPermitted {
        /// What Postgres said.
        message: String,
    },
    /// The operating system gave no random numbers.
    #[error("no random numbers for a key: {0}")]
    Random(#[from] getrandom::Error),
    /// The secret could not be hashed.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// The URL cannot be used, or Postgres failed or did not answer.
    #[error("the registry failed: {0}")]
    Database(#[source] sqlx::Error),
}

impl From<sqlx::Error> for RegistryError {
    fn from(error: sqlx::Error) -> Self {
        const INSUFFICIENT_PRIVILEGE: &str = "42501";
        let refused = error.as_database_error().filter(|e| e.code().as_deref() == Some(INSUFFICIENT_PRIVILEGE));
        match refused {
            Some(refused) => Self::NotPermitted { message: refused.message().to_owned() },
            None => Self::Database(error),
        }
    }
}

impl RegistryError {
    /// Whether Postgres refused the data itself (classes 22 and 23: what it holds, and what it refers to), so that
    /// trying again is of no use.
    pub fn is_refused_data(&self) -> bool {
        let Self::Database(error) = self else { return false };
        let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        code.is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
    }
}

/// The name of the constraint that a statement violated.
pub(super) fn violated(error: &sqlx::Error) -> Option<&str> {
    error.as_database_error()?.constraint()
}
