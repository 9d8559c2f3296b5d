//! The states of an org and its parts, and the org of a self-hosted deployment.

use uuid::Uuid;

use crate::ids::{OrgId, ProjectId, WorkspaceId};
use crate::words;

/// The org that `ensure_default_org` makes in the registry. Every self-hosted deployment has the same id.
pub const DEFAULT_ORG: OrgId = OrgId(Uuid::from_u128(0x0000_0000_0000_4000_8000_0000_0000_0001));
/// The workspace `main` of the default org.
pub const DEFAULT_WORKSPACE: WorkspaceId = WorkspaceId(Uuid::from_u128(0x0000_0000_0000_4000_8000_0000_0000_0002));
/// The project `default` of the default org.
pub const DEFAULT_PROJECT: ProjectId = ProjectId(Uuid::from_u128(0x0000_0000_0000_4000_8000_0000_0000_0003));

words! {
    /// The state of an org. Stored in `tenants.status`.
    OrgStatus, "status of an organization" {
        /// An org for demonstrations; served.
        Demo = "demo",
        /// An org that tries the product; served.
        Trial = "trial",
        /// A paying or self-hosted org; served.
        Active = "active",
        /// Requests are refused for now; the data stays.
        Frozen = "frozen",
        /// The org is closed for good; requests are refused.
        Archived = "archived",
    }
}

impl OrgStatus {
    /// Whether requests of an org in this state are served.
    pub const fn is_served(self) -> bool {
        matches!(self, Self::Demo | Self::Trial | Self::Active)
    }
}

words! {
    /// The state of a workspace or a project.
    PlaceStatus, "status of a workspace or project" {
        /// In use: requests are served.
        Active = "active",
        /// Its data stays, but requests are refused.
        Archived = "archived",
    }
}

words! {
    /// What becomes of accepted envelopes of an org that turns out to be over a monthly limit.
    OverQuota, "policy" {
        /// The envelopes are parked until they are released or dropped.
        Park = "park",
        /// The envelopes are counted and deleted.
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
        let allowed = "expected one of demo, trial, active, frozen, archived";
        assert_eq!(error, format!("invalid status of an organization \"Active\": {allowed}"));
        assert!(OrgStatus::Trial.is_served() && !OrgStatus::Frozen.is_served());
    }
}
