//! A migrated registry of its own for each test, and a wire to it that can be cut.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use auth::api_key::IssuedKey;
use migrate::{Options, Stores, Target};
use model::ids::OrgId;
use registry::{NewKey, NewOrg, Org, Registry};
use service::settings::parse;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use stack::TestDb;
use stores::secret::SecretUrl;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Databases that nobody else uses, empty.
pub(crate) async fn empty() -> TestDb {
    stack::shared().await.expect("the test servers start").fresh_database().await.expect("a fresh database")
}

pub(crate) fn stores(db: &TestDb) -> Stores {
    Stores { postgres: Some(db.pg_owner_dsn.clone()), clickhouse: Some(db.clickhouse_url.clone()) }
}

pub(crate) fn url(dsn: &str) -> SecretUrl {
    parse::postgres_url(dsn).expect("a Postgres URL")
}

/// A pool whose connections are bound to an org, transaction or not.
pub(crate) async fn bound(dsn: &str, org_id: OrgId) -> PgPool {
    let options = PgPoolOptions::new().max_connections(4).after_connect(move |connection, _| {
        Box::pin(async move {
            let bind = sqlx::query("SELECT set_config('app.current_tenant', $1, false)").bind(org_id.to_string());
            bind.execute(connection).await.map(drop)
        })
    });
    options.connect(dsn).await.expect("a connection")
}

/// Puts a row into every table that there is for a tenant, for the org that the owner's pool is bound to.
pub(crate) async fn fill(owner: &PgPool) {
    const SQL: &str = "
        INSERT INTO tenant_projects (tenant_id, workspace_id, slug, name)
            SELECT tenant_id, id, 'filled', 'Filled' FROM workspaces WHERE slug = 'main';
        INSERT INTO api_keys (tenant_id, project_id, public_id, key_hash, prefix, last_four, name)
            SELECT tenant_id, id, replace(id::text, '-', ''), '$argon2id$none', 'tb_', '0000', 'Filled'
              FROM tenant_projects WHERE slug = 'filled';
        INSERT INTO tenant_products (tenant_id, product) SELECT id, 'filled' FROM tenants;
        INSERT INTO tenant_idp_config (tenant_id, kind) SELECT id, 'oidc' FROM tenants;
        INSERT INTO tenant_plan_override (tenant_id, rps) SELECT id, 7 FROM tenants;
        INSERT INTO tenant_meter_limit_override (tenant_id, meter, monthly_limit) SELECT id, 'replay_run', 7 FROM tenants;
        INSERT INTO quota_period (tenant_id, period, meter) SELECT id, 202611, 'replay_run' FROM tenants;
        INSERT INTO memberships (tenant_id, workspace_id, user_id) SELECT tenant_id, id, 'somebody' FROM workspaces;
        INSERT INTO workspace_selection (tenant_id, workspace_id, user_id)
            SELECT tenant_id, id, 'somebody' FROM workspaces WHERE slug = 'main';
        INSERT INTO shard_map (tenant_id, shard, created_by) SELECT id, 3, 'somebody' FROM tenants;
        INSERT INTO audit_log (tenant_id, event_type, actor) SELECT id, 'filled', 'somebody' FROM tenants;
        INSERT INTO audit_outbox (tenant_id, event_type, actor) SELECT id, 'filled', 'somebody' FROM tenants";
    sqlx::raw_sql(SQL).execute(owner).await.expect("every row fits");
}

/// A registry with one org in it, opened as an operator opens it.
pub(crate) struct World {
    pub(crate) registry: Registry,
    pub(crate) org: Org,
    /// As the services' role.
    pub(crate) pool: PgPool,
    /// As the operators' role.
    pub(crate) operator: PgPool,
    /// As the owner, bound to the org: to look at its rows, and to change them, behind everyone's back.
    pub(crate) owner: PgPool,
    /// Keeps the databases until the world is dropped.
    pub(crate) db: TestDb,
}

impl World {
    pub(crate) async fn new() -> Self {
        let db = empty().await;
        migrate::up(Target::Postgres, &stores(&db), &Options::default()).await.expect("migrations apply");
        let pool = stores::postgres::pool(&url(&db.pg_app_dsn)).unwrap();
        let operator = stores::postgres::pool(&url(&db.pg_operator_dsn)).unwrap();
        let registry = Registry::new(operator.clone()).acting_as("a test");
        let org = registry.create_org(&NewOrg::new("acme", "Acme", "pro")).await.expect("an org");
        let owner = bound(&db.pg_owner_dsn, org.org_id).await;
        Self { registry, org, pool, operator, owner, db }
    }

    /// A key of a project of its own.
    pub(crate) async fn key(&self, project: &str) -> IssuedKey {
        let Org { org_id, workspace_id } = self.org;
        let project =
            self.registry.create_project(org_id, workspace_id, project, "A project").await.expect("a project");
        self.registry.create_key(org_id, project, &NewKey::new("A key", &["ingest:write"])).await.expect("a key")
    }

    /// Changes the database behind everyone's back.
    pub(crate) async fn execute(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(&self.owner).await.expect(sql);
    }

    pub(crate) async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.owner).await.expect(sql)
    }
}

/// A TCP proxy to Postgres that can be cut, so that one test can have its outage while others go on.
pub(crate) struct Wire {
    pub(crate) dsn: SecretUrl,
    is_cut: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Wire {
    pub(crate) async fn to(dsn: &str) -> Self {
        let mut url = url(dsn).expose().clone();
        let target = (url.host_str().unwrap().to_owned(), url.port().unwrap_or(5432));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
        let (is_cut, connections) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<JoinHandle<()>>>>::default());
        let (cut, open) = (Arc::clone(&is_cut), Arc::clone(&connections));
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                if cut.load(Ordering::SeqCst) {
                    continue;
                }
                let mut server = TcpStream::connect(&target).await.unwrap();
                let copying = async move { drop(copy_bidirectional(&mut client, &mut server).await) };
                open.lock().unwrap().push(tokio::spawn(copying));
            }
        });
        Self { dsn: SecretUrl::new(url), is_cut, connections }
    }

    /// Ends every connection, and every later one as soon as it is made.
    pub(crate) async fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        let connections = std::mem::take(&mut *self.connections.lock().unwrap());
        for connection in connections {
            connection.abort();
            assert!(connection.await.is_err_and(|error| error.is_cancelled()), "the connection was open");
        }
    }

    pub(crate) fn mend(&self) {
        self.is_cut.store(false, Ordering::SeqCst);
    }
}
