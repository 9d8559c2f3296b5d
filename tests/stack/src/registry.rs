//! The org, project and key that a new stack starts with.

use registry::{NewKey, NewOrg, Registry, RegistryError};
use stores::secret::SecretUrl;
use url::Url;

use crate::{StackError, Urls};

/// The plan that limits least, so that nobody's first try ends in a 429.
const PLAN: &str = "self_hosted";
const SCOPES: [&str; 1] = ["ingest:write"];

/// Creates them and returns the key, which exists nowhere else: the registry keeps its hash.
pub(crate) async fn issue_key(urls: &Urls) -> Result<String, StackError> {
    let url = Url::parse(&urls.pg_operator_dsn).map_err(|e| StackError::server("postgres", e))?;
    create(&SecretUrl::new(url)).await.map_err(|e| StackError::server("registry", e))
}

async fn create(dsn: &SecretUrl) -> Result<String, RegistryError> {
    let registry = Registry::connect(dsn).await?.acting_as("cargo stack");
    // Unique, because the registry may be a given one and hold the org of an earlier stack.
    let slug = format!("local-{:08x}", rand::random::<u32>());
    let org = registry.create_org(&NewOrg::new(slug, "Local", PLAN)).await?;
    let project = registry.create_project(org.org_id, org.workspace_id, "default", "Default").await?;
    let key = registry.create_key(org.org_id, project, &NewKey::new("cargo stack up", &SCOPES)).await?;
    Ok(key.reveal().to_owned())
}
