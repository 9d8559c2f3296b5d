//! [`TenantContext`]: who a request is from and what its org may do.
//!
//! It lives below the resolver because only the resolver may make one: code that holds a context has resolved a key,
//! and code that has none cannot reach a tenant's data.
//!
//! ```compile_fail,E0624
//! // No constructor is visible from outside …
//! let context = auth::context::TenantContext::new(todo!());
//! ```
//!
//! ```compile_fail,E0451
//! // … and no field is either.
//! let context = auth::context::TenantContext { org_id: todo!(), ..todo!() };
//! ```

use std::sync::Arc;

use model::ids::{ApiKeyId, OrgId, ProjectId, WorkspaceId};
use model::meter::Meter;
use model::org::OrgStatus;
use model::rate::Limit;
use model::shard::Shard;

use super::{KeyRecord, ResolveError};

/// The scopes of API keys, as written in `api_keys.scopes`.
pub mod scope {
    /// To send runs and spans.
    pub const INGEST_WRITE: &str = "ingest:write";
    /// To read the org's runs and spans.
    pub const TRACES_READ: &str = "traces:read";
    /// To operate the installation: the admin routes of the operators' listener.
    pub const ADMIN: &str = "admin:*";
    /// For our own services: not rate limited, but metered.
    pub const INTERNAL: &str = "internal:*";
}

/// An org's plan with its overrides merged in. Limits of −1 are unlimited; 0 forbids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The plan's name, such as `pro`.
    pub name: Box<str>,
    /// Requests per second that a key may sustain.
    pub rps: i32,
    /// Requests that a key may send at once.
    pub burst: i32,
    /// Requests per second that all keys of the org may sustain together.
    pub org_rps: i32,
    /// Requests that all keys of the org may send at once.
    pub org_burst: i32,
    /// Evaluations that the org may run at the same time.
    pub eval_slots: i32,
    /// Monthly limits; a meter that is missing here is counted and not limited.
    pub monthly: Box<[(Meter, i64)]>,
}

impl Plan {
    /// The rate limit of one key.
    pub const fn key_limit(&self) -> Limit {
        Limit::of_plan(self.rps, self.burst)
    }

    /// The rate limit of all keys of the org together.
    pub const fn org_limit(&self) -> Limit {
        Limit::of_plan(self.org_rps, self.org_burst)
    }

    /// What the org may use of a meter in a calendar month; `None` is unlimited.
    pub fn monthly_limit(&self, meter: Meter) -> Option<u64> {
        let limit = self.monthly.iter().find(|(limited, _)| *limited == meter)?.1;
        u64::try_from(limit).ok()
    }
}

/// The scopes that a key has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scopes(Box<[Box<str>]>);

impl Scopes {
    /// Collects scopes, such as `ingest:write` or `admin:*`.
    pub fn new(scopes: impl IntoIterator<Item = impl Into<Box<str>>>) -> Self {
        Self(scopes.into_iter().map(Into::into).collect())
    }

    /// Whether `needed` is among them, by name or by a held `area:*`.
    pub fn allow(&self, needed: &str) -> bool {
        let area = needed.split_once(':').map(|(area, _)| area);
        self.0.iter().any(|held| **held == *needed || (area.is_some() && held.strip_suffix(":*") == area))
    }

    /// Iterates over the scopes.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|scope| &**scope)
    }
}

/// Who a request is from and what its org may do: the outcome of resolving a key. Cheap to clone only as `Arc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantContext {
    org_id: OrgId,
    workspace_id: WorkspaceId,
    project_id: ProjectId,
    api_key_id: ApiKeyId,
    plan: Plan,
    scopes: Scopes,
    status: OrgStatus,
    shard: Option<Shard>,
    is_moving: bool,
}

impl TenantContext {
    pub(super) fn new(record: &KeyRecord) -> Arc<Self> {
        Arc::new(Self {
            org_id: record.org_id,
            workspace_id: record.workspace_id,
            project_id: record.project_id,
            api_key_id: record.api_key_id,
            plan: record.plan.clone(),
            scopes: record.scopes.clone(),
            status: record.status,
            shard: record.shard,
            is_moving: record.is_moving,
        })
    }

    /// The org that the key belongs to.
    pub const fn org_id(&self) -> OrgId {
        self.org_id
    }

    /// The workspace of the key's project.
    pub const fn workspace_id(&self) -> WorkspaceId {
        self.workspace_id
    }

    /// The project that the key belongs to.
    pub const fn project_id(&self) -> ProjectId {
        self.project_id
    }

    /// The row id of the key (not its public id).
    pub const fn api_key_id(&self) -> ApiKeyId {
        self.api_key_id
    }

    /// The org's plan, overrides merged in.
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The scopes of the key.
    pub const fn scopes(&self) -> &Scopes {
        &self.scopes
    }

    /// The status of the org: whether it may send at present.
    pub const fn status(&self) -> OrgStatus {
        self.status
    }

    /// The shard that takes the org's envelopes: the one it was assigned to, otherwise its home.
    pub fn shard(&self) -> Shard {
        self.shard.unwrap_or_else(|| Shard::home(self.org_id))
    }

    /// Whether the org is moving to another shard; until it has, appends for it are refused.
    pub const fn is_moving(&self) -> bool {
        self.is_moving
    }

    /// Returns an error unless the key has the scope `needed`, a constant of [`scope`].
    pub fn require(&self, needed: &'static str) -> Result<(), ResolveError> {
        if self.scopes.allow(needed) { Ok(()) } else { Err(ResolveError::MissingScope { needed }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_covers_its_own_area_only() {
        let scopes = Scopes::new(["ingest:write", "admin:*"]);
        for needed in ["ingest:write", "admin:*", "admin:quotas"] {
            assert!(scopes.allow(needed), "{needed}");
        }
        for needed in ["ingest:read", "ingest:*", "internal:*", "administrator:x", "admin", ""] {
            assert!(!scopes.allow(needed), "{needed}");
        }
        assert!(!Scopes::new(["*", ":*"]).allow("ingest:write"));
    }
}
