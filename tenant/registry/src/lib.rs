//! The registry: orgs, their workspaces, projects, limits, products, identity providers and API keys.
//!
//! | module | one idea |
//! | --- | --- |
//! | `session` | transactions that can see and change one org, and no other |
//! | `rules` | what names, slugs, scopes and configs may be |
//! | `orgs`, `plans`, `limits`, `workspaces`, `projects`, `products`, `idp`, `keys`, `shards` | what there is, and how it changes |
//! | `event`, `outbox` | what is told of a change, in its own transaction |
//! | `audit` | reading what was told |
//! | `flags` | switches that are flipped while the services run |
//! | `announce` | telling the services which keys a change concerns |
//! | `reconcile` | what orgs used, and the outbox over all orgs |
//! | `error` | every refusal |
//!
//! Every change is one transaction, bound to its org, that also writes the audit outbox: what is not audited did not
//! happen. Rules are checked here for a clear message, and by the database in any case. Who may do what is decided by
//! the Postgres role of the URL: `docs/registry.md` has the table.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

use model::org::OrgStatus;
use sqlx::PgPool;
use wire::envelope::EnvelopeKey;

use auth::envelope_key::EnvelopeKeyError;
use auth::invalidate::Invalidator;
use stores::secret::SecretUrl;

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
mod reconcile;
mod rules;
mod session;
mod shards;
mod workspaces;

use announce::Announcer;
pub use audit::AuditEvent;
pub use error::RegistryError;
pub use idp::{IdpConfig, IdpKind};
pub use keys::{KeyInfo, NewKey, Rotated};
pub use limits::{Limit, LimitChange, LimitEdit, LimitSource, Limited, Limits, MeterLimit};
pub use orgs::{NewOrg, Org, OrgDetails, OrgKind, OrgSummary};
pub use plans::{Plan, PlanMeter};
pub use products::Product;
pub use projects::Project;
pub use reconcile::{MeterUsage, OutboxEvent, PeriodUsage, Settled, WARN_PERCENT};
pub use rules::{
    CONFIG_BYTES_MAX, NAME_CHARS_MAX, OVERLAP_MAX, RESERVED_SLUGS, RETENTION_DAYS_MAX, SCOPES_MAX, SLUG_LEN_MAX,
    SLUG_LEN_MIN,
};
pub use shards::{Assigned, ShardMove, ShardPlace};
pub use workspaces::Workspace;

/// The workspace that every org has from the start.
pub const MAIN_WORKSPACE: &str = "main";
/// The most rows that one list answers with. Ask again `after` the last one for more.
pub const LIST_MAX: u32 = 1000;

/// Who a change is attributed to when nobody was named.
const DEFAULT_ACTOR: &str = "system";

/// The registry, opened for changes.
#[derive(Clone, Debug)]
pub struct Registry {
    pool: PgPool,
    actor: String,
    announcer: Announcer,
}

impl Registry {
    /// Connects, so that a wrong URL, or a role that row-level security does not bind, is told at once.
    pub async fn connect(dsn: &SecretUrl) -> Result<Self, RegistryError> {
        stores::postgres::check_role(dsn).await??;
        Ok(Self::new(stores::postgres::pool(dsn)?))
    }

    /// The registry on a pool that there is already.
    pub fn new(pool: PgPool) -> Self {
        Self { pool, actor: DEFAULT_ACTOR.to_owned(), announcer: Announcer::default() }
    }

    /// Attributes the changes that follow to `actor`.
    pub fn acting_as(self, actor: impl Into<String>) -> Self {
        Self { actor: actor.into(), ..self }
    }

    /// Announces the changes that follow, so that they hold everywhere within a second. Without it they hold when what
    /// the services know has become too old, after [`auth::resolver::POSITIVE_TTL`].
    pub fn announcing(self, invalidator: Invalidator) -> Self {
        Self { announcer: Announcer::new(invalidator), ..self }
    }

    /// The key under which the deployment's envelopes are written and read.
    pub async fn envelope_key(&self) -> Result<EnvelopeKey, EnvelopeKeyError> {
        auth::envelope_key::read(&self.pool).await
    }

    /// Why the last change is not known everywhere yet, if it concerns keys and could not be announced.
    pub fn unannounced(&self) -> Option<String> {
        self.announcer.unannounced()
    }

    /// Begins a change of an org that there is and that is not archived.
    async fn change(&self, org_id: model::ids::OrgId) -> Result<session::Change<'_>, RegistryError> {
        let mut change = session::Change::begin(self, org_id).await?;
        match change.status().await? {
            OrgStatus::Archived => Err(RegistryError::OrgArchived),
            _ => Ok(change),
        }
    }
}

/// The id that a text is, if it is one. Only the usual form with dashes counts, which is too long to be typed by
/// accident.
fn as_id(text: &str) -> Option<uuid::Uuid> {
    const LEN: usize = 36;
    (text.len() == LEN).then(|| text.parse().ok()).flatten()
}
