//! The states of an org and of what is in it, and the org of a self-hosted deployment.

use uuid::Uuid;

use crate::ids::{OrgId, ProjectId, WorkspaceId};
use crate::words;

/// The org that `ensure_default_org` makes in the registry, the same everywhere.
pub const DEFAULT_ORG: OrgId = OrgId(Uuid::from_u128(0x0000_0000_0000_4000_8000_0000_0000_0001));
/// Its workspace `main`.
pub const DEFAULT_WORKSPACE: WorkspaceId = WorkspaceId(Uuid::from_u128(0x0000_0000_0000_4000_8000_0000_0000_0002));
/// Its project `default`.
pub const DEFAULT_PROJECT: ProjectId = ProjectId(Uuid::from_u128(0x0000_0000_0000_4000_8000_0000_0000_0003));

words! {
    /// Where an org stands. Stored in `tenants.status`.
    OrgStatus, "status of an organization" {
        /// A demonstration.
        Demo = "demo",
        /// Trying the product.
        Trial = "trial",
        /// Paying, or self-hosted.
        Active = "active",
        /// Refused for now; its data stays.
        Frozen = "frozen",
        /// Gone for good.
        Archived = "archived",
    }
}

impl OrgStatus {
    /// Whether requests of such an org are served.
    pub const fn is_served(self) -> bool {
        matches!(self, Self::Demo | Self::Trial | Self::Active)
    }
}

words! {
    /// Where a workspace or a project stands.
    PlaceStatus, "status of a workspace or project" {
        /// In use.
        Active = "active",
        /// Kept, and not served.
        Archived = "archived",
    }
}

words! {
    /// What becomes of what was accepted from an org that turns out to be over a monthly limit.
    OverQuota, "policy" {
        /// Kept until the limit is raised.
        Park = "park",
        /// Counted and deleted.
        Drop = "drop",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_stored_name() {
        for status in OrgStatus::ALL {
            assert_eq!(status.as_str().parse(), Ok(*status));
        }
        let error = "Active".parse::<OrgStatus>().unwrap_err().to_string();
        let allowed = "it can be demo, trial, active, frozen, archived";
        assert_eq!(error, format!("\"Active\" is no status of an organization; {allowed}"));
        assert!(OrgStatus::Trial.is_served() && !OrgStatus::Frozen.is_served());
    }
}
