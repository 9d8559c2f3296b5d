//! A deployment from before orgs: tables of the old shape with rows in them, live writers, and the orgs of the
//! projects.

use std::collections::BTreeMap;

use clickhouse::Client;
use migrate::{CLICKHOUSE, Stores};
use registry::{NewOrg, Registry};
use stack::TestDb;
use stores::secret::SecretUrl;
use uuid::Uuid;

use crate::support::{Ran, clickhouse, empty, migrate, must, stores};

/// The tables that 0002 rebuilds.
pub(crate) const TABLES: [&str; 8] =
    ["run", "span", "eval_score", "eval_aggregate", "replay_capture", "replay_run", "dataset_item", "billing_meter"];

/// A range of rows in a test: the numbers of the rows, from which all their columns follow, and their version.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batch {
    pub(crate) first: u64,
    pub(crate) rows: u64,
    pub(crate) version: u64,
}

/// Databases with ClickHouse at version 1, and Postgres at a newer version.
pub(crate) struct World {
    pub(crate) db: TestDb,
    pub(crate) client: Client,
    /// The projects, each with its org and workspace.
    pub(crate) projects: Vec<(Uuid, Uuid, Uuid)>,
    /// Per table, the old columns, each with an SQL expression over `number` for its value.
    columns: BTreeMap<String, Vec<(String, String)>>,
}

impl World {
    /// A deployment with two orgs and three projects.
    pub(crate) async fn before_orgs() -> Self {
        let db = empty().await;
        must(&stores(&db), &["up", "--target", "postgres"]).await;
        let projects = make_projects(&db).await;
        let mut world = Self { client: clickhouse(&db.clickhouse_url), db, projects, columns: BTreeMap::new() };
        world.to_version_one().await;
        world.columns = world.columns_with_values().await;
        world
    }

    /// Runs the first file only, as the first release did.
    async fn to_version_one(&self) {
        for statement in CLICKHOUSE[0].up.split(";\n") {
            let sql: String = statement.lines().filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join("\n");
            if !sql.trim().is_empty() {
                self.execute(&sql).await;
            }
        }
        must(&stores(&self.db), &["force", "1", "--target", "clickhouse", "--i-verified"]).await;
    }

    pub(crate) fn stores(&self) -> Stores {
        stores(&self.db)
    }

    /// Runs `migrate … --target clickhouse` with the URL of the registry.
    pub(crate) async fn migrate(&self, args: &[&str]) -> Ran {
        let mut command = migrate(&self.stores(), &[args, &["--target", "clickhouse"]].concat());
        command.env("TRACEBILITY_CLICKHOUSE_REGISTRY_DSN", &self.db.pg_operator_dsn);
        command.output().await.unwrap().into()
    }

    pub(crate) async fn must(&self, args: &[&str]) -> Ran {
        let ran = self.migrate(args).await;
        assert_eq!(ran.code, Some(0), "{args:?}: {ran:?}");
        ran
    }

    pub(crate) async fn execute(&self, sql: &str) {
        self.client.query_raw(sql).execute().await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    pub(crate) async fn number(&self, sql: &str) -> u64 {
        self.client.query_raw(sql).fetch_one().await.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    pub(crate) async fn texts(&self, sql: &str) -> Vec<String> {
        self.client.query_raw(sql).fetch_all().await.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Every column of every table, with a value that depends on the row's number and the column's name.
    async fn columns_with_values(&self) -> BTreeMap<String, Vec<(String, String)>> {
        let sql =
            "SELECT table, name, type FROM system.columns WHERE database = currentDatabase() ORDER BY table, position";
        let found: Vec<(String, String, String)> = self.client.query_raw(sql).fetch_all().await.unwrap();
        let mut columns = BTreeMap::<_, Vec<_>>::new();
        for (table, name, ty) in found.into_iter().filter(|(table, ..)| TABLES.contains(&table.as_str())) {
            let value = match name.as_str() {
                "project_id" => self.of_project(|(project, ..)| *project),
                // Three months. Two versions of a row differ here only by the version itself.
                "received_at" => format!(
                    "toDateTime64('2026-01-05 00:00:00', 9, 'UTC') + toIntervalMonth(intDiv(number, 3) % 3) + \
                     toIntervalNanosecond(number * 1000 + {VERSION})"
                ),
                // Not part of any key, and different in every version.
                "schema_version" => VERSION.to_owned(),
                name => value(name, &ty),
            };
            columns.entry(table).or_default().push((name, value));
        }
        columns
    }

    fn of_project(&self, part: impl Fn(&(Uuid, Uuid, Uuid)) -> Uuid) -> String {
        let all: Vec<_> = self.projects.iter().map(|ids| format!("toUUID('{}')", part(ids))).collect();
        format!("[{}][1 + number % {}]", all.join(", "), all.len())
    }

    /// `INSERT INTO into (columns) SELECT values` for rows of that table, with their orgs if the table has them.
    fn insert(&self, table: &str, into: &str, with_orgs: bool, batch: Batch) -> String {
        let mut columns = self.columns[table].clone();
        if with_orgs {
            columns.push(("org_id".to_owned(), self.of_project(|(_, org, _)| *org)));
            columns.push(("workspace_id".to_owned(), self.of_project(|(_, _, workspace)| *workspace)));
        }
        let (names, values): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
        let values = values.join(", ").replace(VERSION, &batch.version.to_string());
        format!(
            "INSERT INTO {into} ({}) SELECT {values} FROM numbers({}, {})",
            names.join(", "),
            batch.first,
            batch.rows
        )
    }

    /// Inserts rows as a writer of the old release does, and says whether ClickHouse acknowledged them.
    pub(crate) async fn write(&self, table: &str, batch: Batch) -> Result<(), String> {
        let sql = self.insert(table, table, false, batch);
        self.client.query_raw(&sql).execute().await.map_err(|error| error.to_string())
    }

    /// The same as a writer of this release does it.
    pub(crate) async fn write_with_orgs(&self, table: &str, batch: Batch) -> Result<(), String> {
        let sql = self.insert(table, table, true, batch);
        self.client.query_raw(&sql).execute().await.map_err(|error| error.to_string())
    }

    /// Number of rows that a reader with FINAL sees.
    pub(crate) async fn rows(&self, table: &str) -> u64 {
        self.number(&format!("SELECT count() FROM {table} FINAL")).await
    }

    /// Fails unless a reader of `table` sees exactly the newest version of these rows, each once, in every column.
    pub(crate) async fn assert_holds(&self, table: &str, with_orgs: bool, acknowledged: &[Batch]) {
        let wanted = format!("wanted_{table}");
        self.execute(&format!("CREATE TABLE {wanted} AS {table}")).await;
        for batch in acknowledged {
            self.execute(&self.insert(table, &wanted, with_orgs, *batch)).await;
        }
        for (from, without, what) in [(wanted.as_str(), table, "missing"), (table, wanted.as_str(), "too many")] {
            let row = "toString(tuple(*))";
            let sql = format!(
                "SELECT row FROM (SELECT {row} AS row FROM {from} FINAL EXCEPT SELECT {row} FROM {without} FINAL) LIMIT 2"
            );
            assert_eq!(self.texts(&sql).await, Vec::<String>::new(), "{table}: {what}");
        }
        let rows = self.rows(table).await;
        assert_eq!(rows, self.rows(&wanted).await, "{table}");
        self.execute(&format!("DROP TABLE {wanted}")).await;
    }
}

/// A placeholder for the version of a row, which is replaced when the row is inserted.
const VERSION: &str = "/* version */";

/// An SQL expression over `number` for a value of that type.
fn value(name: &str, ty: &str) -> String {
    let text = format!("concat('{name} ', toString(number % 1000))");
    match ty {
        "UUID" => format!("reinterpretAsUUID(sipHash128(number, '{name}'))"),
        "String" | "LowCardinality(String)" => text,
        "FixedString(16)" => format!("sipHash128(number, '{name}')"),
        "DateTime64(9, 'UTC')" => {
            "toDateTime64('2025-12-30 23:59:59', 9, 'UTC') + toIntervalMillisecond(number * 7919)".to_owned()
        }
        "UInt8" | "UInt16" | "UInt32" | "UInt64" => format!("cityHash64(number, '{name}') % 250"),
        "Bool" => "number % 2 = 1".to_owned(),
        "Float64" => "number / 8".to_owned(),
        "Nullable(Float64)" => "if(number % 3 = 0, NULL, number / 4)".to_owned(),
        "Nullable(Decimal(18, 8))" => "if(number % 3 = 1, NULL, toDecimal64(number % 1000, 8) / 7)".to_owned(),
        "Map(LowCardinality(String), String)" => format!("map('{name}', toString(number), 'empty', '')"),
        "Map(LowCardinality(String), UInt64)" => format!("map('{name}', number)"),
        "Array(LowCardinality(String))" | "Array(String)" => format!("arrayResize([{text}], number % 3, 'more')"),
        "Array(UInt32)" => "range(number % 4)".to_owned(),
        "Array(UUID)" => "arrayMap(at -> reinterpretAsUUID(sipHash128(number, at)), range(number % 2))".to_owned(),
        "Array(DateTime64(9, 'UTC'))" => {
            "arrayMap(at -> toDateTime64('2026-01-01 00:00:00', 9, 'UTC') + toIntervalSecond(at), range(number % 3))"
                .to_owned()
        }
        "Array(Map(LowCardinality(String), String))" => {
            "arrayMap(at -> map('at', toString(at)), range(number % 3))".to_owned()
        }
        other => panic!("{name} is {other}: say here how to make one"),
    }
}

/// Makes two projects in one org, in different workspaces, and a third project in another org.
async fn make_projects(db: &TestDb) -> Vec<(Uuid, Uuid, Uuid)> {
    let registry = Registry::connect(&SecretUrl::new(db.pg_operator_dsn.parse().unwrap())).await.unwrap();
    let one = registry.create_org(&NewOrg::new("one", "One", "pro")).await.unwrap();
    let two = registry.create_org(&NewOrg::new("two", "Two", "free")).await.unwrap();
    let other = registry.create_workspace(one.org_id, "other", "Other").await.unwrap();
    let mut projects = Vec::new();
    for (org, workspace, slug) in [
        (one.org_id, one.workspace_id, "first"),
        (one.org_id, other, "second"),
        (two.org_id, two.workspace_id, "third"),
    ] {
        let project = registry.create_project(org, workspace, slug, slug).await.unwrap();
        projects.push((project.0, org.0, workspace.0));
    }
    projects
}
