//! The one key of a deployment with only one org; it is checked without any store.

use model::ids::ApiKeyId;
use model::org::{DEFAULT_ORG, DEFAULT_PROJECT, DEFAULT_WORKSPACE, OrgStatus};
use stores::secret::Secret;
use uuid::Uuid;

use super::context::{Plan, Scopes};
use super::{AcceptedKey, Answer, KeyRecord, KeySource, Lookup, Notified, POSITIVE_TTL};
use crate::api_key;
use crate::api_key::{HashError, KeyFormatError, PresentedKey};

/// The key that is in the settings and not in the registry.
const FIXED_KEY: ApiKeyId = ApiKeyId(Uuid::from_u128(0x0000_0000_0000_4000_8000_0000_0000_0004));

/// A key from the settings, for the default org, without limits; every other key is looked up in `S`.
#[derive(Debug)]
pub struct FixedKey<S> {
    fixed: Option<(String, KeyRecord)>,
    others: S,
}

/// Why a key in the settings cannot be used.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum FixedKeyError {
    /// The setting does not have the form of a key.
    #[error(transparent)]
    Format(#[from] KeyFormatError),
    /// The hash of the key could not be created.
    #[error(transparent)]
    Hash(#[from] HashError),
}

impl<S: KeySource> FixedKey<S> {
    /// Checks `key`, if there is one, before asking `others`.
    pub fn new(key: Option<&Secret<String>>, others: S) -> Result<Self, FixedKeyError> {
        let Some(key) = key else { return Ok(Self { fixed: None, others }) };
        let presented = PresentedKey::parse(key.expose())?;
        let record = KeyRecord {
            api_key_id: FIXED_KEY,
            org_id: DEFAULT_ORG,
            workspace_id: DEFAULT_WORKSPACE,
            project_id: DEFAULT_PROJECT,
            hash: Secret::new(api_key::hash(presented.secret())?),
            scopes: Scopes::new([super::context::scope::INGEST_WRITE, super::context::scope::TRACES_READ]),
            expires_at_unix_ms: None,
            revoked: false,
            status: OrgStatus::Active,
            archived: None,
            plan: Plan {
                name: "self_hosted".into(),
                rps: -1,
                burst: -1,
                org_rps: -1,
                org_burst: -1,
                eval_slots: -1,
                monthly: [].into(),
            },
            shard: None,
            is_moving: false,
        };
        Ok(Self { fixed: Some((presented.public_id().to_owned(), record)), others })
    }
}

impl<S: KeySource> KeySource for FixedKey<S> {
    fn find<'a>(&'a self, public_id: &'a str) -> Lookup<'a> {
        match &self.fixed {
            Some((fixed, record)) if fixed == public_id => {
                let record = Box::new(record.clone());
                Box::pin(async { Ok(Answer::Key { record, good_for: POSITIVE_TTL, accepted: None }) })
            }
            _ => self.others.find(public_id),
        }
    }

    fn accepted<'a>(&'a self, key: AcceptedKey<'a>) -> Notified<'a> {
        match &self.fixed {
            Some((fixed, _)) if fixed == key.public_id => Box::pin(std::future::ready(())),
            _ => self.others.accepted(key),
        }
    }
}
