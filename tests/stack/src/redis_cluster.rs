//! Redis Cluster: three primaries without replicas, for the tests that show that nothing depends on one node.

use std::time::Duration;

use redis::cluster::ClusterClient;
use tempfile::TempDir;

use crate::install::Programs;
use crate::process::{Launch, ProcessId};
use crate::state::write_private;
use crate::{Name, StackError, logs, ports, redis as node, wait};

const NODES: usize = 3;
const SLOTS: usize = 16_384;
/// Until every node answers, and until all of them agree on who has which slot.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// A port can be taken between choosing it and using it.
const START_ATTEMPTS_MAX: usize = 3;
const LOG_LINES_SHOWN: usize = 20;

/// A cluster of its own for one test. It is killed when dropped, and when the test process ends in any other way.
#[derive(Debug)]
pub struct RedisCluster {
    url: String,
    nodes: Vec<ProcessId>,
    _dir: TempDir,
}

impl RedisCluster {
    /// Starts three nodes, gives each a third of the slots, and waits until they form a cluster.
    pub async fn start() -> Result<Self, StackError> {
        let programs = Programs::ensure(&[Name::Redis]).await?;
        for attempt in 1.. {
            match Self::try_start(&programs).await {
                Err(StackError::NotReady { tail, .. })
                    if attempt < START_ATTEMPTS_MAX && tail.contains("Address already in use") => {}
                other => return other,
            }
        }
        Err(StackError::Timeout { what: "finding free ports for a Redis cluster".into(), limit: READY_LIMIT })
    }

    /// The value for `TRACEBILITY_REDIS_URL` that reaches the cluster.
    pub fn url(&self) -> &str {
        &self.url
    }

    async fn try_start(programs: &Programs) -> Result<Self, StackError> {
        let dir = TempDir::with_prefix("tracebility-redis-cluster-");
        let dir = dir.map_err(StackError::file("create a directory in", &std::env::temp_dir()))?;
        let mut cluster = Self { url: String::new(), nodes: Vec::new(), _dir: dir };
        let mut addresses = Vec::new();
        for number in 0..NODES {
            let (home, port, bus) = (cluster._dir.path().join(number.to_string()), ports::free()?, ports::free()?);
            std::fs::create_dir_all(&home).map_err(StackError::file("create directory", &home))?;
            let (config, log) = (home.join("redis.conf"), home.join("log"));
            write_private(&config, settings(port, bus).as_bytes())?;
            let mut launch = Launch::new(programs.redis_server()?, &home, &log).args([config.into_os_string()]);
            launch.on_parent_death = Some("KILL");
            let process = launch.spawn()?;
            cluster.nodes.push(process);
            let url = format!("redis://127.0.0.1:{port}/");
            let answers = async || node::command::<String>(&url, redis::cmd("PING")).await.ok();
            if wait::until(READY_LIMIT, async || if process.is_alive() { answers().await } else { Some(String::new()) })
                .await
                .is_none_or(|pong| pong != "PONG")
            {
                let tail = logs::tail(&log, LOG_LINES_SHOWN);
                return Err(StackError::NotReady { name: "a Redis node".into(), problem: "ended".into(), log, tail });
            }
            let mut slots = redis::cmd("CLUSTER");
            slots.arg("ADDSLOTSRANGE").arg(number * SLOTS / NODES).arg((number + 1) * SLOTS / NODES - 1);
            node::command::<()>(&url, slots).await?;
            addresses.push((url, port, bus));
        }
        for (_, port, bus) in &addresses[1..] {
            let mut meet = redis::cmd("CLUSTER");
            meet.arg("MEET").arg("127.0.0.1").arg(*port).arg(*bus);
            node::command::<()>(&addresses[0].0, meet).await?;
        }
        for (url, ..) in &addresses {
            let agrees = async || {
                let mut info = redis::cmd("CLUSTER");
                info.arg("INFO");
                let info = node::command::<String>(url, info).await.ok()?;
                (info.contains("cluster_state:ok") && info.contains(&format!("cluster_known_nodes:{NODES}")))
                    .then_some(())
            };
            let limit = || StackError::Timeout { what: "forming a Redis cluster".into(), limit: READY_LIMIT };
            wait::until(READY_LIMIT, agrees).await.ok_or_else(limit)?;
        }
        let more: Vec<_> = addresses[1..].iter().map(|(_, port, _)| format!("127.0.0.1:{port}")).collect();
        cluster.url = format!("redis-cluster://127.0.0.1:{}/?nodes={}", addresses[0].1, more.join(","));
        Ok(cluster)
    }

    /// The driver's own client, for what a test does behind the services' back.
    pub fn client(&self) -> Result<ClusterClient, StackError> {
        let nodes = self.url.trim_start_matches("redis-cluster://").split('/').next().unwrap_or_default();
        ClusterClient::new([format!("redis://{nodes}/")]).map_err(|e| StackError::server("redis", e))
    }
}

impl Drop for RedisCluster {
    fn drop(&mut self) {
        for node in &self.nodes {
            // Best effort: it dies with this process at the latest.
            _ = node.signal(rustix::process::Signal::KILL);
        }
    }
}

fn settings(port: u16, bus: u16) -> String {
    format!(
        "bind 127.0.0.1\n\
         port {port}\n\
         cluster-enabled yes\n\
         cluster-port {bus}\n\
         cluster-node-timeout 5000\n\
         maxmemory 64mb\n\
         maxmemory-policy noeviction\n\
         appendonly yes\n\
         save \"\"\n"
    )
}
