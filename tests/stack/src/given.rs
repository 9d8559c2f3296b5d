//! Servers that are not ours: their URLs come from the environment.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Name, StackError, env_file};

/// How to reach the three servers. Redis and ClickHouse are reached by a test, which may do everything; where the
/// servers are ours, the services and `migrate` have users with the rights that `deploy` gives them.
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
    /// The name of the cluster, if ClickHouse is one.
    pub clickhouse_cluster: Option<String>,
    /// Users with fewer rights, and their passwords.
    pub users: BTreeMap<User, String>,
}

/// Users with no more rights than `deploy/clickhouse-users.sql` and `deploy/redis-users.conf` give them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum User {
    /// What `migrate` is in ClickHouse.
    ClickhouseOwner,
    /// What the services are in ClickHouse.
    ClickhouseApp,
    /// What `ingest-api` is in Redis.
    RedisApi,
    /// What `ingest-worker` is in Redis.
    RedisWorker,
    /// What `tracectl` is in Redis.
    RedisOperator,
}

impl User {
    pub(crate) const ALL: [Self; 5] =
        [Self::ClickhouseOwner, Self::ClickhouseApp, Self::RedisApi, Self::RedisWorker, Self::RedisOperator];

    pub(crate) const fn store(self) -> Name {
        match self {
            Self::ClickhouseOwner | Self::ClickhouseApp => Name::Clickhouse,
            Self::RedisApi | Self::RedisWorker | Self::RedisOperator => Name::Redis,
        }
    }

    /// As it is called in `deploy`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClickhouseOwner => "tracebility_owner",
            Self::ClickhouseApp => "tracebility_app",
            Self::RedisApi => "tracebility_api",
            Self::RedisWorker => "tracebility_worker",
            Self::RedisOperator => "tracebility_operator",
        }
    }
}

impl Urls {
    /// What a statement needs that changes tables or databases of ClickHouse: `ON CLUSTER`, on a cluster.
    pub fn on_cluster(&self) -> String {
        self.clickhouse_cluster.as_ref().map(|name| format!(" ON CLUSTER '{name}'")).unwrap_or_default()
    }

    /// ClickHouse's or Redis' URL for a user with fewer rights; the usual one on a server that is not ours.
    pub fn as_user(&self, user: User) -> Result<String, StackError> {
        let usual = if user.store() == Name::Redis { &self.redis_url } else { &self.clickhouse_url };
        let Some(password) = self.users.get(&user) else { return Ok(usual.clone()) };
        let mut url = url::Url::parse(usual).map_err(|e| StackError::server("the stack", e))?;
        // A test has put another server in the place of ours, which knows none of these users.
        if url.password().is_none() {
            return Ok(usual.clone());
        }
        let set = url.set_username(user.name()).is_ok() && url.set_password(Some(password)).is_ok();
        if set { Ok(url.into()) } else { Err(StackError::server("the stack", "a URL without a host")) }
    }
}

/// The servers to use instead of starting one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Given {
    pub(crate) postgres: Option<GivenPostgres>,
    pub(crate) redis: Option<String>,
    pub(crate) clickhouse: Option<String>,
    /// Of the ClickHouse that is given.
    #[serde(default)]
    pub(crate) clickhouse_cluster: Option<String>,
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
        let clickhouse = given("TRACEBILITY_CLICKHOUSE_URL");
        let clickhouse_cluster = variable("TRACEBILITY_CLICKHOUSE_CLUSTER").filter(|_| clickhouse.is_some());
        let all = Self { postgres, redis: given("TRACEBILITY_REDIS_URL"), clickhouse, clickhouse_cluster };
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
