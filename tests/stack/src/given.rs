//! Servers that are not ours: their URLs come from the environment.

use serde::{Deserialize, Serialize};

use crate::{Name, StackError, env_file};

/// How to reach the three servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Urls {
    /// Postgres, as the owner of the database: for migrations.
    pub pg_owner_dsn: String,
    /// Postgres, as the role of the services.
    pub pg_app_dsn: String,
    /// Postgres, as the role of the people who create orgs and keys.
    pub pg_operator_dsn: String,
    /// Redis, with the number of the logical database.
    pub redis_url: String,
    /// ClickHouse's HTTP interface, with user, password and database.
    pub clickhouse_url: String,
}

/// The servers to use instead of starting one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Given {
    pub(crate) postgres: Option<GivenPostgres>,
    pub(crate) redis: Option<String>,
    pub(crate) clickhouse: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GivenPostgres {
    pub(crate) app_dsn: String,
    pub(crate) operator_dsn: String,
    pub(crate) owner_dsn: String,
}

/// Where servers come from, by `TRACEBILITY_STACK`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The default: a URL in the environment is used, and what has none is started.
    Auto,
    /// Every server is in the environment.
    External,
    /// Every server is started as a local process, whatever the environment says.
    Local,
    /// What has no URL in the environment is started as a container.
    Containers,
}

impl Source {
    pub(crate) fn from_env() -> Result<Self, StackError> {
        match variable("TRACEBILITY_STACK").unwrap_or_default().as_str() {
            "" => Ok(Self::Auto),
            "external" => Ok(Self::External),
            "local" => Ok(Self::Local),
            "containers" => Ok(Self::Containers),
            other => Err(StackError::Setting(format!(
                "TRACEBILITY_STACK is `{other}`; it can be `local`, `external` or `containers`"
            ))),
        }
    }
}

impl Given {
    /// Whether a server is given, and so not ours to start or stop.
    pub(crate) fn has(&self, name: Name) -> bool {
        match name {
            Name::Postgres => self.postgres.is_some(),
            Name::Redis => self.redis.is_some(),
            Name::Clickhouse => self.clickhouse.is_some(),
            Name::IngestApi | Name::IngestWorker => false,
        }
    }

    /// Whether the environment names no other server than those a stack already uses.
    pub(crate) fn agrees_with(&self, used: &Self) -> bool {
        (self.postgres.is_none() || self.postgres == used.postgres)
            && (self.redis.is_none() || self.redis == used.redis)
            && (self.clickhouse.is_none() || self.clickhouse == used.clickhouse)
    }

    /// The servers that the environment names, except for those that it names because a `stack.env` was sourced.
    pub(crate) fn from_env(source: Source) -> Result<Self, StackError> {
        if source == Source::Local {
            return Ok(Self::default());
        }
        let given = |name: &str| variable(name).filter(|url| source == Source::External || !env_file::is_ours(url));
        let [app, operator, owner] =
            ["TRACEBILITY_PG_DSN", "TRACEBILITY_PG_OPERATOR_DSN", "TRACEBILITY_PG_OWNER_DSN"].map(given);
        let postgres = match (app, operator, owner) {
            (Some(app_dsn), Some(operator_dsn), Some(owner_dsn)) => {
                Some(GivenPostgres { app_dsn, operator_dsn, owner_dsn })
            }
            (None, None, None) => None,
            _ => {
                return Err(StackError::Setting(
                    "a Postgres server needs TRACEBILITY_PG_DSN (the services' role), TRACEBILITY_PG_OPERATOR_DSN (the \
                     role that creates orgs and keys) and TRACEBILITY_PG_OWNER_DSN (the owner, for migrations); set all \
                     three or none"
                        .into(),
                ));
            }
        };
        let all =
            Self { postgres, redis: given("TRACEBILITY_REDIS_URL"), clickhouse: given("TRACEBILITY_CLICKHOUSE_URL") };
        if source == Source::External && (all.postgres.is_none() || all.redis.is_none() || all.clickhouse.is_none()) {
            return Err(StackError::Setting(
                "TRACEBILITY_STACK=external needs TRACEBILITY_PG_DSN, TRACEBILITY_PG_OPERATOR_DSN, \
                 TRACEBILITY_PG_OWNER_DSN, TRACEBILITY_REDIS_URL and TRACEBILITY_CLICKHOUSE_URL"
                    .into(),
            ));
        }
        Ok(all)
    }
}

/// A variable of the environment; blank is unset.
fn variable(name: &str) -> Option<String> {
    let value = std::env::var_os(name)?.into_string().ok()?;
    (!value.trim().is_empty()).then_some(value)
}
