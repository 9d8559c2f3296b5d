//! The registry: orgs, their workspaces, projects, limits, products, identity providers and API keys.
//!
//! | module | one idea |
//! | --- | --- |
//! | `session` | transactions that can read and change one org only |
//! | `rules` | which names, slugs, scopes and configs are valid |
//! | `orgs`, `plans`, `limits`, `workspaces`, `projects`, `products`, `idp`, `keys`, `shards` | each kind of object |
//! | `event`, `outbox` | the audit event of a change, written in its own transaction |
//! | `outbox::publication` | which events of all orgs are copied to ClickHouse, and which are not yet |
//! | `recorded_events` | recording audit events that are no change to the registry |
//! | `audit` | reading the audit events of an org |
//! | `flags` | switches that are changed while the services run |
//! | `announce` | announcing to the services which keys a change concerns |
//! | `usage` | the monthly usage of orgs, and the events at 80 % of a limit and at the limit |
//! | `error` | every error |
//!
//! Every change is one transaction, bound to its org, that also writes the audit outbox: a change without an audit
//! event is impossible. The rules are checked here for a clear message, and by the database in any case. The Postgres
//! role of the URL decides which changes are allowed: `docs/reference/registry.md` has the table.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

use auth::envelope_key::EnvelopeKeyError;
use auth::invalidate::Invalidator;
use model::org::OrgStatus;
use sqlx::PgPool;
use stores::secret::SecretUrl;
use wire::envelope::EnvelopeKey;

mod announce;
mod audit;
mod error;
pub mod event;
pub mod flags;
mod idp;
mod keys;
mod limits;
mod orgs;
mod outbox;
mod plans;
mod products;
mod projects;
mod recorded_events;
mod rules;
mod session;
mod shards;
mod usage;
mod workspaces;

use announce::Announcer;
pub use audit::AuditEvent;
pub use error::RegistryError;
pub use idp::{IdpConfig, IdpKind};
pub use keys::{KeyInfo, NewKey, Rotated};
pub use limits::{Limit, LimitChange, LimitEdit, LimitSource, Limited, Limits, MeterLimit};
pub use orgs::{NewOrg, Org, OrgDetails, OrgKind, OrgSummary};
pub use outbox::OutboxEvent;
pub use plans::{Plan, PlanMeter};
pub use products::Product;
pub use projects::Project;
pub use rules::{
    CONFIG_BYTES_MAX, NAME_CHARS_MAX, OVERLAP_MAX, RESERVED_SLUGS, RETENTION_DAYS_MAX, SCOPES_MAX, SLUG_LEN_MAX,
    SLUG_LEN_MIN,
};
pub use shards::{Assigned, ShardMove, ShardPlace};
pub use usage::{MeterUsage, PeriodUsage, UsageRecorded, WARN_PERCENT};
pub use workspaces::Workspace;

/// The slug of the workspace that every org has from the start.
pub const MAIN_WORKSPACE: &str = "main";
/// The most rows in one list. For more, list again with `after` set to the last one.
pub const LIST_MAX: u32 = 1000;

/// The actor of a change if none is given.
const DEFAULT_ACTOR: &str = "system";

/// A connection to the registry that can change it.
#[derive(Clone, Debug)]
pub struct Registry {
    pool: PgPool,
    actor: String,
    announcer: Announcer,
}

impl Registry {
    /// Connects to Postgres, so that a wrong URL, or a role that row-level security does not bind, is an error at once.
    pub async fn connect(dsn: &SecretUrl) -> Result<Self, RegistryError> {
        stores::postgres::check_role(dsn).await??;
        Ok(Self::new(stores::postgres::pool(dsn)?))
    }

    /// Uses an existing pool.
    pub fn new(pool: PgPool) -> Self {
        Self { pool, actor: DEFAULT_ACTOR.to_owned(), announcer: Announcer::default() }
    }

    /// Sets the actor of the changes that follow.
    pub fn acting_as(self, actor: impl Into<String>) -> Self {
        Self { actor: actor.into(), ..self }
    }

    /// Announces the changes that follow, so that they take effect everywhere within a second. Without it they take
    /// effect when the services' caches expire, after [`auth::resolver::POSITIVE_TTL`].
    pub fn announcing(self, invalidator: Invalidator) -> Self {
        Self { announcer: Announcer::new(invalidator), ..self }
    }

    /// The key that authenticates the deployment's envelopes.
    pub async fn envelope_key(&self) -> Result<EnvelopeKey, EnvelopeKeyError> {
        auth::envelope_key::read(&self.pool).await
    }

    /// Why the last change, if it concerns keys, could not be announced and so takes effect later.
    pub fn unannounced(&self) -> Option<String> {
        self.announcer.unannounced()
    }

    /// Begins a change of an org that exists and is not archived.
    async fn change(&self, org_id: model::ids::OrgId) -> Result<session::Change<'_>, RegistryError> {
        let mut change = session::Change::begin(self, org_id).await?;
        match change.status().await? {
            OrgStatus::Archived => Err(RegistryError::OrgArchived),
            _ => Ok(change),
        }
    }
}

/// Parses an id. Only the usual form with dashes counts, which is too long to be typed by accident.
fn as_id(text: &str) -> Option<uuid::Uuid> {
    const LEN: usize = 36;
    (text.len() == LEN).then(|| text.parse().ok()).flatten()
}
