//! A world for a black-box test: real servers, both services, orgs with keys, and eyes on what was stored.

pub mod bulk;
pub mod provider_names;
pub mod sdk;

use std::time::{Duration, Instant};

use anyhow::bail;
use load::client::{Answer, ClickHouse, Http};
use model::ids::{OrgId, ProjectId, WorkspaceId};
use model::shard::Shard;
use registry::{NewKey, NewOrg, Registry};
use service::settings::parse;
use sqlx::{Connection, PgConnection};
use stack::{Service, TestDb, Urls};
use stores::keys::RedisKey;
use stores::redis::Redis;
use stores::secret::SecretUrl;
use url::Url;

/// How long anything that was accepted may take to be stored before a test gives up.
pub const STORED_WITHIN: Duration = Duration::from_secs(120);
const POLL_EVERY: Duration = Duration::from_millis(50);

/// Databases of its own and both services on them.
#[derive(Debug)]
pub struct World {
    /// `ingest-api`, on ports of its own.
    pub api: Service,
    /// `ingest-worker`, the only one unless a test starts more.
    pub worker: Service,
    /// The client that requests are sent with.
    pub http: Http,
    /// ClickHouse, to look at what was stored.
    pub clickhouse: ClickHouse,
    /// The URLs of the servers, with this world's databases.
    pub urls: Urls,
    /// Drops the databases when the world ends.
    _db: Option<TestDb>,
}

/// An org with a project and a key that may ingest.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Org {
    pub org_id: OrgId,
    pub workspace_id: WorkspaceId,
    pub project_id: ProjectId,
    pub key: String,
}

impl World {
    /// Starts everything, migrated and ready.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(&[], &[]).await
    }

    /// The same, with additional settings for the API and the worker.
    pub async fn start_with(api: &[(&str, &str)], worker: &[(&str, &str)]) -> anyhow::Result<Self> {
        let db = stack::shared().await?.fresh_database().await?;
        let mut world = Self::on(&db, api, worker).await?;
        world._db = Some(db);
        Ok(world)
    }

    /// The same on given servers, which must be empty.
    pub async fn on(urls: &Urls, api: &[(&str, &str)], worker: &[(&str, &str)]) -> anyhow::Result<Self> {
        stack::migrate(urls).await?;
        let http = Http::new();
        Ok(Self {
            api: Service::ingest_api(urls, api).await?,
            worker: Service::ingest_worker(urls, worker).await?,
            clickhouse: ClickHouse::new(http.clone(), &urls.clickhouse_url)?,
            http,
            urls: urls.clone(),
            _db: None,
        })
    }

    /// Creates an org with a project and a key.
    pub async fn org(&self, slug: &str) -> anyhow::Result<Org> {
        let org = self.registry().await?.create_org(&NewOrg::new(slug, slug, "self_hosted")).await?;
        self.with_key(org.org_id, org.workspace_id).await
    }

    /// Creates an org whose id is given, so that its shard is known.
    pub async fn org_with_id(&self, org_id: OrgId, slug: &str) -> anyhow::Result<Org> {
        let mut owner = PgConnection::connect(&self.urls.pg_owner_dsn).await?;
        // Row-level security binds the owner as well.
        sqlx::query("SELECT set_config('app.current_tenant', $1, false)")
            .bind(org_id.to_string())
            .execute(&mut owner)
            .await?;
        sqlx::query("INSERT INTO tenants (id, slug, name, status, plan) VALUES ($1, $2, $2, 'active', 'self_hosted')")
            .bind(org_id.0)
            .bind(slug)
            .execute(&mut owner)
            .await?;
        let find = sqlx::query_as("SELECT id FROM workspaces WHERE tenant_id = $1").bind(org_id.0);
        let (workspace,) = find.fetch_one(&mut owner).await?;
        owner.close().await?;
        self.with_key(org_id, WorkspaceId(workspace)).await
    }

    async fn with_key(&self, org_id: OrgId, workspace_id: WorkspaceId) -> anyhow::Result<Org> {
        let registry = self.registry().await?;
        let project_id = registry.create_project(org_id, workspace_id, "tests", "Tests").await?;
        let key = registry.create_key(org_id, project_id, &NewKey::new("tests", &["ingest:write"])).await?;
        Ok(Org { org_id, workspace_id, project_id, key: key.reveal().to_owned() })
    }

    /// The registry, as an operator sees it.
    pub async fn registry(&self) -> anyhow::Result<Registry> {
        Ok(Registry::connect(&SecretUrl::new(Url::parse(&self.urls.pg_operator_dsn)?)).await?)
    }

    /// Posts an OTLP request in protobuf to `/v1/traces`.
    pub async fn post_otlp(&self, key: &str, body: Vec<u8>) -> anyhow::Result<Answer> {
        self.http.post(&format!("{}/v1/traces", self.api.url()), key, "application/x-protobuf", body).await
    }

    /// Posts a native batch.
    pub async fn post_runs(&self, key: &str, body: &serde_json::Value) -> anyhow::Result<Answer> {
        self.http.post(&format!("{}/v1/runs", self.api.url()), key, "application/json", body.to_string()).await
    }

    /// Waits until a query returns this number.
    pub async fn until_number(&self, query: &str, wanted: u64) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let found = self.clickhouse.number(query).await?;
            if found == wanted {
                return Ok(());
            }
            if begun.elapsed() > STORED_WITHIN {
                bail!("{query} returns {found} and not {wanted} after {STORED_WITHIN:?}");
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    /// Waits until every stream is empty: whatever was accepted has been stored and finished.
    pub async fn until_drained(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let waiting = self.waiting().await?;
            if waiting.iter().all(|n| *n == 0) {
                return Ok(());
            }
            if begun.elapsed() > STORED_WITHIN {
                bail!("after {STORED_WITHIN:?} envelopes still wait in the shards: {waiting:?}");
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    /// A connection to Redis.
    pub async fn redis(&self) -> anyhow::Result<Redis> {
        let url = parse::redis_url(&self.urls.redis_url).map_err(anyhow::Error::msg)?;
        Ok(stores::redis::connect(&url)?)
    }

    /// Per shard, how many envelopes are in its stream.
    pub async fn waiting(&self) -> anyhow::Result<Vec<u64>> {
        let mut connection = self.redis().await?;
        let mut waiting = Vec::new();
        for shard in Shard::all() {
            let stream = RedisKey::shard_stream(shard);
            waiting.push(redis::cmd("XLEN").arg(stream.as_str()).query_async(&mut connection).await?);
        }
        Ok(waiting)
    }
}

/// Now, in Unix nanoseconds.
pub fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
