//! Whose items are counted.

use std::collections::BTreeSet;

use model::ids::OrgId;

use super::balance::Bucket;

/// Whose items are balanced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Every org's.
    Everyone,
    /// That org's.
    Org(OrgId),
}

/// Which orgs are counted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Filter<'a> {
    Everyone,
    Org(OrgId),
    Buckets(&'a BTreeSet<Bucket>),
}

impl Filter<'_> {
    pub(super) fn holds(self, org: OrgId) -> bool {
        match self {
            Self::Everyone => true,
            Self::Org(one) => one == org,
            Self::Buckets(buckets) => buckets.contains(&Bucket::from(org)),
        }
    }
}
