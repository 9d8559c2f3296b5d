//! What the database itself refuses, whoever asks.

use tenant::registry::NewOrg;

use crate::support::World;

/// Whether `sql` is refused, by which constraint or with which code.
async fn refusal(world: &World, sql: &'static str) -> String {
    match sqlx::raw_sql(sql).execute(&world.owner).await {
        Ok(_) => "accepted".to_owned(),
        Err(error) => {
            let database = error.as_database_error().unwrap_or_else(|| panic!("{sql}: {error}"));
            database.constraint().map_or_else(|| database.code().unwrap().into_owned(), str::to_owned)
        }
    }
}

#[tokio::test]
async fn bad_rows_are_refused_by_their_constraint() {
    let world = World::new().await;
    world.key("site").await;
    let cases = [
        ("INSERT INTO tenants (slug, name) VALUES ('ab', 'x')", "tenants_slug_check"),
        ("INSERT INTO tenants (slug, name) VALUES ('-abc', 'x')", "tenants_slug_check"),
        ("INSERT INTO tenants (slug, name) VALUES ('Abc', 'x')", "tenants_slug_check"),
        ("INSERT INTO tenants (slug, name) VALUES (repeat('a', 41), 'x')", "tenants_slug_check"),
        ("INSERT INTO tenants (slug, name) VALUES ('acme', 'x')", "tenants_slug_key"),
        ("INSERT INTO tenants (slug, name) VALUES ('abc', ' ')", "tenants_name_check"),
        ("UPDATE tenants SET plan = 'gold'", "tenants_plan_fkey"),
        ("UPDATE tenants SET retention_days = 0", "tenants_retention_days_check"),
        ("UPDATE tenants SET status = 'gone'", "22P02"),
        (
            "UPDATE tenants SET contract_starts_on = '2026-02-01', contract_ends_on = '2026-01-01'",
            "tenants_contract_check",
        ),
        (
            "INSERT INTO tenant_products (tenant_id, product, config) SELECT id, 'p', '[]' FROM tenants",
            "tenant_products_config_check",
        ),
        (
            "INSERT INTO tenant_idp_config (tenant_id, kind, config) SELECT id, 'oidc', '1' FROM tenants",
            "tenant_idp_config_config_check",
        ),
        ("UPDATE api_keys SET key_hash = 'plain'", "api_keys_key_hash_check"),
        ("UPDATE api_keys SET scopes = array[NULL]", "api_keys_scopes_check"),
        ("UPDATE api_keys SET expires_at = created_at", "api_keys_expires_at_check"),
        ("UPDATE plan SET rps = -2", "plan_rps_check"),
        ("INSERT INTO plan_meter_limit VALUES ('free', 'replay_run', -2)", "plan_meter_limit_monthly_limit_check"),
        ("INSERT INTO plan_meter_limit VALUES ('free', 'lunches', 1)", "meter_check"),
        (
            "INSERT INTO tenant_plan_override (tenant_id, rps) SELECT id, -2 FROM tenants",
            "tenant_plan_override_rps_check",
        ),
        (
            "INSERT INTO quota_period (tenant_id, period, meter) SELECT id, 202613, 'replay_run' FROM tenants",
            "period_check",
        ),
        (
            "INSERT INTO quota_period (tenant_id, period, meter) SELECT id, 2611, 'replay_run' FROM tenants",
            "period_check",
        ),
        (
            "INSERT INTO shard_map (tenant_id, shard, created_by) SELECT id, 16, 'x' FROM tenants",
            "shard_map_shard_check",
        ),
        (
            "INSERT INTO workspace_selection (tenant_id, user_id, workspace_id) SELECT tenant_id, 'u', id FROM workspaces",
            "workspace_selection_membership_fkey",
        ),
        (
            "INSERT INTO quota_period (tenant_id, period, meter) SELECT id, 202612, 'replay_run' FROM tenants",
            "accepted",
        ),
        ("UPDATE plan SET rps = -1 WHERE name = 'self_hosted'", "accepted"),
    ];
    for (sql, expected) in cases {
        assert_eq!(refusal(&world, sql).await, expected, "{sql}");
    }
}

#[tokio::test]
async fn nothing_of_one_org_can_be_in_another() {
    let world = World::new().await;
    world.key("site").await;
    world.registry.create_org(&NewOrg::new("other", "Other", "free")).await.unwrap();
    let other = "(SELECT id FROM tenants WHERE slug = 'other')";
    let cases: [(&'static str, &str); 3] = [
        (
            "INSERT INTO tenant_projects (tenant_id, workspace_id, slug, name)
            SELECT o.id, w.id, 'abc', 'x' FROM tenants o, workspaces w, tenants t
             WHERE o.slug = 'other' AND w.tenant_id = t.id AND t.slug = 'acme'",
            "tenant_projects_workspace_fkey",
        ),
        ("UPDATE api_keys SET tenant_id = (SELECT id FROM tenants WHERE slug = 'other')", "api_keys_project_fkey"),
        (
            "INSERT INTO memberships (tenant_id, workspace_id, user_id)
            SELECT o.id, p.workspace_id, 'u' FROM tenants o, tenant_projects p WHERE o.slug = 'other'",
            "memberships_workspace_fkey",
        ),
    ];
    for (sql, expected) in cases {
        assert_eq!(refusal(&world, sql).await, expected, "{sql} {other}");
    }
}

#[tokio::test]
async fn what_an_org_owns_goes_with_it_and_its_history_stays() {
    let world = World::new().await;
    world.key("site").await;
    world
        .execute(
            "INSERT INTO memberships (tenant_id, workspace_id, user_id) SELECT tenant_id, id, 'u' FROM workspaces;
             INSERT INTO workspace_selection (tenant_id, workspace_id, user_id) SELECT tenant_id, id, 'u' FROM workspaces;
             INSERT INTO audit_log (tenant_id, event_type, actor) SELECT id, 'login', 'u' FROM tenants;
             DELETE FROM tenants",
        )
        .await;
    for sql in [
        "SELECT count(*) FROM workspaces",
        "SELECT count(*) FROM tenant_projects",
        "SELECT count(*) FROM api_keys",
        "SELECT count(*) FROM memberships",
        "SELECT count(*) FROM workspace_selection",
    ] {
        assert_eq!(world.count(sql).await, 0, "{sql}");
    }
    let kept = "SELECT count(*) FROM audit_log WHERE tenant_id IS NULL AND tenant_ref IS NOT NULL";
    assert_eq!(world.count(kept).await, 1);
    let kept = "SELECT count(*) FROM audit_outbox WHERE tenant_id IS NULL AND tenant_ref IS NOT NULL";
    assert_eq!(world.count(kept).await, 3);
}

#[tokio::test]
async fn plans_have_the_documented_limits() {
    let world = World::new().await;
    let plans: Vec<(String, i32, i32, i32)> =
        sqlx::query_as("SELECT name, rps, burst, eval_slots FROM plan ORDER BY rps")
            .fetch_all(&world.pool)
            .await
            .unwrap();
    let expected = [
        ("free", 50, 200, 2),
        ("pro", 500, 2000, 16),
        ("enterprise", 5000, 20000, 64),
        ("self_hosted", 50000, 200_000, 64),
    ];
    assert_eq!(plans, expected.map(|(name, rps, burst, slots)| (name.to_owned(), rps, burst, slots)));
    let limits: Vec<i64> = sqlx::query_scalar(
        "SELECT monthly_limit FROM plan_meter_limit
          ORDER BY plan, array_position(array['span_ingested', 'span_bytes', 'eval_judge_call'], meter::text)",
    )
    .fetch_all(&world.pool)
    .await
    .unwrap();
    let (free, pro) = ([1_000_000, 5 << 30, 10_000], [50_000_000, 250 << 30, 500_000]);
    assert_eq!(limits, [[-1; 3], free, pro, [-1; 3]].concat());
}

#[tokio::test]
async fn a_change_moves_updated_at() {
    let world = World::new().await;
    world.key("site").await;
    world
        .execute(
            "INSERT INTO tenant_products (tenant_id, product) SELECT id, 'traces' FROM tenants;
             INSERT INTO tenant_idp_config (tenant_id, kind) SELECT id, 'oidc' FROM tenants",
        )
        .await;
    world.execute("UPDATE tenants SET name = 'New'").await;
    world.execute("UPDATE tenant_projects SET name = 'New'").await;
    world.execute("UPDATE tenant_products SET enabled = false").await;
    world.execute("UPDATE tenant_idp_config SET enabled = false").await;
    for sql in [
        "SELECT count(*) FROM tenants WHERE updated_at > created_at",
        "SELECT count(*) FROM tenant_projects WHERE updated_at > created_at",
        "SELECT count(*) FROM tenant_products WHERE updated_at > created_at",
        "SELECT count(*) FROM tenant_idp_config WHERE updated_at > created_at",
    ] {
        assert_eq!(world.count(sql).await, 1, "{sql}");
    }
}

#[tokio::test]
async fn a_service_can_neither_delete_history_nor_change_it() {
    let world = World::new().await;
    for sql in [
        "DELETE FROM audit_log",
        "UPDATE audit_log SET actor = 'x'",
        "DELETE FROM audit_outbox",
        "UPDATE audit_outbox SET actor = 'x'",
        "DELETE FROM tenants",
        "UPDATE plan SET rps = 1",
        "DELETE FROM shard_map",
        "CREATE TABLE mine (id int)",
        "DROP TABLE audit_log",
    ] {
        let error = sqlx::raw_sql(sql).execute(&world.pool).await.unwrap_err();
        // insufficient_privilege
        assert_eq!(error.as_database_error().unwrap().code().unwrap(), "42501", "{sql}");
    }
    sqlx::raw_sql("UPDATE audit_outbox SET published_at = now()").execute(&world.pool).await.unwrap();
}
