//! Postgres, Redis and ClickHouse for scenarios that kill them.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};

use load::client::{ClickHouse, Http};
use service::settings::parse;
use stack::{Extra, Layout, Name, UpOptions, Urls};
use tempfile::TempDir;
use url::Url;

/// How many databases there are to take; see `stack`.
const DATABASES: u16 = 60;

/// Servers of a run of its own. To be ended with [`Servers::down`]; their directory goes with this value.
#[derive(Debug)]
pub struct Servers {
    layout: Layout,
    urls: Urls,
    databases: AtomicU16,
    _dir: TempDir,
}

impl Servers {
    /// Starts the servers in a temporary directory, and waits until they answer.
    pub async fn up() -> anyhow::Result<Self> {
        let dir = TempDir::with_prefix("tracebility-faults-")?;
        let layout = Layout::new(dir.path().join("stack"));
        let endpoints = stack::up(&layout, &UpOptions { servers_only: true, build: true }).await?;
        Ok(Self { layout, urls: endpoints.urls, databases: AtomicU16::new(0), _dir: dir })
    }

    /// Databases of Redis and ClickHouse that nothing is in. Orgs are of one Postgres: it takes part in no fault.
    pub async fn fresh(&self) -> anyhow::Result<Urls> {
        // Later ones take the places of those that came first. In these databases the services have their rights.
        let number = self.databases.fetch_add(1, Ordering::Relaxed) % DATABASES + 1;
        let name = format!("test_{number}");
        let clickhouse = ClickHouse::new(Http::new(), &self.urls.clickhouse_url)?;
        let on_cluster = self.urls.on_cluster();
        clickhouse.text(&format!("DROP DATABASE IF EXISTS {name}{on_cluster} SYNC")).await?;
        clickhouse.text(&format!("CREATE DATABASE {name}{on_cluster}")).await?;
        let redis_url = with_path(&self.urls.redis_url, &number.to_string())?;
        let mut redis = stores::redis::connect(&parse::redis_url(&redis_url).map_err(anyhow::Error::msg)?)?;
        redis::cmd("FLUSHDB").query_async::<()>(&mut redis).await?;
        Ok(Urls { redis_url, clickhouse_url: with_path(&self.urls.clickhouse_url, &name)?, ..self.urls.clone() })
    }

    /// Kills one as a crash would.
    pub async fn kill(&self, name: Name) -> anyhow::Result<()> {
        anyhow::ensure!(stack::kill(&self.layout, name, "KILL").await?, "{name} survives being killed");
        Ok(())
    }

    /// Starts one on the data that it left.
    pub async fn start(&self, name: Name) -> anyhow::Result<()> {
        Ok(stack::start(&self.layout, name).await?)
    }

    /// The same, with something in addition, until it is started again.
    pub async fn start_with(&self, name: Name, extra: Extra) -> anyhow::Result<()> {
        Ok(stack::start_with(&self.layout, name, extra).await?)
    }

    /// The directory that one works in.
    pub fn directory(&self, name: Name) -> PathBuf {
        self.layout.home(name)
    }

    /// Starts what is not running.
    pub async fn mend(&self) -> anyhow::Result<()> {
        for name in [Name::Postgres, Name::Redis, Name::Clickhouse] {
            self.start(name).await?;
        }
        Ok(())
    }

    /// Stops them and removes their data.
    pub async fn down(self) -> anyhow::Result<()> {
        Ok(stack::down(&self.layout, false).await?)
    }
}

fn with_path(url: &str, path: &str) -> anyhow::Result<String> {
    let mut url = Url::parse(url)?;
    url.set_path(&format!("/{path}"));
    Ok(url.into())
}
