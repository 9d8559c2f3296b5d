//! What an operator does over the life of an org, and that a service sees it.

use std::sync::Arc;
use std::time::Duration;

use auth::resolver::PostgresSource;
use auth::{ResolveError, Resolver, TenantContext};
use serde_json::{Value, json as value};
use stores::clock::ManualClock;

use super::{json, key, run, with};
use crate::support::World;

/// What a service that has just started makes of a key, `later` from now.
async fn resolve(world: &World, key: &str, later: Duration) -> Result<Arc<TenantContext>, ResolveError> {
    let clock = Arc::new(ManualClock::new());
    clock.advance(later);
    Resolver::with_clock(PostgresSource::new(world.pool.clone()), clock).resolve(key).await
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value}"))
}

#[tokio::test]
async fn an_org_is_managed_from_creation_to_archive() {
    const NOW: Duration = Duration::ZERO;
    let world = World::new().await;
    let org = json(&world, &["orgs", "create", "globex", "--name", "Globex", "--plan", "free"]);
    let workspace = json(&world, &["workspaces", "create", "globex", "research"]);
    let project = json(&world, &["projects", "create", "globex", "website", "--workspace", "research"]);
    let created = run(
        &world,
        &[
            "keys",
            "create",
            "globex",
            "website",
            "--name",
            "ci",
            "--scopes",
            "ingest:write,runs:read",
            "--expires",
            "90d",
        ],
    );
    let first = created.done().trim_end().to_owned();
    let context = resolve(&world, &first, NOW).await.unwrap();
    assert_eq!(context.org_id().to_string(), text(&org["org_id"]));
    assert_eq!(context.workspace_id().to_string(), text(&workspace["workspace_id"]));
    assert_eq!(context.project_id().to_string(), text(&project["project_id"]));
    assert!(context.scopes().allow("runs:read") && !context.scopes().allow("admin:*"));
    let after_its_end = resolve(&world, &first, Duration::from_secs(91 * 86_400)).await;
    assert!(matches!(after_its_end, Err(ResolveError::Expired)));

    // Both keys work during the overlap; then the old one ends.
    let first_id = &first["tb_".len()..first.find('.').unwrap()];
    let rotated = json(&world, &["keys", "rotate", first_id, "--overlap", "2h"]);
    let second = text(&rotated["key"]);
    assert_eq!(text(&rotated["old_public_id"]), first_id);
    for (later, old_works) in [(NOW, true), (Duration::from_secs(7_100), true), (Duration::from_secs(7_300), false)] {
        let old = resolve(&world, &first, later).await;
        assert_eq!(old.is_ok(), old_works, "{later:?}");
        assert!(old_works || matches!(old, Err(ResolveError::Expired)));
        let new = resolve(&world, second, later).await.unwrap();
        assert_eq!(new.project_id(), context.project_id());
        assert!(new.scopes().allow("runs:read"), "the new key may do what the old one may");
    }

    // Without an overlap the old one ends at once.
    let third = json(&world, &["keys", "rotate", text(&rotated["public_id"]), "--overlap", "0s", "--yes"]);
    assert!(matches!(resolve(&world, second, NOW).await, Err(ResolveError::Revoked)));
    let (third_id, third) = (text(&third["public_id"]), text(&third["key"]));
    resolve(&world, third, NOW).await.unwrap();

    run(&world, &["orgs", "freeze", "globex", "--reason", "overdue", "--yes"]).done();
    assert!(matches!(resolve(&world, third, NOW).await, Err(ResolveError::Frozen { .. })));
    run(&world, &["orgs", "thaw", "globex"]).done();
    resolve(&world, third, NOW).await.unwrap();

    assert_eq!(json(&world, &["keys", "revoke", third_id, "--yes"])["changed"], true);
    assert_eq!(json(&world, &["keys", "revoke", third_id, "--yes"])["changed"], false);
    assert!(matches!(resolve(&world, third, NOW).await, Err(ResolveError::Revoked)));

    let fourth = run(&world, &["keys", "create", "globex", "website", "--name", "last"]).done();
    resolve(&world, fourth.trim_end(), NOW).await.unwrap();
    run(&world, &["projects", "archive", "globex", "website", "--yes"]).done();
    resolve(&world, fourth.trim_end(), NOW).await.expect_err("its project is archived");
    run(&world, &["workspaces", "archive", "globex", "research", "--yes"]).done();
    run(&world, &["orgs", "archive", "globex", "--yes"]).done();
    assert_eq!(json(&world, &["orgs", "archive", "globex", "--yes"])["changed"], false);

    let audit = json(&world, &["orgs", "audit", "globex"]);
    let mut types: Vec<_> = audit["events"].as_array().unwrap().iter().map(|e| text(&e["event_type"])).collect();
    types.reverse();
    let expected = [
        "org.create",
        "workspace.create",
        "project.create",
        "api_key.create",
        "api_key.rotate",
        "api_key.rotate",
        "org.freeze",
        "org.thaw",
        "api_key.revoke",
        "api_key.create",
        "project.archive",
        "workspace.archive",
        "org.archive",
    ];
    assert_eq!(types, expected);
}

#[tokio::test]
async fn orgs_are_named_by_slug_or_by_id_alike() {
    let world = World::new().await;
    let id = world.org.org_id.to_string();
    let project =
        json(&world, &["projects", "create", &id, "site", "--workspace", &world.org.workspace_id.to_string()]);
    let project = text(&project["project_id"]).to_owned();
    let by_id = json(&world, &["keys", "create", &id, &project, "--name", "by id"]);
    let by_slug = json(&world, &["keys", "create", "acme", "site", "--name", "by slug"]);
    assert_eq!((&by_id["org_id"], &by_id["project_id"]), (&by_slug["org_id"], &by_slug["project_id"]));
    assert_eq!(json(&world, &["orgs", "show", &id]), json(&world, &["orgs", "show", "acme"]));
}

#[tokio::test]
async fn limits_are_the_orgs_own_until_they_are_cleared() {
    let world = World::new().await;
    let limit = |name: &str| {
        let limits = json(&world, &["limits", "show", "acme"]);
        let meters = limits["meters"].as_array().unwrap().clone();
        let found = meters.into_iter().find(|m| m["meter"] == name).unwrap_or_else(|| limits[name].clone());
        (found["limit"].clone(), text(&found["source"]).to_owned())
    };
    let plan = |limit: Value| (limit, "plan".to_owned());
    let own = |limit: Value| (limit, "override".to_owned());
    assert_eq!(limit("rps"), plan(value!(500)));
    let set = [
        "limits",
        "set",
        "acme",
        "--rps",
        "0",
        "--eval-slots",
        "unlimited",
        "--meter",
        "span_ingested=5",
        "--meter",
        "span_bytes=unlimited",
    ];
    assert_eq!(json(&world, &set)["changed"], true);
    assert_eq!(json(&world, &set)["changed"], false);
    assert_eq!((limit("rps"), limit("burst")), (own(value!(0)), plan(value!(2_000))));
    assert_eq!((limit("eval_slots"), limit("span_bytes")), (own(value!("unlimited")), own(value!("unlimited"))));
    assert_eq!(limit("span_ingested"), own(value!(5)));
    run(&world, &["limits", "clear", "acme", "--rps", "--meter", "span_ingested"]).done();
    assert_eq!((limit("rps"), limit("span_ingested")), (plan(value!(500)), plan(value!(50_000_000))));
    assert_eq!(limit("eval_slots"), own(value!("unlimited")), "what is not named stays");
    run(&world, &["orgs", "set-plan", "acme", "free"]).done();
    assert_eq!((limit("rps"), limit("eval_slots")), (plan(value!(50)), own(value!("unlimited"))));
}

#[tokio::test]
async fn a_product_keeps_its_config_when_it_is_disabled() {
    let world = World::new().await;
    let config = || world.count("SELECT (config ->> 'api_token')::bigint FROM tenant_products");
    run(&world, &["products", "set", "acme", "replay", "--config", r#"{"api_token":4711,"at_once":4}"#]).done();
    let listed = json(&world, &["products", "list", "acme"]);
    assert_eq!(listed["products"][0]["config"], value!({ "api_token": "***", "at_once": 4 }));
    assert_eq!(json(&world, &["products", "set", "acme", "replay", "--disabled"])["changed"], true);
    assert_eq!(json(&world, &["products", "set", "acme", "replay", "--disabled"])["changed"], false);
    assert_eq!(json(&world, &["products", "list", "acme"])["products"][0]["enabled"], false);
    assert_eq!(config().await, 4711, "and not ***");
    run(&world, &["products", "set", "acme", "replay"]).done();
    assert_eq!(json(&world, &["products", "list", "acme"])["products"][0]["enabled"], true);
    assert_eq!(config().await, 4711);
}

#[tokio::test]
async fn audit_events_name_their_actor() {
    let world = World::new().await;
    let public_id = key(&world, "site");
    with(&world).env_remove("USER").args(["orgs", "set-retention", "acme", "8"]).output().unwrap();
    with(&world).env("TRACEBILITY_ACTOR", "  ").args(["orgs", "set-plan", "acme", "free"]).output().unwrap();
    with(&world).env("TRACEBILITY_ACTOR", "otto").args(["orgs", "set-retention", "acme", "7"]).output().unwrap();
    run(&world, &["keys", "revoke", &public_id, "--yes", "--actor", "ticket 4711"]).done();
    let audit = json(&world, &["orgs", "audit", "acme", "--limit", "4"]);
    let by: Vec<_> =
        audit["events"].as_array().unwrap().iter().map(|e| (text(&e["event_type"]), text(&e["actor"]))).collect();
    assert_eq!(by[..2], [("api_key.revoke", "ticket 4711"), ("org.retention", "otto")]);
    assert_eq!(by[2].0, "org.plan");
    assert!(by[2].1.starts_with("olga@") && by[2].1.len() > "olga@".len(), "{}", by[2].1);
    assert!(by[3].1.starts_with("uid"), "{}", by[3].1);
}
