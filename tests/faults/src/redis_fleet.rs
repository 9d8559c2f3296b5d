//! Redis servers of one scenario: a primary with a replica that can be made to lag and a Sentinel, a cluster, or one
//! server on a slow disk.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use stack::{Flavour, RedisServer};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use url::Url;

use crate::gate::Gate;

/// What every server is told.
const SETTINGS: &str = "maxmemory 256mb\nmaxmemory-policy noeviction\nappendonly yes\nappendfsync everysec\nsave \"\"\n\
                        repl-diskless-sync-delay 0";
/// What Sentinel calls the primary.
const NAME: &str = "traces";
const SLOTS: usize = 16_384;
const PRIMARIES: usize = 3;
/// How long a fleet may take to form, or a failover to happen.
const PATIENCE: Duration = Duration::from_secs(90);
const POLL_EVERY: Duration = Duration::from_millis(50);
const READ_BYTES: usize = 64 << 10;

/// How a scenario's Redis is made up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedisKind {
    /// The server of the run.
    Shared,
    /// A primary, a replica and a Sentinel that takes a silent primary for dead after this long.
    Sentinel {
        /// The silence after which the primary counts as dead, in milliseconds.
        down_after_ms: u32,
    },
    /// Three primaries with a replica each.
    Cluster {
        /// The silence after which a primary counts as dead, in milliseconds.
        down_after_ms: u32,
    },
    /// One server whose disk can be made slow: Redis 7.0, or Valkey, which has WAITAOF.
    SlowDisk(Flavour),
}

/// The servers of one scenario.
#[derive(Debug)]
pub enum Fleet {
    /// The servers of [`RedisKind::Sentinel`].
    Sentinel(Box<Pair>),
    /// The servers of [`RedisKind::Cluster`]: the primaries, then their replicas.
    Cluster(Vec<RedisServer>),
    /// The server of [`RedisKind::SlowDisk`].
    SlowDisk(Box<SlowDisk>),
}

/// A primary and its replica.
#[derive(Debug)]
pub struct Pair {
    primary: RedisServer,
    replica: RedisServer,
    sentinel: RedisServer,
    link: Link,
}

/// A server and the library that makes its disk slow.
#[derive(Debug)]
pub struct SlowDisk {
    /// The server that has the library preloaded.
    pub server: RedisServer,
    _library: TempDir,
}

impl RedisKind {
    /// Starts the servers. `None` if there are none of its own.
    pub async fn start(self) -> anyhow::Result<Option<Fleet>> {
        Ok(match self {
            Self::Shared => None,
            Self::Sentinel { down_after_ms } => Some(Fleet::Sentinel(Box::new(Pair::start(down_after_ms).await?))),
            Self::Cluster { down_after_ms } => Some(Fleet::Cluster(cluster(down_after_ms).await?)),
            Self::SlowDisk(flavour) => Some(Fleet::SlowDisk(Box::new(SlowDisk::start(flavour).await?))),
        })
    }
}

impl Fleet {
    /// The value for `TRACEBILITY_REDIS_URL` that reaches these servers.
    pub fn url(&self) -> String {
        match self {
            Self::Sentinel(pair) => format!("redis-sentinel://127.0.0.1:{}/{NAME}", pair.sentinel.port()),
            Self::SlowDisk(slow) => slow.server.url(),
            Self::Cluster(nodes) => {
                let more: Vec<_> = nodes[1..].iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
                format!("redis-cluster://127.0.0.1:{}/?nodes={}", nodes[0].port(), more.join(","))
            }
        }
    }
}

/// The way from a primary to its replica, which can stand still, so that the replica knows nothing of it and falls
/// behind.
#[derive(Debug)]
struct Link {
    gate: Gate,
    port: u16,
    stands_still: watch::Sender<bool>,
}

impl Link {
    async fn to(primary: u16) -> anyhow::Result<Self> {
        let (stands_still, waits) = watch::channel(false);
        let waits = Arc::new(waits);
        let gate = Gate::open(move |replica| {
            let waits = watch::Receiver::clone(&waits);
            async move { drop(pass(replica, primary, waits).await) }
        })
        .await?;
        let port = gate.in_front_of(Url::parse("redis://127.0.0.1:1")?)?.port().context("a port")?;
        Ok(Self { gate, port, stands_still })
    }
}

/// Passes on what the replica says; what the primary says waits while the link stands still.
async fn pass(replica: TcpStream, primary: u16, mut waits: watch::Receiver<bool>) -> std::io::Result<()> {
    let (mut from_primary, mut to_primary) = TcpStream::connect(("127.0.0.1", primary)).await?.into_split();
    let (mut from_replica, mut to_replica) = replica.into_split();
    let down = async {
        let mut bytes = vec![0; READ_BYTES];
        loop {
            let read = from_primary.read(&mut bytes).await?;
            if read == 0 || waits.wait_for(|stands_still| !*stands_still).await.is_err() {
                return std::io::Result::Ok(());
            }
            to_replica.write_all(&bytes[..read]).await?;
        }
    };
    tokio::select! {
        done = down => done,
        done = tokio::io::copy(&mut from_replica, &mut to_primary) => done.map(drop),
    }
}

impl Pair {
    async fn start(down_after_ms: u32) -> anyhow::Result<Self> {
        let primary = RedisServer::start(Flavour::Valkey, SETTINGS).await?;
        let link = Link::to(primary.port()).await?;
        let settings = format!("{SETTINGS}\nreplicaof 127.0.0.1 {}", link.port);
        let replica = RedisServer::start(Flavour::Valkey, &settings).await?;
        until("the replica is online", async || Ok(primary.info("slave0").await?.contains("state=online"))).await?;
        // It would mend the detour of the link after failover-timeout.
        let settings = format!(
            "sentinel monitor {NAME} 127.0.0.1 {} 1\nsentinel down-after-milliseconds {NAME} {down_after_ms}\n\
             sentinel failover-timeout {NAME} 600000",
            primary.port()
        );
        let sentinel = RedisServer::start(Flavour::Sentinel, &settings).await?;
        until("Sentinel knows the replica", async || {
            let known: Vec<redis::Value> = sentinel.command(&["SENTINEL", "REPLICAS", NAME]).await?;
            Ok(known.len() == 1)
        })
        .await?;
        Ok(Self { primary, replica, sentinel, link })
    }

    /// From now on the replica falls behind, and does not know it.
    pub fn lag(&self) {
        self.link.stands_still.send_replace(true);
    }

    /// Kills the primary with all that the replica has not heard of, and waits until Sentinel names the replica
    /// instead.
    pub async fn fail_over(&self) -> anyhow::Result<()> {
        self.link.gate.shut();
        self.primary.kill().await?;
        until("Sentinel has made the replica the primary", async || {
            let ask = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME];
            let (_, port): (String, u16) = self.sentinel.command(&ask).await?;
            Ok(port == self.replica.port())
        })
        .await
    }

    /// Makes a replica of what was the primary.
    pub async fn mend(&mut self) -> anyhow::Result<()> {
        self.primary.start_again().await?;
        let port = self.replica.port().to_string();
        self.primary.command::<()>(&["REPLICAOF", "127.0.0.1", &port]).await?;
        until("there is a replica again", async || Ok(self.replica.info("slave0").await?.contains("state=online")))
            .await
    }
}

/// Forms a cluster: the first three are the primaries, and each of the others is the replica of the one three before
/// it.
async fn cluster(down_after_ms: u32) -> anyhow::Result<Vec<RedisServer>> {
    let mut nodes = Vec::new();
    for _ in 0..2 * PRIMARIES {
        let settings = format!(
            "{SETTINGS}\ncluster-enabled yes\ncluster-port {}\ncluster-node-timeout {down_after_ms}\n\
             cluster-replica-validity-factor 0",
            stack::ports::free()?
        );
        nodes.push(RedisServer::start(Flavour::Valkey, &settings).await?);
    }
    for (number, node) in nodes[..PRIMARIES].iter().enumerate() {
        let first = (number * SLOTS / PRIMARIES).to_string();
        let last = ((number + 1) * SLOTS / PRIMARIES - 1).to_string();
        node.command::<()>(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]).await?;
    }
    for node in &nodes[1..] {
        let bus = node.command::<Vec<(String, String)>>(&["CONFIG", "GET", "cluster-port"]).await?;
        let bus = bus.into_iter().next().context("no cluster-port")?.1;
        nodes[0].command::<()>(&["CLUSTER", "MEET", "127.0.0.1", &node.port().to_string(), &bus]).await?;
    }
    let agree = async |what: &str| {
        for node in &nodes {
            until("the nodes agree", async || Ok(node.command::<String>(&["CLUSTER", "INFO"]).await?.contains(what)))
                .await?;
        }
        anyhow::Ok(())
    };
    agree("cluster_state:ok").await?;
    agree(&format!("cluster_known_nodes:{}", 2 * PRIMARIES)).await?;
    for (primary, replica) in nodes[..PRIMARIES].iter().zip(&nodes[PRIMARIES..]) {
        let primary: String = primary.command(&["CLUSTER", "MYID"]).await?;
        replica.command::<()>(&["CLUSTER", "REPLICATE", &primary]).await?;
    }
    for primary in &nodes[..PRIMARIES] {
        until("replicas are online", async || Ok(primary.info("slave0").await?.contains("state=online"))).await?;
    }
    Ok(nodes)
}

/// Lets the replica of a cluster's primary fall behind: it loses its connection and is not let in again.
pub async fn lag(nodes: &[RedisServer], number: usize) -> anyhow::Result<()> {
    nodes[number].command::<()>(&["ACL", "SETUSER", "default", "-psync", "-sync"]).await?;
    nodes[number].command::<redis::Value>(&["CLIENT", "KILL", "TYPE", "replica"]).await?;
    Ok(())
}

/// Kills a cluster's primary and waits until its replica has taken its place.
pub async fn fail_over(nodes: &[RedisServer], number: usize) -> anyhow::Result<()> {
    nodes[number].kill().await?;
    let replica = &nodes[number + PRIMARIES];
    until("the replica has taken over", async || Ok(replica.info("role").await? == "master")).await
}

/// Starts a cluster's former primary again, and waits until it is a replica.
pub async fn mend(nodes: &mut [RedisServer], number: usize) -> anyhow::Result<()> {
    nodes[number].start_again().await?;
    let primary = &nodes[number + PRIMARIES];
    until("there is a replica again", async || Ok(primary.info("slave0").await?.contains("state=online"))).await
}

impl SlowDisk {
    async fn start(flavour: Flavour) -> anyhow::Result<Self> {
        let library = TempDir::with_prefix("tracebility-slow-fsync-")?;
        let built = library.path().join("slow_fsync.so");
        let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("preload/slow_fsync.c");
        let mut cc = tokio::process::Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&built).arg(source).arg("-ldl").stdin(Stdio::null());
        let output = cc.output().await.context("cannot run cc, which a slow disk needs; install a C compiler")?;
        ensure!(output.status.success(), "cc failed: {}", String::from_utf8_lossy(&output.stderr));
        let server = RedisServer::start_with(flavour, SETTINGS, Some(&built)).await?;
        Ok(Self { server, _library: library })
    }

    /// From now on every fsync takes this much longer.
    pub fn delay(&self, by: Duration) -> anyhow::Result<()> {
        Ok(std::fs::write(self.server.dir().join("fsync-delay-ms"), by.as_millis().to_string())?)
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let begun = std::time::Instant::now();
    loop {
        // A server that has just begun or ended may not answer.
        let held = holds().await;
        if let Ok(true) = held {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            held?;
            bail!("{what}: not so after {PATIENCE:?}");
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}
