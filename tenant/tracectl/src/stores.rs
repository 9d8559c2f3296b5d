//! Connections to Redis, ClickHouse and Postgres as a service, for the few commands that do a worker's job by hand.

use clap::Args;
use registry::flags::Flags;
use registry::{Registry, RegistryError};
use service::settings::parse;
use stores::clickhouse::{ClickHouseUrl, Records};
use stores::secret::SecretUrl;

use crate::failure::Failure;

/// The variable with the URL of Postgres, for the services' role.
const SERVICE_DSN: &str = "TRACEBILITY_PG_DSN";
/// The variable with the URL of ClickHouse.
const CLICKHOUSE: &str = "TRACEBILITY_CLICKHOUSE_URL";

/// Postgres with the services' role, which may do for all orgs what the operators' role may not.
#[derive(Args, Debug)]
pub(crate) struct Services {
    /// The URL of Postgres, for the services' role, such as postgres://user:password@host:5432/database.
    #[arg(long, env = SERVICE_DSN, hide_env_values = true, value_name = "URL")]
    service_dsn: Option<String>,
}

/// ClickHouse, with the database.
#[derive(Args, Debug)]
pub(crate) struct Clickhouse {
    /// The URL of ClickHouse, with the database, such as http://user:password@host:8123/database.
    #[arg(long, env = CLICKHOUSE, hide_env_values = true, value_name = "URL")]
    clickhouse: Option<String>,
}

impl Services {
    pub(crate) async fn registry(&self) -> Result<Registry, Failure> {
        Registry::connect(&self.dsn()?).await.map_err(|error| refused(&error))
    }

    /// The flags, which only the services' role may change, because the event belongs to no org.
    pub(crate) async fn flags(&self) -> Result<Flags, Failure> {
        let dsn = self.dsn()?;
        let checked = stores::postgres::check_role(&dsn).await.map_err(RegistryError::from);
        checked.and_then(|role| Ok(role?)).map_err(|error| refused(&error))?;
        let pool = stores::postgres::pool(&dsn).map_err(RegistryError::from);
        pool.map(Flags::new).map_err(|error| refused(&error))
    }

    fn dsn(&self) -> Result<SecretUrl, Failure> {
        let dsn = require_setting(self.service_dsn.as_deref(), "Postgres is for the services' role", SERVICE_DSN)?;
        let wrong = |what: String| Failure::usage(what, format!("correct {SERVICE_DSN}"));
        parse::postgres_url(dsn).map_err(|reason| wrong(format!("the services' URL {reason}")))
    }
}

fn refused(error: &RegistryError) -> Failure {
    Failure::new(format!("as the services' role: {error}"), format!("check {SERVICE_DSN}"))
}

impl Clickhouse {
    pub(crate) fn records(&self) -> Result<Records, Failure> {
        let url = require_setting(self.clickhouse.as_deref(), "ClickHouse is", CLICKHOUSE)?;
        let url: ClickHouseUrl = parse::clickhouse_url(url).map_err(|reason| {
            Failure::usage(format!("the URL of ClickHouse {reason}"), format!("correct {CLICKHOUSE}"))
        })?;
        Ok(Records::new(&url))
    }
}

fn require_setting<'a>(text: Option<&'a str>, what: &str, variable: &str) -> Result<&'a str, Failure> {
    let text = text.filter(|text| !text.trim().is_empty());
    text.ok_or_else(|| Failure::usage(format!("it is not known where {what}"), format!("set {variable}")))
}
