//! Which orgs' items are counted.

use std::collections::BTreeSet;

use model::ids::OrgId;

use super::balance::Bucket;

/// Which orgs' items are balanced together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The items of all orgs.
    Everyone,
    /// The items of one org.
    Org(OrgId),
}

/// Which orgs a count includes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Filter<'a> {
    Everyone,
    Org(OrgId),
    Buckets(&'a BTreeSet<Bucket>),
}

impl Filter<'_> {
    pub(super) fn contains(self, org: OrgId) -> bool {
        match self {
            Self::Everyone => true,
            Self::Org(one) => one == org,
            Self::Buckets(buckets) => buckets.contains(&Bucket::from(org)),
        }
    }
}
