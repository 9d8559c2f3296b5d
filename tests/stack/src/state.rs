//! What a stack remembers between commands: `state.json`.

use std::collections::BTreeMap;
use std::fs;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::given::GivenPostgres;
use crate::process::ProcessId;
use crate::services::ServicePorts;
use crate::{Given, Layout, Name, StackError, Urls, User, ports};

/// Ports, passwords, process ids and the key of one stack.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) ports: Ports,
    pub(crate) secrets: Secrets,
    /// The servers that are not ours.
    pub(crate) given: Given,
    /// Whether the servers are containers; then their processes are the ones that look after them.
    pub(crate) containers: bool,
    pub(crate) processes: BTreeMap<Name, ProcessId>,
    /// A key of the project that was created for the user; kept, because only its hash is in the registry.
    pub(crate) api_key: Option<String>,
    /// Whether an acknowledged write survives a power cut. Servers of a test run are thrown away and need not.
    pub(crate) durable: bool,
}

/// Chosen once, so that a restarted stack is where it was.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ports {
    pub(crate) postgres: u16,
    pub(crate) redis: u16,
    pub(crate) clickhouse_http: u16,
    pub(crate) clickhouse_tcp: u16,
    pub(crate) services: ServicePorts,
}

/// Random, and only ever written to files that no other user can read.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Secrets {
    pub(crate) pg_superuser: String,
    pub(crate) pg_owner: String,
    pub(crate) pg_app: String,
    pub(crate) pg_operator: String,
    pub(crate) redis: String,
    pub(crate) clickhouse: String,
    pub(crate) clickhouse_reader: String,
    /// Of users with fewer rights.
    #[serde(default)]
    pub(crate) users: BTreeMap<User, String>,
    pub(crate) admin_key: String,
}

impl State {
    pub(crate) fn choose(given: Given, containers: bool, durable: bool) -> Result<Self, StackError> {
        Ok(Self {
            ports: Ports {
                postgres: ports::free()?,
                redis: ports::free()?,
                clickhouse_http: ports::free()?,
                clickhouse_tcp: ports::free()?,
                services: ServicePorts {
                    ingest: ports::prefer(7080)?,
                    otlp_grpc: ports::prefer(4317)?,
                    operator: ports::prefer(7081)?,
                    worker: ports::prefer(7082)?,
                },
            },
            secrets: Secrets {
                pg_superuser: secret(),
                pg_owner: secret(),
                pg_app: secret(),
                pg_operator: secret(),
                redis: secret(),
                clickhouse: secret(),
                clickhouse_reader: secret(),
                users: User::ALL.map(|user| (user, secret())).into(),
                admin_key: secret(),
            },
            given,
            containers,
            processes: BTreeMap::new(),
            api_key: None,
            durable,
        })
    }

    /// The state of an existing stack; none if there is no stack.
    pub(crate) fn load(layout: &Layout) -> Result<Option<Self>, StackError> {
        let path = layout.state_file();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StackError::file("read", &path)(e)),
        };
        let read = serde_json::from_slice(&text);
        read.map(Some).map_err(|e| {
            let dir = layout.root().display();
            StackError::Setting(format!("{} is not valid ({e}); start afresh with: rm -r {dir}", path.display()))
        })
    }

    pub(crate) fn save(&self, layout: &Layout) -> Result<(), StackError> {
        let path = layout.state_file();
        let text = serde_json::to_vec_pretty(self).map_err(|e| StackError::file("write", &path)(e.into()))?;
        write_private(&path, &text)
    }

    /// How to reach the servers, ours or given.
    pub(crate) fn urls(&self) -> Urls {
        let (ports, secrets) = (&self.ports, &self.secrets);
        let pg = |user, password| format!("postgres://{user}:{password}@127.0.0.1:{}/tracebility", ports.postgres);
        let given = self.given.clone();
        let postgres = given.postgres.unwrap_or_else(|| GivenPostgres {
            app_dsn: pg("tracebility_app", &secrets.pg_app),
            operator_dsn: pg("tracebility_operator", &secrets.pg_operator),
            owner_dsn: pg("tracebility_owner", &secrets.pg_owner),
        });
        Urls {
            pg_app_dsn: postgres.app_dsn,
            pg_operator_dsn: postgres.operator_dsn,
            pg_owner_dsn: postgres.owner_dsn,
            redis_url: given
                .redis
                .unwrap_or_else(|| format!("redis://default:{}@127.0.0.1:{}/0", secrets.redis, ports.redis)),
            clickhouse_url: given.clickhouse.unwrap_or_else(|| {
                format!("http://tracebility:{}@127.0.0.1:{}/tracebility", secrets.clickhouse, ports.clickhouse_http)
            }),
            clickhouse_cluster: given.clickhouse_cluster,
            users: secrets
                .users
                .iter()
                .filter(|(user, _)| !self.given.has(user.store()))
                .map(|(u, p)| (*u, p.clone()))
                .collect(),
        }
    }

    /// Whether this one is a container.
    pub(crate) fn is_container(&self, name: Name) -> bool {
        self.containers && Name::SERVERS.contains(&name) && !self.given.has(name)
    }

    /// The process of a name, if it runs.
    pub(crate) fn running(&self, name: Name) -> Option<ProcessId> {
        self.processes.get(&name).copied().filter(|process| process.is_alive())
    }
}

/// 128 random bits, in letters that need no quoting anywhere.
fn secret() -> String {
    format!("{:032x}", rand::rng().random::<u128>())
}

/// Writes a file that only this user can read, whole or not at all.
pub(crate) fn write_private(path: &Path, text: &[u8]) -> Result<(), StackError> {
    let draft = path.with_extension("new");
    let write = || {
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(text)?;
        fs::rename(&draft, path)
    };
    write().map_err(StackError::file("write", path))
}
