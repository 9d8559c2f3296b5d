//! Postgres, Redis and ClickHouse for scenarios that kill them.

use std::sync::atomic::{AtomicU16, Ordering};

use load::client::{ClickHouse, Http};
use stack::{Layout, Name, UpOptions, Urls};
use tempfile::TempDir;
use url::Url;

/// Servers of a run of its own. To be ended with [`Servers::down`]; their directory goes with this value.
#[derive(Debug)]
pub struct Servers {
    layout: Layout,
    urls: Urls,
    databases: AtomicU16,
    _dir: TempDir,
}

impl Servers {
    /// Starts them.
    pub async fn up() -> anyhow::Result<Self> {
        let dir = TempDir::with_prefix("tracebility-faults-")?;
        let layout = Layout::new(dir.path().join("stack"));
        let endpoints = stack::up(&layout, &UpOptions { servers_only: true, build: true }).await?;
        Ok(Self { layout, urls: endpoints.urls, databases: AtomicU16::new(0), _dir: dir })
    }

    /// Databases of Redis and ClickHouse that nothing has been in. Orgs are of one Postgres: it takes part in no fault.
    pub async fn fresh(&self) -> anyhow::Result<Urls> {
        let number = self.databases.fetch_add(1, Ordering::Relaxed) + 1;
        let name = format!("faults_{number}");
        let clickhouse = ClickHouse::new(Http::new(), &self.urls.clickhouse_url)?;
        clickhouse.text(&format!("CREATE DATABASE {name}")).await?;
        Ok(Urls {
            redis_url: with_path(&self.urls.redis_url, &number.to_string())?,
            clickhouse_url: with_path(&self.urls.clickhouse_url, &name)?,
            ..self.urls.clone()
        })
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
