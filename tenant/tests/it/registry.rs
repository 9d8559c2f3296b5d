//! The registry on real Postgres.

use schema::ids::{OrgId, ProjectId, WorkspaceId};
use tenant::registry::{NewKey, NewOrg, Org, Registry, RegistryError};

use crate::support::{World, url};

#[tokio::test]
async fn every_change_writes_its_audit_row() {
    let world = World::new().await;
    let key = world.key("site").await;
    assert!(world.registry.revoke_key(key.public_id()).await.unwrap());
    assert!(!world.registry.revoke_key(key.public_id()).await.unwrap(), "the second time changes nothing");
    let events: Vec<(String, String, String, Option<String>)> =
        sqlx::query_as("SELECT event_type, actor, tenant_ref, target FROM audit_outbox ORDER BY id")
            .fetch_all(&world.owner)
            .await
            .unwrap();
    let types: Vec<_> = events.iter().map(|(event_type, ..)| event_type.as_str()).collect();
    assert_eq!(types, ["org.create", "project.create", "api_key.create", "api_key.revoke"]);
    for (_, actor, org, _) in &events {
        assert_eq!((actor.as_str(), org), ("a test", &world.org.org_id.to_string()));
    }
    assert_eq!(events[3].3.as_deref(), Some(key.public_id()));
}

#[tokio::test]
async fn a_key_is_kept_as_its_hash_and_nowhere_in_clear() {
    let world = World::new().await;
    let key = world.key("site").await;
    let secret = key.reveal().split_once('.').unwrap().1;
    let dump: String = sqlx::query_scalar(
        "SELECT string_agg(k::text, '') || (SELECT string_agg(o::text, '') FROM audit_outbox o) FROM api_keys k",
    )
    .fetch_one(&world.owner)
    .await
    .unwrap();
    assert!(dump.contains("$argon2id$") && dump.contains(key.public_id()) && dump.contains(key.last_four()));
    assert!(!dump.contains(secret) && !dump.contains(&secret[..16]), "{dump}");
}

#[tokio::test]
async fn what_is_wrong_is_said() {
    let world = World::new().await;
    let Org { org_id, workspace_id } = world.org;
    let registry = &world.registry;
    let error = registry.create_org(&NewOrg::new("acme", "Again", "pro")).await.unwrap_err();
    assert_eq!(error.to_string(), "the slug \"acme\" is taken");
    let error = registry.create_org(&NewOrg::new("Acme", "Acme", "pro")).await.unwrap_err();
    assert_eq!(error.to_string(), "the slug \"Acme\" is not valid: only a-z, 0-9 and - are allowed");
    let error = registry.create_org(&NewOrg::new("other", "Other", "gold")).await.unwrap_err();
    assert_eq!(error.to_string(), "there is no plan \"gold\"");
    assert!(matches!(
        registry.create_org(&NewOrg::new("other", " ", "pro")).await,
        Err(RegistryError::InvalidName { .. })
    ));

    let nobody = OrgId(uuid::Uuid::new_v4());
    let project = |org, workspace| registry.create_project(org, workspace, "site", "Site");
    assert!(matches!(project(nobody, workspace_id).await, Err(RegistryError::UnknownOrg { .. })));
    let elsewhere = registry.create_org(&NewOrg::new("other", "Other", "free")).await.unwrap().workspace_id;
    for workspace in [elsewhere, WorkspaceId(uuid::Uuid::new_v4())] {
        assert!(matches!(project(org_id, workspace).await, Err(RegistryError::UnknownWorkspace { .. })));
    }
    let site = project(org_id, workspace_id).await.unwrap();
    assert!(matches!(project(org_id, workspace_id).await, Err(RegistryError::DuplicateSlug { .. })));

    let key = async |project, scopes| registry.create_key(org_id, project, &NewKey::new("Key", scopes)).await;
    assert!(matches!(key(ProjectId(uuid::Uuid::new_v4()), &[]).await, Err(RegistryError::UnknownProject { .. })));
    assert!(matches!(key(site, &["everything"]).await, Err(RegistryError::InvalidScope { .. })));
    for id in ["0123456789abcdef01234567", "'; DROP TABLE tenants; --", ""] {
        assert!(matches!(registry.revoke_key(id).await, Err(RegistryError::UnknownKey { .. })), "{id}");
    }
    assert_eq!(world.count("SELECT count(*) FROM audit_outbox").await, 3, "what failed left no trace");
}

#[tokio::test]
async fn a_registry_that_cannot_be_reached_is_told_without_its_password() {
    let error = Registry::connect(&url("postgres://u:hunter2@127.0.0.1:1/db")).await.unwrap_err();
    assert!(matches!(error, RegistryError::Database(_)));
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}
