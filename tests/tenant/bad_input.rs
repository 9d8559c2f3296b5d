//! What is wrong is refused twice: by the registry, which says why, and by the database, whoever asks.

use model::org::OrgStatus;
use registry::{
    CONFIG_BYTES_MAX, IdpKind, Limit, LimitChange, LimitEdit, NewKey, NewOrg, RESERVED_SLUGS, RegistryError, SCOPES_MAX,
};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::support::{World, bound};

const BAD_SLUGS: [&str; 18] = [
    "",
    "a",
    "ab",
    "-abc",
    "abc-",
    "-",
    "---",
    "Abc",
    "ABC",
    "a_b",
    "a b",
    "a.b",
    "a/b",
    "abc\n",
    "äbc",
    "abc\u{0}",
    "a'b",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];
const GOOD_SLUGS: [&str; 6] = ["abc", "a-b", "0a9", "a--b", "123", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"];

/// As an operator's connection that is bound to the world's org.
async fn operator(world: &World) -> PgPool {
    bound(&world.db.pg_operator_dsn, world.org.org_id).await
}

/// Whether a statement is accepted, or by which constraint it is refused, or else with which code.
async fn verdict(pool: &PgPool, sql: &'static str, value: &str) -> String {
    match sqlx::query(sql).bind(value).execute(pool).await {
        Ok(_) => "accepted".to_owned(),
        Err(error) => {
            let database = error.as_database_error().unwrap_or_else(|| panic!("{sql}: {error}"));
            database.constraint().map_or_else(|| database.code().unwrap().into_owned(), str::to_owned)
        }
    }
}

/// Inserts of a slug, and the constraint that keeps it in form. The first changes the org's own row, since a session
/// can make no other org.
const SLUG_INSERTS: [(&str, &str); 3] = [
    (
        "WITH org AS (SELECT gen_random_uuid() AS id, $1 AS slug),
              bind AS MATERIALIZED (SELECT set_config('app.current_tenant', id::text, true) FROM org)
         INSERT INTO tenants (id, slug, name) SELECT org.id, org.slug, 'x' FROM org, bind",
        "tenants_slug_check",
    ),
    (
        "INSERT INTO workspaces (tenant_id, slug, name) SELECT current_setting('app.current_tenant')::uuid, $1, 'x'",
        "workspaces_slug_check",
    ),
    (
        "INSERT INTO tenant_projects (tenant_id, workspace_id, slug, name)
         SELECT tenant_id, id, $1, 'x' FROM workspaces
          WHERE slug = 'main' AND tenant_id = current_setting('app.current_tenant')::uuid",
        "tenant_projects_slug_check",
    ),
];

#[tokio::test]
async fn slugs_are_refused_by_the_registry_and_by_the_database() {
    let world = World::new().await;
    let operator = operator(&world).await;
    let (registry, org_id, workspace_id) = (&world.registry, world.org.org_id, world.org.workspace_id);
    for bad in BAD_SLUGS {
        let refusals = [
            registry.create_org(&NewOrg::new(bad, "x", "pro")).await.unwrap_err(),
            registry.create_workspace(org_id, bad, "x").await.unwrap_err(),
            registry.create_project(org_id, workspace_id, bad, "x").await.unwrap_err(),
        ];
        for refusal in refusals {
            assert!(matches!(&refusal, RegistryError::InvalidSlug { slug, .. } if slug == bad), "{bad}: {refusal}");
        }
        for (sql, constraint) in SLUG_INSERTS {
            // A text with a zero byte does not even get to the table.
            let expected = if bad.contains('\0') { "22021" } else { constraint };
            assert_eq!(verdict(&operator, sql, bad).await, expected, "{bad:?}");
        }
    }
    for good in GOOD_SLUGS {
        registry.create_org(&NewOrg::new(good, "x", "pro")).await.expect(good);
        registry.create_workspace(org_id, good, "x").await.expect(good);
        registry.create_project(org_id, workspace_id, good, "x").await.expect(good);
        for ((sql, _), taken) in SLUG_INSERTS.into_iter().zip([
            "tenants_slug_key",
            "workspaces_tenant_id_slug_key",
            "tenant_projects_tenant_id_slug_key",
        ]) {
            assert_eq!(verdict(&operator, sql, good).await, taken, "{good}: the only thing wrong with it");
        }
        let duplicates = [
            registry.create_org(&NewOrg::new(good, "x", "pro")).await.unwrap_err(),
            registry.create_workspace(org_id, good, "x").await.unwrap_err(),
            registry.create_project(org_id, workspace_id, good, "x").await.unwrap_err(),
        ];
        let said = ["organization", "workspace", "project"]
            .map(|what| format!("the slug {good:?} is taken by another {what}"));
        assert_eq!(duplicates.map(|error| error.to_string()), said);
    }
}

#[tokio::test]
async fn reserved_words_are_no_orgs_slugs() {
    let world = World::new().await;
    let operator = operator(&world).await;
    let definition: String = sqlx::query_scalar(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'tenants_slug_reserved_check'",
    )
    .fetch_one(&world.owner)
    .await
    .unwrap();
    let in_database: Vec<_> = definition.split('\'').skip(1).step_by(2).collect();
    assert_eq!(in_database, RESERVED_SLUGS, "the two lists differ");
    for word in RESERVED_SLUGS {
        let error = world.registry.create_org(&NewOrg::new(*word, "x", "pro")).await.unwrap_err();
        assert_eq!(error.to_string(), format!("the slug {word:?} is not valid: it is reserved"));
        assert_eq!(verdict(&operator, SLUG_INSERTS[0].0, word).await, "tenants_slug_reserved_check", "{word}");
    }
    for usual in ["default", "docs", "api"] {
        world.registry.create_workspace(world.org.org_id, usual, "x").await.expect(usual);
    }
}

#[tokio::test]
async fn names_plans_retentions_and_first_states_are_checked() {
    let world = World::new().await;
    let operator = operator(&world).await;
    let (registry, org_id) = (&world.registry, world.org.org_id);
    let long = "x".repeat(201);
    for bad in ["", "   ", long.as_str()] {
        let error = registry.create_org(&NewOrg::new("other", bad, "pro")).await.unwrap_err();
        assert!(error.to_string().ends_with("a name has 1 to 200 characters, not only blanks"), "{error}");
        let sql = "UPDATE tenants SET name = $1 WHERE slug = 'acme'";
        assert_eq!(verdict(&operator, sql, bad).await, "tenants_name_check", "{bad:?}");
    }

    for refusal in [
        registry.create_org(&NewOrg::new("other", "Other", "gold")).await.unwrap_err(),
        registry.set_plan(org_id, "gold").await.unwrap_err(),
    ] {
        assert_eq!(refusal.to_string(), "there is no plan \"gold\"");
    }
    assert_eq!(
        verdict(&operator, "UPDATE tenants SET plan = $1 WHERE slug = 'acme'", "gold").await,
        "tenants_plan_fkey"
    );

    for days in [0, 3651, u32::MAX] {
        let new = NewOrg { retention_days: Some(days), ..NewOrg::new("other", "Other", "pro") };
        for refusal in
            [registry.create_org(&new).await.unwrap_err(), registry.set_retention(org_id, days).await.unwrap_err()]
        {
            let said = format!("a retention of {days} days is not possible: it must be 1 to 3650");
            assert_eq!(refusal.to_string(), said);
        }
        let sql = "UPDATE tenants SET retention_days = least($1::bigint, 2147483647) WHERE slug = 'acme'";
        let sql = sqlx::query(sql).bind(i64::from(days)).execute(&operator).await.unwrap_err();
        assert_eq!(sql.as_database_error().unwrap().constraint(), Some("tenants_retention_days_check"));
    }

    for status in [OrgStatus::Frozen, OrgStatus::Archived] {
        let new = NewOrg { status, ..NewOrg::new("other", "Other", "pro") };
        let refusal = registry.create_org(&new).await.unwrap_err();
        assert!(matches!(refusal, RegistryError::InvalidStatus { .. }), "{refusal}");
    }
    for (status, expected) in [("frozen", "tenants_frozen_from_check"), ("Frozen", "22P02")] {
        let sql = "UPDATE tenants SET status = $1::text::tenant_status WHERE slug = 'acme'";
        assert_eq!(verdict(&operator, sql, status).await, expected);
    }
    let nothing_happened = "SELECT count(*) FROM audit_outbox WHERE event_type <> 'org.create'";
    assert_eq!(world.count(nothing_happened).await, 0);
}

#[tokio::test]
async fn a_limit_is_never_negative() {
    let world = World::new().await;
    let operator = operator(&world).await;
    for bad in ["-1", "-2", "-9223372036854775808", "many", "", "0x10", "1 000"] {
        let error = bad.parse::<Limit>().unwrap_err().to_string();
        assert!(error.starts_with(&format!("the limit {bad:?} is not valid: it must be `unlimited` or 0")), "{error}");
    }
    let too_much = LimitChange { rps: LimitEdit::Set(Limit::AtMost(1 << 31)), ..LimitChange::default() };
    let error = world.registry.set_limits(world.org.org_id, &too_much).await.unwrap_err().to_string();
    assert!(error.ends_with("0 (nothing) to 2147483647"), "{error}");
    // −1 is how unlimited is stored; anything below means nothing.
    for (sql, constraint) in [
        (
            "INSERT INTO tenant_plan_override (tenant_id, rps) SELECT current_setting('app.current_tenant')::uuid, $1::text::int",
            "tenant_plan_override_rps_check",
        ),
        (
            "INSERT INTO tenant_plan_override (tenant_id, burst) SELECT current_setting('app.current_tenant')::uuid, $1::text::int",
            "tenant_plan_override_burst_check",
        ),
        (
            "INSERT INTO tenant_plan_override (tenant_id, eval_slots) SELECT current_setting('app.current_tenant')::uuid, $1::text::int",
            "tenant_plan_override_eval_slots_check",
        ),
        (
            "INSERT INTO tenant_meter_limit_override (tenant_id, meter, monthly_limit)
             SELECT current_setting('app.current_tenant')::uuid, 'span_bytes', $1::text::int",
            "tenant_meter_limit_override_monthly_limit_check",
        ),
        ("UPDATE plan SET rps = $1::text::int", "plan_rps_check"),
        ("UPDATE plan_meter_limit SET monthly_limit = $1::text::int", "plan_meter_limit_monthly_limit_check"),
    ] {
        assert_eq!(verdict(&operator, sql, "-2").await, constraint);
    }
}

#[tokio::test]
async fn a_config_is_an_object_of_bounded_size() {
    let world = World::new().await;
    let operator = operator(&world).await;
    let (registry, org_id) = (&world.registry, world.org.org_id);
    let large = json!({ "a": "b".repeat(CONFIG_BYTES_MAX) });
    for bad in [json!([]), json!([{}]), json!("text"), json!(1), json!(true), json!(null), large] {
        for refusal in [
            registry.set_product(org_id, "traces", true, &bad).await.unwrap_err(),
            registry.set_idp(org_id, IdpKind::Oidc, true, &bad).await.unwrap_err(),
        ] {
            let said = "; it must be a JSON object of at most 65536 bytes";
            assert!(refusal.to_string().ends_with(said), "{refusal}");
        }
        let text = bad.to_string();
        for (sql, constraint) in [
            (
                "INSERT INTO tenant_products (tenant_id, product, config)
                 SELECT current_setting('app.current_tenant')::uuid, 'p', $1::text::jsonb",
                "tenant_products_config_check",
            ),
            (
                "INSERT INTO tenant_idp_config (tenant_id, kind, config)
                 SELECT current_setting('app.current_tenant')::uuid, 'oidc', $1::text::jsonb",
                "tenant_idp_config_config_check",
            ),
        ] {
            assert_eq!(verdict(&operator, sql, &text).await, constraint, "{:.40}", text);
        }
    }
    let zero: Value = serde_json::from_str("{\"a\": \"\\u0000\"}").unwrap();
    let refusal = registry.set_product(org_id, "traces", true, &zero).await.unwrap_err();
    assert!(refusal.to_string().contains("it contains \\u0000"), "{refusal}");
    // Fits as the registry writes it, and not with the blanks that Postgres puts in between.
    let dense: serde_json::Map<_, _> = (0..8_000).map(|n| (format!("{n:04}"), json!(1))).collect();
    let refusal = registry.set_product(org_id, "traces", true, &dense.into()).await.unwrap_err();
    assert!(matches!(refusal, RegistryError::InvalidConfig { .. }), "{refusal}");

    for bad in ["", "Traces", "1traces", "tra-ces", &"t".repeat(64)] {
        let refusal = registry.set_product(org_id, bad, true, &json!({})).await.unwrap_err();
        assert!(matches!(refusal, RegistryError::InvalidProduct { .. }), "{refusal}");
        let sql =
            "INSERT INTO tenant_products (tenant_id, product) SELECT current_setting('app.current_tenant')::uuid, $1";
        assert_eq!(verdict(&operator, sql, bad).await, "tenant_products_product_check", "{bad}");
    }
}

#[tokio::test]
async fn scopes_and_ends_of_keys_are_checked() {
    let world = World::new().await;
    let key = world.key("site").await;
    let operator = operator(&world).await;
    let (registry, org_id) = (&world.registry, world.org.org_id);
    let project = registry.find_project(org_id, "site").await.unwrap().project_id;
    let sql = "UPDATE api_keys SET scopes = string_to_array($1, ',')";
    // A service or an operator may not change what a key may do; the owner may, and is held to its form.
    assert_eq!(verdict(&operator, sql, "a:b").await, "42501");
    for bad in ["*", "ingest", "ingest:", ":write", "Ingest:write", "a:b:c", "a:**", "a: b"] {
        let refusal = registry.create_key(org_id, project, &NewKey::new("Key", &["a:b", bad])).await.unwrap_err();
        assert!(matches!(&refusal, RegistryError::InvalidScope { scope } if scope == bad), "{refusal}");
        assert_eq!(verdict(&world.owner, sql, &format!("a:b,{bad}")).await, "api_keys_scopes_check", "{bad}");
    }
    let many = vec!["a:b"; SCOPES_MAX + 1];
    let refusal = registry.create_key(org_id, project, &NewKey::new("Key", &many)).await.unwrap_err();
    assert!(matches!(refusal, RegistryError::InvalidScope { .. }), "{refusal}");
    assert_eq!(verdict(&world.owner, sql, &many.join(",")).await, "api_keys_scopes_check");
    assert_eq!(verdict(&world.owner, sql, &many[1..].join(",")).await, "accepted");

    let past = time::OffsetDateTime::now_utc() - time::Duration::SECOND;
    let new = NewKey { expires_at: Some(past), ..NewKey::new("Key", &[]) };
    let refusal = registry.create_key(org_id, project, &new).await.unwrap_err();
    assert!(matches!(refusal, RegistryError::InvalidExpiry { .. }), "{refusal}");
    world.execute("ALTER TABLE api_keys ALTER COLUMN created_at SET DEFAULT now() + interval '1 day'").await;
    let new = NewKey { expires_at: Some(past + time::Duration::HOUR), ..new };
    let refusal = registry.create_key(org_id, project, &new).await.unwrap_err();
    assert!(matches!(refusal, RegistryError::InvalidExpiry { .. }), "over by the clock of Postgres: {refusal}");
    let sql = "UPDATE api_keys SET expires_at = created_at WHERE public_id = $1";
    assert_eq!(verdict(&operator, sql, key.public_id()).await, "api_keys_expires_at_check");
    let sql = "UPDATE api_keys SET rotated_at = now() WHERE public_id = $1";
    assert_eq!(verdict(&operator, sql, key.public_id()).await, "api_keys_rotated_at_check", "rotated, and never ends");
}

#[tokio::test]
async fn a_workspace_of_another_org_takes_no_project() {
    let world = World::new().await;
    let operator = operator(&world).await;
    let elsewhere = world.registry.create_org(&NewOrg::new("other", "Other", "free")).await.unwrap().workspace_id;
    let refusal = world.registry.create_project(world.org.org_id, elsewhere, "site", "Site").await.unwrap_err();
    assert_eq!(refusal.to_string(), format!("the organization has no workspace \"{elsewhere}\""));
    let sql = "INSERT INTO tenant_projects (tenant_id, workspace_id, slug, name)
               SELECT current_setting('app.current_tenant')::uuid, $1::text::uuid, 'site', 'Site'";
    assert_eq!(verdict(&operator, sql, &elsewhere.to_string()).await, "tenant_projects_workspace_fkey");
}
