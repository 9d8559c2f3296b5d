//! Identifiers, one newtype for each thing that has an id, so that an org id can never be passed in place of a project
//! id.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(s: &str) -> Result<Self, Self::Err> {
                s.parse().map(Self)
            }
        }
    };
}

id!(
    /// An org: the isolation and billing boundary (`tenants.id` in Postgres, `org_id` everywhere else).
    OrgId
);
id!(
    /// A workspace inside an org.
    WorkspaceId
);
id!(
    /// A project inside a workspace; an API key belongs to exactly one.
    ProjectId
);
id!(
    /// The id of an API key's row in the registry. The public id in the key's text is another one.
    ApiKeyId
);
id!(
    /// An envelope: the rows of one accepted request.
    EnvelopeId
);
