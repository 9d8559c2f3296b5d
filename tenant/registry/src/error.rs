//! Why the registry refused an operation.

use std::time::Duration;

use auth::api_key::HashError;
use model::words::UnknownWord;
use thiserror::Error;

use super::rules::{CONFIG_BYTES_MAX, NAME_CHARS_MAX, RETENTION_DAYS_MAX, SCOPES_MAX};
use super::{MAIN_WORKSPACE, OVERLAP_MAX, OrgStatus};

/// Why a change was refused or a query failed. Messages are for the operator: what is wrong, and what is allowed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// Not `^[a-z0-9][a-z0-9-]{1,38}[a-z0-9]$`, or reserved.
    #[error("the slug {slug:?} is not valid: {reason}")]
    InvalidSlug {
        /// The slug in the request.
        slug: String,
        /// The rule that it violates.
        reason: &'static str,
    },
    /// The name is empty or too long.
    #[error("the name {name:?} is not valid: a name has 1 to {NAME_CHARS_MAX} characters, not only blanks")]
    InvalidName {
        /// The name in the request, cut to the allowed length.
        name: String,
    },
    /// Not of the form `area:action` or `area:*`, or too many.
    #[error(
        "the scope {scope:?} is not valid: a key has at most {SCOPES_MAX} scopes, each like ingest:write or admin:*"
    )]
    InvalidScope {
        /// The first invalid scope.
        scope: String,
    },
    /// The name of the product does not match `^[a-z][a-z0-9_]{0,62}$`.
    #[error("the product {product:?} is not valid: its name has 1 to 63 of a-z, 0-9 and _, and starts with a letter")]
    InvalidProduct {
        /// The product name in the request.
        product: String,
    },
    /// Not a JSON object, or too large.
    #[error(
        "the config of {what} is not valid: {reason}; it must be a JSON object of at most {CONFIG_BYTES_MAX} bytes"
    )]
    InvalidConfig {
        /// What the config is for: a product or the identity provider.
        what: String,
        /// The rule that the config violates.
        reason: &'static str,
    },
    /// Zero, or more than [`RETENTION_DAYS_MAX`].
    #[error("a retention of {days} days is not possible: it must be 1 to {RETENTION_DAYS_MAX}")]
    InvalidRetention {
        /// The number of days in the request.
        days: u32,
    },
    /// Negative, too large, or not a number.
    #[error("the limit {value:?} is not valid: it must be `unlimited` or 0 (nothing) to {max}")]
    InvalidLimit {
        /// The limit in the request.
        value: String,
        /// The largest allowed limit.
        max: u64,
    },
    /// The expiry is not in the future.
    #[error("a key cannot end at {at}, which is over")]
    InvalidExpiry {
        /// The expiry in the request.
        at: time::OffsetDateTime,
    },
    /// The old key of a rotation would stay valid for longer than [`OVERLAP_MAX`].
    #[error(
        "an overlap of {} s is too long: at most {} s ({} days)",
        overlap.as_secs(), OVERLAP_MAX.as_secs(), OVERLAP_MAX.as_secs() / 86_400
    )]
    InvalidOverlap {
        /// The overlap in the request.
        overlap: Duration,
    },
    /// A new org cannot have this status.
    #[error("an organization cannot begin as {status}; it can be demo, trial or active")]
    InvalidStatus {
        /// The status in the request.
        status: OrgStatus,
    },
    /// The reason is blank; the audit trail needs one.
    #[error("a reason is needed: at most {NAME_CHARS_MAX} characters, not only blanks")]
    InvalidReason,
    /// The slug is in use, by another org, or by another workspace or project of this org.
    #[error("the slug {slug:?} is taken by another {what}")]
    DuplicateSlug {
        /// What the slug names: an org, a workspace or a project.
        what: &'static str,
        /// The slug in the request.
        slug: String,
    },
    /// The registry has no plan with that name.
    #[error("there is no plan {plan:?}")]
    UnknownPlan {
        /// The plan name in the request.
        plan: String,
    },
    /// The registry has no org with that slug or id.
    #[error("there is no organization {org:?}")]
    UnknownOrg {
        /// The slug or id in the request.
        org: String,
    },
    /// The org has no such workspace; another org may have it.
    #[error("the organization has no workspace {workspace:?}")]
    UnknownWorkspace {
        /// The slug or id in the request.
        workspace: String,
    },
    /// The org has no such project; another org may have it.
    #[error("the organization has no project {project:?}")]
    UnknownProject {
        /// The slug or id in the request.
        project: String,
    },
    /// The org does not have this product.
    #[error("the organization has no product {product:?}")]
    UnknownProduct {
        /// The product name in the request.
        product: String,
    },
    /// The registry has no key with that public id.
    #[error("there is no API key {public_id:?}; the public id is what is between tb_ and the dot")]
    UnknownKey {
        /// The public id in the request; empty if the text may be a secret.
        public_id: String,
    },
    /// An archived org cannot be changed.
    #[error("the organization is archived and cannot be changed")]
    OrgArchived,
    /// Nothing can be created inside an archived workspace or project.
    #[error("the {what} is archived; nothing can be added to it")]
    Archived {
        /// What is archived: `workspace` or `project`.
        what: &'static str,
    },
    /// Only a frozen org can be thawed.
    #[error("the organization is {status} and not frozen")]
    NotFrozen {
        /// The present status of the org.
        status: OrgStatus,
    },
    /// The org was never assigned to a shard, so there is no assignment to remove.
    #[error("the organization was never assigned to a shard")]
    NotAssigned,
    /// The org of a self-hosted deployment cannot move: a key in a service's settings does not follow a move.
    #[error("the organization of a self-hosted deployment stays in the shard that its hash says")]
    NotMovable,
    /// The org is not moving, so there is no move to finish or revert.
    #[error("the organization is not moving to another shard")]
    NotMoving,
    /// A later move of the org has begun.
    #[error("another move of this organization was begun meanwhile")]
    MoveSuperseded,
    /// The workspace `main` cannot be archived.
    #[error("the workspace {MAIN_WORKSPACE:?} cannot be archived: every organization has it; archive the organization")]
    MainWorkspace,
    /// Only a working key can be rotated, and only once.
    #[error("the API key {public_id} was {ended} before; create a new one")]
    KeyEnded {
        /// The public id of the key.
        public_id: String,
        /// Why it no longer works: revoked, expired or rotated.
        ended: &'static str,
    },
    /// A stored word that this release does not know.
    #[error(transparent)]
    UnknownWord(#[from] UnknownWord),
    /// Row-level security does not bind the Postgres role of the URL.
    #[error(transparent)]
    UnboundRole(#[from] stores::postgres::UnboundRole),
    /// The Postgres role is not allowed to do this.
    #[error(
        "this Postgres role may not do that: {message}; orgs are managed with the operator's, \
         TRACEBILITY_PG_OPERATOR_DSN"
    )]
    NotPermitted {
        /// The error message of Postgres.
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
    /// Whether Postgres refused the data itself (error classes 22 and 23: its content, or what it refers to), so that a
    /// retry is useless.
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
