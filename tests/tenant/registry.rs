//! The registry on real Postgres: what an operator does, and what is told about it.

use model::ids::{OrgId, ProjectId, WorkspaceId};
use model::meter::Meter;
use model::org::{OrgStatus, PlaceStatus};
use registry::{IdpKind, Limit, LimitChange, LimitEdit, LimitSource, NewKey, NewOrg, Org, Registry, RegistryError};
use serde_json::{Value, json};

use crate::support::{World, url};

#[tokio::test]
async fn every_change_writes_an_outbox_event_with_old_and_new_values() {
    let world = World::new().await;
    let (registry, org_id) = (&world.registry, world.org.org_id);
    let key = world.key("site").await;
    let team = registry.create_workspace(org_id, "team", "Team").await.unwrap();
    let project = registry.find_project(org_id, "site").await.unwrap().project_id;
    assert!(registry.set_plan(org_id, "free").await.unwrap());
    assert!(registry.set_retention(org_id, 30).await.unwrap());
    let limits = LimitChange { rps: LimitEdit::Set(Limit::AtMost(7)), ..LimitChange::default() };
    assert!(registry.set_limits(org_id, &limits).await.unwrap());
    assert!(registry.set_product(org_id, "traces", true, &json!({ "api_key": "s3cret" })).await.unwrap());
    let idp = json!({ "client_secret": "s3cret" });
    assert!(registry.set_idp(org_id, IdpKind::Oidc, true, &idp).await.unwrap());
    let rotated = registry.rotate_key(key.public_id(), std::time::Duration::from_secs(60)).await.unwrap();
    assert!(registry.revoke_key(key.public_id()).await.unwrap());
    assert!(registry.freeze(org_id, "does not pay").await.unwrap());
    assert!(registry.thaw(org_id).await.unwrap());
    assert!(registry.archive_project(org_id, project).await.unwrap());
    assert!(registry.archive_workspace(org_id, team).await.unwrap());
    assert!(registry.archive_org(org_id).await.unwrap());

    let mut events = registry.events(org_id, 100).await.unwrap();
    events.reverse();
    let (org, project, team) = (org_id.to_string(), project.to_string(), team.to_string());
    let recorded: Vec<_> =
        events.iter().map(|event| (event.event_type.as_str(), event.target.as_deref().unwrap())).collect();
    let expected = [
        ("org.create", org.as_str()),
        ("project.create", &project),
        ("api_key.create", key.public_id()),
        ("workspace.create", &team),
        ("org.plan", &org),
        ("org.retention", &org),
        ("org.limits", &org),
        ("product.set", "traces"),
        ("idp.set", &org),
        ("api_key.rotate", key.public_id()),
        ("api_key.revoke", key.public_id()),
        ("org.freeze", &org),
        ("org.thaw", &org),
        ("project.archive", &project),
        ("workspace.archive", &team),
        ("org.archive", &org),
    ];
    assert_eq!(recorded, expected);
    assert!(events.iter().all(|event| event.actor == "a test"));
    let detail = |event_type: &str| &events.iter().find(|event| event.event_type == event_type).unwrap().detail;
    assert_eq!(detail("org.plan"), &json!({ "old": "pro", "new": "free" }));
    assert_eq!(detail("org.retention"), &json!({ "old": 90, "new": 30 }));
    assert_eq!(detail("org.freeze"), &json!({ "old": "active", "new": "frozen", "reason": "does not pay" }));
    assert_eq!(detail("org.thaw"), &json!({ "old": "frozen", "new": "active" }));
    assert_eq!(detail("org.limits")["old"]["rps"], json!({ "limit": 50, "source": "plan" }));
    assert_eq!(detail("org.limits")["new"]["rps"], json!({ "limit": 7, "source": "override" }));
    assert_eq!(detail("api_key.rotate")["new"], json!(rotated.key.public_id()));

    let all = serde_json::to_string(&events).unwrap();
    for key in [&key, &rotated.key] {
        let secret = key.reveal().split_once('.').unwrap().1;
        assert!(!all.contains(secret) && !all.contains(&secret[..16]), "{all}");
    }
    assert!(!all.contains("s3cret") && !all.contains("argon2"), "{all}");
    assert_eq!(registry.events(org_id, 2).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_change_without_effect_writes_no_event() {
    let world = World::new().await;
    let (registry, org_id) = (&world.registry, world.org.org_id);
    let key = world.key("site").await;
    let site = registry.find_project(org_id, "site").await.unwrap().project_id;
    let team = registry.create_workspace(org_id, "team", "Team").await.unwrap();
    registry.set_product(org_id, "traces", false, &json!({ "a": 1, "b": 2 })).await.unwrap();
    registry.set_idp(org_id, IdpKind::Saml, true, &json!({})).await.unwrap();
    registry.revoke_key(key.public_id()).await.unwrap();
    registry.archive_project(org_id, site).await.unwrap();
    registry.archive_workspace(org_id, team).await.unwrap();
    registry.freeze(org_id, "x").await.unwrap();
    let recorded = registry.events(org_id, 100).await.unwrap().len();

    assert!(!registry.set_plan(org_id, "pro").await.unwrap());
    assert!(!registry.set_retention(org_id, 90).await.unwrap());
    assert!(!registry.set_limits(org_id, &LimitChange::default()).await.unwrap());
    let clear = LimitChange { burst: LimitEdit::Clear, ..LimitChange::default() };
    assert!(!registry.set_limits(org_id, &clear).await.unwrap());
    assert!(!registry.set_product(org_id, "traces", false, &json!({ "b": 2, "a": 1 })).await.unwrap());
    assert!(!registry.set_idp(org_id, IdpKind::Saml, true, &json!({})).await.unwrap());
    assert!(!registry.revoke_key(key.public_id()).await.unwrap());
    assert!(!registry.archive_project(org_id, site).await.unwrap());
    assert!(!registry.archive_workspace(org_id, team).await.unwrap());
    assert!(!registry.freeze(org_id, "again").await.unwrap());
    assert_eq!(registry.events(org_id, 100).await.unwrap().len(), recorded);

    // A change that the database refuses at its end takes its event with it.
    world.execute("ALTER TABLE audit_outbox ADD CONSTRAINT no_thaw CHECK (event_type <> 'org.thaw')").await;
    let error = registry.thaw(org_id).await.unwrap_err();
    assert!(matches!(error, RegistryError::Database(_)), "{error}");
    assert_eq!(
        registry.find_org("acme").await.unwrap().status,
        OrgStatus::Frozen,
        "and the change goes with its event"
    );
}

#[tokio::test]
async fn thawing_restores_the_previous_status() {
    let world = World::new().await;
    let registry = &world.registry;
    for status in [OrgStatus::Demo, OrgStatus::Trial, OrgStatus::Active] {
        let new = NewOrg { status, ..NewOrg::new(format!("is-{status}"), "x", "free") };
        let org_id = registry.create_org(&new).await.unwrap().org_id;
        let error = registry.thaw(org_id).await.unwrap_err();
        assert_eq!(error.to_string(), format!("the organization is {status} and not frozen"));
        assert!(registry.freeze(org_id, "why not").await.unwrap());
        assert_eq!(registry.org(org_id).await.unwrap().org.status, OrgStatus::Frozen);
        // What is asked of a frozen org is still done.
        registry.create_workspace(org_id, "team", "Team").await.unwrap();
        assert!(registry.thaw(org_id).await.unwrap());
        assert_eq!(registry.org(org_id).await.unwrap().org.status, status);
        registry.freeze(org_id, "again").await.unwrap();
        assert!(registry.archive_org(org_id).await.unwrap());
    }
    assert!(matches!(registry.freeze(world.org.org_id, " ").await, Err(RegistryError::InvalidReason)));
}

#[tokio::test]
async fn nothing_of_an_archived_org_changes_but_its_keys_can_be_revoked() {
    let world = World::new().await;
    let key = world.key("site").await;
    let (registry, Org { org_id, workspace_id }) = (&world.registry, world.org);
    let site = registry.find_project(org_id, "site").await.unwrap().project_id;
    assert!(registry.archive_org(org_id).await.unwrap());
    assert!(!registry.archive_org(org_id).await.unwrap());
    let refusals = [
        registry.set_plan(org_id, "free").await.err(),
        registry.set_retention(org_id, 1).await.err(),
        registry.freeze(org_id, "x").await.err(),
        registry.thaw(org_id).await.err(),
        registry.set_limits(org_id, &LimitChange::default()).await.err(),
        registry.create_workspace(org_id, "team", "Team").await.err(),
        registry.archive_workspace(org_id, workspace_id).await.err(),
        registry.create_project(org_id, workspace_id, "more", "More").await.err(),
        registry.archive_project(org_id, site).await.err(),
        registry.set_product(org_id, "traces", true, &json!({})).await.err(),
        registry.set_idp(org_id, IdpKind::Oidc, true, &json!({})).await.err(),
        registry.create_key(org_id, site, &NewKey::new("Key", &[])).await.err(),
        registry.rotate_key(key.public_id(), std::time::Duration::ZERO).await.err(),
    ];
    for (n, refusal) in refusals.into_iter().enumerate() {
        assert!(matches!(refusal, Some(RegistryError::OrgArchived)), "{n}: {refusal:?}");
    }
    assert!(registry.revoke_key(key.public_id()).await.unwrap());
}

#[tokio::test]
async fn nothing_can_be_added_to_an_archived_workspace_or_project() {
    let world = World::new().await;
    let (registry, Org { org_id, workspace_id }) = (&world.registry, world.org);
    let team = registry.create_workspace(org_id, "team", "Team").await.unwrap();
    let (inside, site) = (
        registry.create_project(org_id, team, "inside", "Inside").await.unwrap(),
        registry.create_project(org_id, workspace_id, "site", "Site").await.unwrap(),
    );
    registry.archive_workspace(org_id, team).await.unwrap();
    registry.archive_project(org_id, site).await.unwrap();
    let said = |what| format!("the {what} is archived; nothing can be added to it");
    let refusal = registry.create_project(org_id, team, "more", "More").await.unwrap_err();
    assert_eq!(refusal.to_string(), said("workspace"));
    for (project, what) in [(inside, "workspace"), (site, "project")] {
        let refusal = registry.create_key(org_id, project, &NewKey::new("Key", &[])).await.unwrap_err();
        assert_eq!(refusal.to_string(), said(what));
    }
    let refusal = registry.archive_workspace(org_id, workspace_id).await.unwrap_err();
    assert!(matches!(refusal, RegistryError::MainWorkspace), "{refusal}");
    let statuses: Vec<_> =
        registry.projects(org_id, None, None).await.unwrap().into_iter().map(|p| (p.slug, p.status)).collect();
    assert_eq!(statuses, [("inside".to_owned(), PlaceStatus::Active), ("site".to_owned(), PlaceStatus::Archived)]);
}

#[tokio::test]
async fn an_unknown_org_workspace_or_project_is_named_in_the_error() {
    let world = World::new().await;
    let (registry, Org { org_id, workspace_id }) = (&world.registry, world.org);
    let (nobody, nowhere, nothing) =
        (OrgId(uuid::Uuid::new_v4()), WorkspaceId(uuid::Uuid::new_v4()), ProjectId(uuid::Uuid::new_v4()));
    for (error, said) in [
        (registry.find_org("nobody").await.err(), "there is no organization \"nobody\"".to_owned()),
        (registry.find_org(&nobody.to_string()).await.err(), format!("there is no organization \"{nobody}\"")),
        (registry.org(nobody).await.err(), format!("there is no organization \"{nobody}\"")),
        (registry.limits(nobody).await.err(), format!("there is no organization \"{nobody}\"")),
        (registry.set_plan(nobody, "pro").await.err(), format!("there is no organization \"{nobody}\"")),
        (
            registry.create_project(nobody, workspace_id, "site", "Site").await.err(),
            format!("there is no organization \"{nobody}\""),
        ),
        (
            registry.create_project(org_id, nowhere, "site", "Site").await.err(),
            format!("the organization has no workspace \"{nowhere}\""),
        ),
        (registry.find_workspace(org_id, "x").await.err(), "the organization has no workspace \"x\"".to_owned()),
        (
            registry.create_key(org_id, nothing, &NewKey::new("Key", &[])).await.err(),
            format!("the organization has no project \"{nothing}\""),
        ),
    ] {
        assert_eq!(error.expect(&said).to_string(), said);
    }
    for id in ["0123456789abcdef01234567", "'; DROP TABLE tenants; --", ""] {
        let error = registry.revoke_key(id).await.unwrap_err();
        assert!(matches!(error, RegistryError::UnknownKey { .. }), "{error}");
    }
    let key = world.key("site").await;
    let error = registry.revoke_key(key.reveal()).await.unwrap_err().to_string();
    assert!(!error.contains(key.last_four()) && error.starts_with("there is no API key \"\""), "{error}");
}

#[tokio::test]
async fn orgs_workspaces_and_projects_are_listed_in_order_and_found_by_slug_or_id() {
    let world = World::new().await;
    let (registry, Org { org_id, workspace_id }) = (&world.registry, world.org);
    for slug in ["zoo", "bee"] {
        registry.create_org(&NewOrg::new(slug, slug, "free")).await.unwrap();
        registry.create_workspace(org_id, slug, slug).await.unwrap();
        registry.create_project(org_id, workspace_id, slug, slug).await.unwrap();
    }
    let zoo = registry.find_org("zoo").await.unwrap();
    registry.freeze(zoo.org_id, "x").await.unwrap();
    let orgs = async |status, after| -> Vec<_> {
        registry.orgs(status, after).await.unwrap().into_iter().map(|org| org.slug).collect()
    };
    assert_eq!(orgs(None, None).await, ["acme", "bee", "zoo"]);
    assert_eq!(orgs(None, Some("bee")).await, ["zoo"]);
    assert_eq!(orgs(Some(OrgStatus::Frozen), None).await, ["zoo"]);
    assert_eq!(registry.find_org(&zoo.org_id.to_string()).await.unwrap().slug, "zoo");

    let workspaces = registry.workspaces(org_id, None).await.unwrap();
    assert_eq!(workspaces.iter().map(|w| w.slug.as_str()).collect::<Vec<_>>(), ["bee", "main", "zoo"]);
    assert_eq!(registry.workspaces(org_id, Some("main")).await.unwrap(), workspaces[2..]);
    let main = registry.find_workspace(org_id, &workspace_id.to_string()).await.unwrap();
    assert_eq!(main, registry.find_workspace(org_id, "main").await.unwrap());
    let projects = registry.projects(org_id, Some(workspace_id), None).await.unwrap();
    assert_eq!(projects.iter().map(|p| p.slug.as_str()).collect::<Vec<_>>(), ["bee", "zoo"]);
    assert_eq!(registry.projects(org_id, None, Some("bee")).await.unwrap(), projects[1..]);
    assert!(registry.projects(org_id, Some(workspaces[0].workspace_id), None).await.unwrap().is_empty());
    assert_eq!(registry.find_project(org_id, &projects[0].project_id.to_string()).await.unwrap(), projects[0]);

    // The same names in another org are another's.
    assert!(matches!(registry.find_project(zoo.org_id, "bee").await, Err(RegistryError::UnknownProject { .. })));
    assert_eq!(registry.workspaces(zoo.org_id, None).await.unwrap().len(), 1);
    let details = registry.org(org_id).await.unwrap();
    assert_eq!((details.workspaces, details.projects, details.live_keys), (3, 2, 0));
    let json: Value = serde_json::to_value(&details).unwrap();
    assert_eq!(
        (&json["slug"], &json["status"], &json["trial_ends_at"]),
        (&json!("acme"), &json!("active"), &json!(null))
    );
}

#[tokio::test]
async fn an_orgs_own_limits_override_its_plans_one_by_one_and_can_be_cleared() {
    let world = World::new().await;
    let (registry, org_id) = (&world.registry, world.org.org_id);
    let set = |n| LimitEdit::Set(Limit::AtMost(n));
    let change = LimitChange {
        rps: set(0),
        burst: LimitEdit::Set(Limit::Unlimited),
        eval_slots: LimitEdit::Keep,
        meters: vec![(Meter::SpanIngested, set(0)), (Meter::ReplayRun, set(5))],
        ..LimitChange::default()
    };
    assert!(registry.set_limits(org_id, &change).await.unwrap());
    let limits = registry.limits(org_id).await.unwrap();
    let of = |meter| limits.meters.iter().find(|limit| limit.meter == meter).unwrap().limited;
    let (own, plan) = (LimitSource::Override, LimitSource::Plan);
    assert_eq!((limits.rps.limit, limits.rps.source), (Limit::AtMost(0), own), "0 forbids, and is not unlimited");
    assert_eq!((limits.burst.limit, limits.burst.source), (Limit::Unlimited, own));
    assert_eq!((limits.eval_slots.limit, limits.eval_slots.source), (Limit::AtMost(16), plan));
    assert_eq!((of(Meter::SpanIngested).limit, of(Meter::SpanIngested).source), (Limit::AtMost(0), own));
    assert_eq!((of(Meter::SpanBytes).limit, of(Meter::SpanBytes).source), (Limit::AtMost(250 << 30), plan));
    assert_eq!((of(Meter::ReplayRun).limit, of(Meter::ReplayRun).source), (Limit::AtMost(5), own));
    let judge = of(Meter::EvalJudgeTokens);
    assert_eq!((judge.limit, judge.source), (Limit::Unlimited, LimitSource::Default));

    let back = LimitChange {
        rps: LimitEdit::Clear,
        meters: vec![(Meter::SpanIngested, LimitEdit::Clear), (Meter::ReplayRun, LimitEdit::Keep)],
        ..LimitChange::default()
    };
    assert!(registry.set_limits(org_id, &back).await.unwrap());
    let limits = registry.limits(org_id).await.unwrap();
    assert_eq!((limits.rps.limit, limits.rps.source), (Limit::AtMost(500), plan));
    assert_eq!(limits.burst.limit, Limit::Unlimited, "what was not named stays");
    let of = |meter| limits.meters.iter().find(|limit| limit.meter == meter).unwrap().limited.limit;
    assert_eq!((of(Meter::SpanIngested), of(Meter::ReplayRun)), (Limit::AtMost(50_000_000), Limit::AtMost(5)));
}

#[tokio::test]
async fn configs_are_kept_whole_and_shown_without_their_secrets() {
    let world = World::new().await;
    let (registry, org_id) = (&world.registry, world.org.org_id);
    assert_eq!(registry.idp(org_id).await.unwrap(), None);
    let config = json!({ "issuer": "https://id.example", "client_secret": "s3cret" });
    registry.set_idp(org_id, IdpKind::Oidc, true, &config).await.unwrap();
    registry.set_product(org_id, "traces", false, &config).await.unwrap();
    let idp = registry.idp(org_id).await.unwrap().unwrap();
    let product = registry.products(org_id).await.unwrap().remove(0);
    for shown in [&idp.config, &product.config] {
        assert_eq!(shown, &json!({ "issuer": "https://id.example", "client_secret": "***" }));
    }
    assert_eq!((idp.kind, idp.enabled, product.enabled), (IdpKind::Oidc, true, false));
    let kept: Value = sqlx::query_scalar("SELECT config FROM tenant_idp_config").fetch_one(&world.owner).await.unwrap();
    assert_eq!(kept, config);
}

#[tokio::test]
async fn only_one_of_many_concurrent_requests_gets_a_slug() {
    let world = World::new().await;
    let asking: Vec<_> = (0..8)
        .map(|_| {
            let registry = world.registry.clone();
            tokio::spawn(async move { registry.create_org(&NewOrg::new("wanted", "x", "free")).await })
        })
        .collect();
    let mut made = 0;
    for asked in asking {
        match asked.await.unwrap() {
            Ok(_) => made += 1,
            Err(error) => assert!(matches!(error, RegistryError::DuplicateSlug { .. }), "{error}"),
        }
    }
    assert_eq!(made, 1);
}

#[tokio::test]
async fn a_service_makes_and_ends_keys_and_nothing_else() {
    let world = World::new().await;
    let (org_id, project) = {
        world.key("site").await;
        (world.org.org_id, world.registry.find_project(world.org.org_id, "site").await.unwrap().project_id)
    };
    let service = Registry::new(world.pool.clone()).acting_as("ingest-api");
    let key = service.create_key(org_id, project, &NewKey::new("Key", &["ingest:write"])).await.unwrap();
    let rotated = service.rotate_key(key.public_id(), std::time::Duration::from_secs(60)).await.unwrap();
    assert!(service.revoke_key(rotated.key.public_id()).await.unwrap());
    assert_eq!(service.events(org_id, 1).await.unwrap()[0].actor, "ingest-api");
    for error in [
        service.create_org(&NewOrg::new("other", "Other", "free")).await.err(),
        service.set_plan(org_id, "free").await.err(),
        service.freeze(org_id, "x").await.err(),
        service.create_workspace(org_id, "team", "Team").await.err(),
        service.set_idp(org_id, IdpKind::Oidc, true, &json!({})).await.err(),
    ] {
        let error = error.expect("an operator's business");
        assert!(matches!(error, RegistryError::NotPermitted { .. }), "{error}");
        assert!(error.to_string().contains("permission denied for table"), "{error}");
    }
    assert!(service.orgs(None, None).await.unwrap().is_empty(), "the directory is the operators'");
}

#[tokio::test]
async fn a_registry_that_cannot_be_reached_is_reported_without_its_password() {
    let error = Registry::connect(&url("postgres://u:hunter2@127.0.0.1:1/db")).await.unwrap_err();
    assert!(matches!(error, RegistryError::Database(_)));
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}
