//! What the database itself refuses, whoever asks.

use std::collections::BTreeMap;

use registry::NewOrg;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};

use crate::support::{World, bound, fill};

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
        ("UPDATE tenants SET slug = 'ab'", "tenants_slug_check"),
        ("UPDATE tenants SET slug = 'admin'", "tenants_slug_reserved_check"),
        ("UPDATE tenants SET name = ' '", "tenants_name_check"),
        ("UPDATE tenants SET plan = 'gold'", "tenants_plan_fkey"),
        ("UPDATE tenants SET retention_days = 0", "tenants_retention_days_check"),
        ("UPDATE tenants SET status = 'gone'", "22P02"),
        ("UPDATE tenants SET status = 'frozen'", "tenants_frozen_from_check"),
        ("UPDATE tenants SET frozen_from = 'active'", "tenants_frozen_from_check"),
        ("UPDATE tenants SET status = 'frozen', frozen_from = 'archived'", "tenants_frozen_from_check"),
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
async fn rows_of_one_org_cannot_be_placed_in_another() {
    let world = World::new().await;
    let other = world.registry.create_org(&NewOrg::new("other", "Other", "free")).await.unwrap();
    let project = world.registry.create_project(other.org_id, other.workspace_id, "site", "Site").await.unwrap();
    let workspace = other.workspace_id;
    let cases = [
        (
            format!(
                "INSERT INTO tenant_projects (tenant_id, workspace_id, slug, name) SELECT id, '{workspace}', 'abc', 'x'"
            ),
            "tenant_projects_workspace_fkey",
        ),
        (
            format!(
                "INSERT INTO api_keys (tenant_id, project_id, public_id, key_hash, prefix, last_four, name)
                 SELECT id, '{project}', 'abcdefgh', '$argon2id$', 'tb_', '0000', 'x'"
            ),
            "api_keys_project_fkey",
        ),
        (
            format!("INSERT INTO memberships (tenant_id, workspace_id, user_id) SELECT id, '{workspace}', 'u'"),
            "memberships_workspace_fkey",
        ),
        (
            format!("INSERT INTO workspace_selection (tenant_id, workspace_id, user_id) SELECT id, '{workspace}', 'u'"),
            "workspace_selection_membership_fkey",
        ),
    ];
    for (sql, expected) in cases {
        let sql = format!("{sql} FROM tenants");
        let error = sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(&world.owner).await.expect_err(&sql);
        assert_eq!(error.as_database_error().unwrap().constraint(), Some(expected), "{sql}");
    }
}

/// What every reference to an org, a workspace or a project does when that is deleted.
const REFERENCES: [(&str, &str); 18] = [
    ("api_keys_project_fkey", "CASCADE"),
    ("api_keys_tenant_id_fkey", "CASCADE"),
    ("audit_log_tenant_id_fkey", "SET NULL"),
    ("audit_outbox_tenant_id_fkey", "SET NULL"),
    ("memberships_tenant_id_fkey", "CASCADE"),
    ("memberships_workspace_fkey", "CASCADE"),
    ("quota_period_tenant_id_fkey", "CASCADE"),
    ("shard_map_tenant_id_fkey", "CASCADE"),
    ("tenant_idp_config_tenant_id_fkey", "CASCADE"),
    ("tenant_meter_limit_override_tenant_id_fkey", "CASCADE"),
    ("tenant_plan_override_tenant_id_fkey", "CASCADE"),
    ("tenant_products_tenant_id_fkey", "CASCADE"),
    ("tenant_projects_tenant_id_fkey", "CASCADE"),
    ("tenant_projects_workspace_fkey", "CASCADE"),
    ("workspace_selection_membership_fkey", "CASCADE"),
    ("workspace_selection_tenant_id_fkey", "CASCADE"),
    ("workspaces_tenant_id_fkey", "CASCADE"),
    ("tenants_plan_fkey", "NO ACTION"),
];

#[tokio::test]
async fn every_org_gets_its_workspace_despite_shadowing_tables() {
    let world = World::new().await;
    let org_id = uuid::Uuid::new_v4();
    let mut operator = PgConnection::connect(&world.db.pg_operator_dsn).await.unwrap();
    let bind = sqlx::query("SELECT set_config('app.current_tenant', $1, false)").bind(org_id.to_string());
    bind.execute(&mut operator).await.unwrap();
    // What runs as the owner would otherwise write to a table, and run triggers, of the caller's choosing.
    let shadow = "CREATE TEMP TABLE workspaces (tenant_id uuid, slug text, name text); SET search_path = pg_temp";
    sqlx::raw_sql(shadow).execute(&mut operator).await.unwrap();
    let create = sqlx::query("INSERT INTO public.tenants (id, slug, name) VALUES ($1, 'other', 'Other')").bind(org_id);
    create.execute(&mut operator).await.unwrap();
    let find = sqlx::query_scalar("SELECT slug FROM public.workspaces WHERE tenant_id = $1").bind(org_id);
    let slugs: Vec<String> = find.fetch_all(&mut operator).await.unwrap();
    assert_eq!(slugs, ["main"]);
}

#[tokio::test]
async fn every_foreign_key_has_its_expected_delete_action() {
    let world = World::new().await;
    let mut found: Vec<(String, String)> = sqlx::query_as(
        "SELECT conname::text, CASE confdeltype WHEN 'c' THEN 'CASCADE' WHEN 'n' THEN 'SET NULL' ELSE 'NO ACTION' END
           FROM pg_constraint WHERE contype = 'f' AND connamespace = 'public'::regnamespace
            AND conrelid <> 'plan_meter_limit'::regclass",
    )
    .fetch_all(&world.owner)
    .await
    .unwrap();
    found.sort();
    let mut expected = REFERENCES.map(|(name, action)| (name.to_owned(), action.to_owned()));
    expected.sort();
    assert_eq!(found, expected);
}

/// How many rows each table has for the org that the pool is bound to.
async fn counts(owner: &PgPool) -> BTreeMap<&'static str, i64> {
    let mut counts = BTreeMap::new();
    for table in OWNED.into_iter().chain(["tenants", "audit_log", "audit_outbox"]) {
        let count = sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) FROM {table}")));
        counts.insert(table, count.fetch_one(owner).await.unwrap());
    }
    counts
}

/// What goes with an org.
const OWNED: [&str; 11] = [
    "workspaces",
    "tenant_projects",
    "api_keys",
    "tenant_products",
    "tenant_idp_config",
    "tenant_plan_override",
    "tenant_meter_limit_override",
    "quota_period",
    "memberships",
    "workspace_selection",
    "shard_map",
];

#[tokio::test]
async fn deleting_an_org_deletes_its_rows_and_keeps_its_history() {
    let world = World::new().await;
    let other = world.registry.create_org(&NewOrg::new("other", "Other", "free")).await.unwrap().org_id;
    let of_other = bound(&world.db.pg_owner_dsn, other).await;
    fill(&world.owner).await;
    fill(&of_other).await;
    let before = counts(&of_other).await;
    assert!(before.values().all(|count| *count > 0) && counts(&world.owner).await.values().all(|count| *count > 0));
    let (logged, recorded) = (before["audit_log"], counts(&world.owner).await["audit_outbox"]);

    // As docs/reference/registry.md has it: the owner, bound to the org. Nobody else may.
    world.execute("DELETE FROM tenants").await;
    assert!(counts(&world.owner).await.values().all(|count| *count == 0), "{:?}", counts(&world.owner).await);
    assert_eq!(counts(&of_other).await, before, "the other org has all it had");
    // History is no org's any more; only who switches the policy off sees it.
    for (table, rows) in [("audit_log", logged), ("audit_outbox", recorded)] {
        let sql = format!("ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&world.owner).await.unwrap();
        let sql = format!("SELECT count(*) FROM {table} WHERE tenant_id IS NULL AND tenant_ref = $1");
        let kept = sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql)).bind(world.org.org_id.to_string());
        assert_eq!(kept.fetch_one(&world.owner).await.unwrap(), rows, "{table}");
    }
}

#[tokio::test]
async fn deleting_a_workspace_or_project_deletes_its_contents() {
    let world = World::new().await;
    fill(&world.owner).await;
    let before = counts(&world.owner).await;
    let gone = |after: &BTreeMap<&'static str, i64>| -> Vec<&str> {
        before.keys().copied().filter(|table| after[table] < before[table]).collect()
    };
    world.execute("DELETE FROM tenant_projects").await;
    assert_eq!(gone(&counts(&world.owner).await), ["api_keys", "tenant_projects"]);
    world.execute("DELETE FROM workspaces").await;
    let expected = ["api_keys", "memberships", "tenant_projects", "workspace_selection", "workspaces"];
    assert_eq!(gone(&counts(&world.owner).await), expected);

    let world = World::new().await;
    fill(&world.owner).await;
    world.execute("DELETE FROM workspaces").await;
    assert_eq!(gone(&counts(&world.owner).await), expected, "also when it takes its projects with it");
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
