//! Row-level security, over every table that the catalogue says is a tenant's.

#![allow(clippy::disallowed_methods, reason = "tests bind transactions by hand, to see what happens when nobody does")]

use model::ids::OrgId;
use registry::{NewOrg, Registry, RegistryError};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool, Postgres, Row, Transaction};

use crate::support::{World, bound, fill, url};

/// What the directory shows an operator of every org.
const DIRECTORY: [&str; 4] = ["tenants", "workspaces", "tenant_projects", "shard_map"];

/// The functions that run as the owner, each with its reason in docs/reference/registry.md.
const DOORS: [&str; 8] = [
    "ensure_default_org",
    "envelope_key",
    "find_api_key",
    "find_project",
    "mark_published",
    "org_ids",
    "outbox_events",
    "record_event_of_no_org",
];

/// A table whose rows belong to orgs, and the column that says to which.
struct Table {
    name: String,
    column: &'static str,
}

/// Every such table: `tenants`, and what has a `tenant_id`.
async fn tables(pool: &PgPool) -> Vec<Table> {
    let names: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class c
          WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
            AND (relname = 'tenants' OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid
                                                   AND a.attname = 'tenant_id' AND NOT a.attisdropped))
          ORDER BY relname",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let table = |name: String| Table { column: if name == "tenants" { "id" } else { "tenant_id" }, name };
    names.into_iter().map(table).collect()
}

/// Those of them that row-level security does not keep apart, and why.
async fn unprotected(pool: &PgPool) -> Vec<String> {
    let mut found = Vec::new();
    for Table { name, column } in tables(pool).await {
        let own = format!("({column} = (NULLIF(current_setting('app.current_tenant'::text, true), ''::text))::uuid)");
        let row = sqlx::query(
            "SELECT relrowsecurity AS on, relforcerowsecurity AS forced,
                    EXISTS (SELECT FROM pg_policy p WHERE polrelid = c.oid AND polcmd = '*' AND polroles = '{0}'
                               AND pg_get_expr(polqual, polrelid) = $2
                               AND pg_get_expr(polwithcheck, polrelid) = $2) AS has_policy
               FROM pg_class c WHERE oid = to_regclass($1)",
        )
        .bind(&name)
        .bind(&own)
        .fetch_one(pool)
        .await
        .unwrap();
        for (holds, problem) in [("on", "is off"), ("forced", "is not forced"), ("has_policy", "has no policy own_org")]
        {
            if !row.get::<bool, _>(holds) {
                found.push(format!("{name}: row-level security {problem}"));
            }
        }
    }
    found
}

#[tokio::test]
async fn every_table_of_a_tenant_is_protected_and_a_new_one_is_noticed() {
    let world = World::new().await;
    assert_eq!(unprotected(&world.owner).await, Vec::<String>::new());
    assert!(tables(&world.owner).await.len() >= 14);

    world.execute("CREATE TABLE later (tenant_id uuid REFERENCES tenants (id) ON DELETE CASCADE, note text)").await;
    let problems = ["later: row-level security is off", "later: row-level security is not forced"];
    let problems = [&problems[..], &["later: row-level security has no policy own_org"]].concat();
    assert_eq!(unprotected(&world.owner).await, problems);
    world.execute("ALTER TABLE later ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY").await;
    world.execute("CREATE POLICY own_org ON later USING (true) WITH CHECK (true)").await;
    assert_eq!(unprotected(&world.owner).await, problems[2..], "a policy that lets all through is none");
}

#[tokio::test]
async fn the_lookup_functions_are_the_only_exceptions_to_the_policies() {
    let world = World::new().await;
    let more: Vec<String> = sqlx::query_scalar(
        "SELECT policyname || ' ' || tablename || ' ' || cmd || ' ' || roles::text || ' ' || coalesce(qual, with_check)
           FROM pg_policies WHERE schemaname = 'public' AND policyname <> 'own_org' ORDER BY 1",
    )
    .fetch_all(&world.owner)
    .await
    .unwrap();
    let lookup = "(public_id = NULLIF(current_setting('app.key_lookup'::text, true), ''::text))";
    let project = "(id = (NULLIF(current_setting('app.project_lookup'::text, true), ''::text))::uuid)";
    let open = |door: &str| format!("(current_setting('app.{door}'::text, true) = 'open'::text)");
    assert_eq!(
        more,
        [
            "directory shard_map SELECT {tracebility_operator} true",
            "directory tenant_projects SELECT {tracebility_operator} true",
            "directory tenants SELECT {tracebility_operator} true",
            "directory workspaces SELECT {tracebility_operator} true",
            &format!("key_lookup api_keys SELECT {{tracebility_owner}} {lookup}"),
            &format!("org_list tenants SELECT {{tracebility_owner}} {}", open("org_list")),
            &format!(
                "outbox_of_no_org audit_outbox INSERT {{tracebility_owner}} ((tenant_id IS NULL) AND {})",
                open("outbox")
            ),
            &format!("outbox_publish audit_outbox UPDATE {{tracebility_owner}} {}", open("outbox")),
            &format!("outbox_read audit_outbox SELECT {{tracebility_owner}} {}", open("outbox")),
            &format!("project_lookup tenant_projects SELECT {{tracebility_owner}} {project}"),
        ]
    );
    let views: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('v', 'm')
            AND NOT coalesce(reloptions @> '{security_invoker=true}', false)",
    )
    .fetch_all(&world.owner)
    .await
    .unwrap();
    assert_eq!(views, Vec::<String>::new(), "a view that reads with its owner's rights");
    let definers: Vec<String> = sqlx::query_scalar(
        "SELECT proname || ' ' || proconfig::text || ' ' || has_function_privilege('public', oid, 'EXECUTE')
           FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosecdef ORDER BY proname",
    )
    .fetch_all(&world.owner)
    .await
    .unwrap();
    assert_eq!(definers, DOORS.map(|door| format!("{door} {{\"search_path=pg_catalog, pg_temp\"}} false")));
    let bypass: Vec<String> = sqlx::query_scalar(
        "SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'tracebility%' AND (rolsuper OR rolbypassrls)",
    )
    .fetch_all(&world.owner)
    .await
    .unwrap();
    assert_eq!(bypass, Vec::<String>::new());
}

/// A transaction bound to an org, or to none.
async fn begin(pool: &PgPool, org: Option<OrgId>) -> Transaction<'static, Postgres> {
    let mut transaction = pool.begin().await.unwrap();
    let org = org.map_or_else(String::new, |org| org.to_string());
    let bind = sqlx::query("SELECT set_config('app.current_tenant', $1, true)").bind(org);
    bind.execute(&mut *transaction).await.unwrap();
    transaction
}

/// How many rows a statement touches, or the message of its refusal, in a transaction that is not kept.
async fn touch(pool: &PgPool, org: Option<OrgId>, sql: String, row: Option<&Value>) -> Result<u64, String> {
    let mut transaction = begin(pool, org).await;
    let query = sqlx::query(AssertSqlSafe(sql.clone()));
    let query = if let Some(row) = row { query.bind(row) } else { query };
    let done = query.execute(&mut *transaction).await;
    done.map(|done| done.rows_affected()).map_err(|error| {
        let error = error.as_database_error().unwrap_or_else(|| panic!("{sql}: {error}"));
        // insufficient_privilege; anything else means that the row got past the policy.
        assert_eq!(error.code().as_deref(), Some("42501"), "{sql}: {error}");
        error.message().to_owned()
    })
}

async fn orgs_seen(pool: &PgPool, org: Option<OrgId>, Table { name, column }: &Table) -> Vec<String> {
    let sql = format!("SELECT {column}::text FROM {name} ORDER BY 1");
    let mut transaction = begin(pool, org).await;
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut *transaction).await.unwrap()
}

/// A column of the table that the role may change, if there is any.
async fn changeable(pool: &PgPool, name: &str) -> Option<String> {
    sqlx::query_scalar(
        "SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped
            AND attidentity = '' AND has_column_privilege(attrelid, attnum, 'UPDATE') ORDER BY attnum LIMIT 1",
    )
    .bind(name)
    .fetch_optional(pool)
    .await
    .unwrap()
}

#[tokio::test]
async fn one_org_can_neither_see_nor_touch_the_rows_of_another() {
    let world = World::new().await;
    let a = world.org.org_id;
    let b = world.registry.create_org(&NewOrg::new("other", "Other", "free")).await.unwrap().org_id;
    let of_b = bound(&world.db.pg_owner_dsn, b).await;
    fill(&world.owner).await;
    fill(&of_b).await;
    // Not `postgres::pool`, which refuses the owner.
    let owner = PgPool::connect(&world.db.pg_owner_dsn).await.unwrap();

    for table in &tables(&world.owner).await {
        let Table { name, column } = table;
        let rows = |pool: PgPool| async move {
            let sql = format!("SELECT to_jsonb(t) FROM {name} t");
            sqlx::query_scalar::<_, Value>(AssertSqlSafe(sql)).fetch_all(&pool).await.unwrap()
        };
        let (rows_of_a, rows_of_b) = (rows(world.owner.clone()).await, rows(of_b.clone()).await);
        assert!(!rows_of_a.is_empty() && !rows_of_b.is_empty(), "`fill` puts no row into {name}");
        let only_a = vec![a.to_string(); rows_of_a.len()];

        for (role, pool) in [("app", &world.pool), ("operator", &world.operator), ("owner", &owner)] {
            let at = format!("{name} as {role}");
            let sees_all = role == "operator" && DIRECTORY.contains(&name.as_str());
            let seen = orgs_seen(pool, None, table).await;
            assert_eq!(seen.len(), if sees_all { rows_of_a.len() + rows_of_b.len() } else { 0 }, "{at}, not bound");
            let seen = orgs_seen(pool, Some(a), table).await;
            if sees_all {
                assert!(seen.contains(&b.to_string()), "{at}");
            } else {
                assert_eq!(seen, only_a, "{at}");
            }

            // The whole row, as it is: Postgres asks the policy before it looks for a duplicate.
            let insert = format!(
                "INSERT INTO {name} OVERRIDING SYSTEM VALUE SELECT * FROM jsonb_populate_record(NULL::{name}, $1)"
            );
            for (org, row) in [(None, &rows_of_a[0]), (None, &rows_of_b[0]), (Some(a), &rows_of_b[0])] {
                let refusal = touch(pool, org, insert.clone(), Some(row)).await.expect_err(&at);
                let by_policy = format!("new row violates row-level security policy for table \"{name}\"");
                assert!(role != "owner" || refusal == by_policy, "{at}: {refusal}");
            }

            let change = changeable(pool, name).await;
            assert!(role != "owner" || change.is_some());
            if let Some(change) = &change {
                let update = |whose: &str| format!("UPDATE {name} SET {change} = {change} WHERE {column} = '{whose}'");
                assert_eq!(touch(pool, Some(a), update(&b.to_string()), None).await, Ok(0), "{at}");
                assert_eq!(touch(pool, None, update(&a.to_string()), None).await, Ok(0), "{at}, not bound");
                let own = touch(pool, Some(a), update(&a.to_string()), None).await;
                assert_eq!(own, Ok(rows_of_a.len() as u64), "{at}: otherwise this test would prove nothing");
                let all = touch(pool, Some(a), format!("UPDATE {name} SET {change} = {change}"), None).await;
                assert_eq!(all, Ok(rows_of_a.len() as u64), "{at}");
            }
            let delete = |whose: OrgId| format!("DELETE FROM {name} WHERE {column} = '{whose}'");
            match touch(pool, Some(a), delete(a), None).await {
                Ok(deleted) => {
                    assert_eq!(deleted, rows_of_a.len() as u64, "{at}");
                    assert_eq!(touch(pool, Some(a), delete(b), None).await, Ok(0), "{at}");
                    assert_eq!(touch(pool, None, delete(a), None).await, Ok(0), "{at}, not bound");
                    let all = touch(pool, Some(a), format!("DELETE FROM {name}"), None).await;
                    assert_eq!(all, Ok(rows_of_a.len() as u64), "{at}");
                }
                Err(refusal) => assert_eq!(refusal, format!("permission denied for table {name}"), "{at}"),
            }
            let give_away = format!("UPDATE {name} SET {column} = '{b}' WHERE {column} = '{a}'");
            let refusal = touch(pool, Some(a), give_away, None).await.expect_err(&at);
            assert!(role != "owner" || refusal.contains("row-level security"), "{at}: {refusal}");
        }
    }
}

#[tokio::test]
async fn an_upsert_cannot_take_over_the_row_of_another() {
    let world = World::new().await;
    let other = world.registry.create_org(&NewOrg::new("other", "Other", "free")).await.unwrap();
    let sql = format!(
        "INSERT INTO workspaces (id, tenant_id, slug, name) VALUES ('{}', '{}', 'mine', 'Mine')
         ON CONFLICT (id) DO UPDATE SET name = excluded.name",
        other.workspace_id, world.org.org_id
    );
    let refusal = touch(&world.operator, Some(world.org.org_id), sql, None).await.unwrap_err();
    assert!(refusal.contains("row-level security"), "{refusal}");
}

#[tokio::test]
async fn an_invalid_tenant_setting_is_an_error_and_shows_no_rows() {
    let world = World::new().await;
    for setting in ["all", "%", "' OR true --", "00000000-0000-0000-0000-00000000000g"] {
        let mut transaction = world.pool.begin().await.unwrap();
        let bind = sqlx::query("SELECT set_config('app.current_tenant', $1, true)").bind(setting);
        bind.execute(&mut *transaction).await.unwrap();
        let error = sqlx::query("SELECT * FROM tenants").fetch_all(&mut *transaction).await.unwrap_err();
        assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("22P02"), "{setting}");
    }
}

#[tokio::test]
async fn a_session_leaves_its_connection_bound_to_no_org() {
    let world = World::new().await;
    let pool =
        sqlx::postgres::PgPoolOptions::new().max_connections(1).connect(&world.db.pg_operator_dsn).await.unwrap();
    let registry = Registry::new(pool.clone());
    registry.create_workspace(world.org.org_id, "team", "Team").await.unwrap();
    registry.create_workspace(world.org.org_id, "team", "Team").await.unwrap_err();
    registry.limits(world.org.org_id).await.unwrap();
    let left: String = sqlx::query_scalar("SELECT coalesce(current_setting('app.current_tenant', true), '')")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(left, "");
}

#[tokio::test]
async fn a_role_not_bound_by_the_policies_is_refused() {
    let world = World::new().await;
    let owner = url(&world.db.pg_owner_dsn);
    let Err(RegistryError::UnboundRole(unbound)) = Registry::connect(&owner).await else { panic!("accepted") };
    assert_eq!((unbound.role.as_str(), unbound.unbound.as_str()), ("tracebility_owner", "tracebility_owner"));
    assert!(unbound.to_string().contains("log in as tracebility_app"), "{unbound}");
    let pool = stores::postgres::pool(&owner).unwrap();
    assert!(sqlx::query("SELECT 1").execute(&pool).await.is_err(), "a service with the owner's URL gets no connection");
    Registry::connect(&url(&world.db.pg_operator_dsn)).await.unwrap();
}

/// Per table, what the two roles may do, as docs/reference/registry.md has it.
async fn rights(pool: &PgPool) -> Vec<String> {
    let rows = sqlx::query(
        "SELECT relname::text AS name, role,
                array_to_string(array(
                    SELECT word FROM unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER'],
                                            array['read', 'add', 'change', 'delete', 'TRUNCATE', 'REFERENCES', 'TRIGGER'])
                                     AS p (privilege, word)
                     WHERE has_table_privilege(role, c.oid, privilege)), ', ') AS rights,
                array_to_string(array(
                    SELECT attname FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
                       AND has_column_privilege(role, c.oid, attnum, 'UPDATE') AND NOT has_table_privilege(role, c.oid, 'UPDATE')
                     ORDER BY attnum), ', ') AS columns
           FROM pg_class c, unnest(array['tracebility_app', 'tracebility_operator']) AS role
          WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm') ORDER BY relname, role",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let cell = |row: &sqlx::postgres::PgRow| {
        let (rights, columns): (String, String) = (row.get("rights"), row.get("columns"));
        match (rights.as_str(), columns.as_str()) {
            ("", "") => "nothing".to_owned(),
            (_, "") => rights,
            _ => format!("{rights}; change {columns}"),
        }
    };
    let line = |pair: &[sqlx::postgres::PgRow]| {
        format!("| `{}` | {} | {} |", pair[0].get::<&str, _>("name"), cell(&pair[0]), cell(&pair[1]))
    };
    rows.chunks(2).map(line).collect()
}

#[tokio::test]
async fn the_roles_may_do_what_is_documented_and_no_more() {
    let world = World::new().await;
    let documented = include_str!("../../docs/reference/registry.md");
    let start = documented.find("| table | ").expect("the table of rights");
    let documented: Vec<_> = documented[start..].lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    let found = rights(&world.owner).await;
    assert!(documented == found, "docs/reference/registry.md should have:\n{}", found.join("\n"));
}
