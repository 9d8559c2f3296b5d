//! Connections to Redis, one node or a cluster, and the check that it may be trusted with acknowledged data.
//!
//! Nothing that uses a connection can tell the two apart: every key names its slot by a hash tag, and no command, script
//! or pipeline of ours has keys of two slots.

use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::cluster::{ClusterClient, ClusterConfig};
use redis::cluster_async::ClusterConnection;
use redis::{
    Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, Msg, Pipeline, RedisError, RedisFuture, Value,
};
use thiserror::Error;

use crate::keys::RedisKey;
use crate::secret::SecretUrl;

/// How long one attempt to connect may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long Redis may take to answer a command that does not block.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause before a second attempt to connect; it doubles from there.
pub const RECONNECT_DELAY_MIN: Duration = Duration::from_millis(50);
/// The longest pause between attempts to connect.
pub const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(1);
/// How often a reconnection is retried before the commands that wait for it fail. The next command starts over.
pub const RECONNECT_ATTEMPTS_MAX: usize = 2;

/// The scheme of a cluster's URL: `redis-cluster://user:password@host:7000/?nodes=host2:7001,host3:7002`. One node that
/// answers is enough to find the others; more of them are named for the case that the first is away.
pub const CLUSTER_SCHEME: &str = "redis-cluster";
/// How often a command is tried on a cluster whose slots are moving, before its caller hears of it.
pub const CLUSTER_RETRIES_MAX: u32 = 3;

/// The only eviction policy under which a stream is never evicted.
const SAFE_POLICY: &str = "noeviction";

/// Why Redis cannot be used.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The URL is not one that the driver can use.
    #[error("TRACEBILITY_REDIS_URL cannot be used: {0}")]
    Url(#[source] RedisError),
    /// Redis did not answer.
    #[error("redis does not answer: {0}")]
    Unreachable(#[source] RedisError),
    /// Redis may evict what was acknowledged.
    #[error("redis runs with maxmemory-policy {policy:?}, under which it may evict acknowledged data; set noeviction")]
    Evicts {
        /// The policy it reported.
        policy: String,
    },
    /// `INFO memory` named no policy.
    #[error("redis does not tell its maxmemory-policy")]
    PolicyUnknown,
}

/// A shared, multiplexed connection that reconnects by itself. Cloning it is cheap.
#[derive(Clone)]
pub struct Redis(Connection);

#[derive(Clone)]
enum Connection {
    Node(ConnectionManager),
    Cluster(ClusterConnection),
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Connection::Node(_) => "Redis(node)",
            Connection::Cluster(_) => "Redis(cluster)",
        })
    }
}

impl ConnectionLike for Redis {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match &mut self.0 {
            Connection::Node(node) => node.req_packed_command(cmd),
            Connection::Cluster(cluster) => cluster.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match &mut self.0 {
            Connection::Node(node) => node.req_packed_commands(pipeline, offset, count),
            Connection::Cluster(cluster) => cluster.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match &self.0 {
            Connection::Node(node) => node.get_db(),
            Connection::Cluster(cluster) => cluster.get_db(),
        }
    }
}

/// Connects to the node or cluster of that URL. No I/O happens here: the first command connects, so that a service can
/// start, and say why it is not ready, while Redis is down. To be called within a tokio runtime.
pub fn connect(url: &SecretUrl) -> Result<Redis, ConnectError> {
    connect_waiting(url, Duration::ZERO)
}

/// Like [`connect`], for a connection whose commands block in Redis for at most `block` (`XREADGROUP … BLOCK`). Such a
/// connection must not be shared with anyone who is in a hurry.
pub fn connect_waiting(url: &SecretUrl, block: Duration) -> Result<Redis, ConnectError> {
    let response_timeout = RESPONSE_TIMEOUT + block;
    if url.expose().scheme() == CLUSTER_SCHEME {
        let client = ClusterClient::builder(cluster_nodes(url)?)
            .retries(CLUSTER_RETRIES_MAX)
            .connection_timeout(CONNECT_TIMEOUT)
            .response_timeout(response_timeout)
            .overall_response_timeout(Some(response_timeout))
            .build()
            .map_err(ConnectError::Url)?;
        let connection = client.get_pending_async_connection_with_config(ClusterConfig::new());
        return Ok(Redis(Connection::Cluster(connection)));
    }
    let client = Client::open(url.expose().as_str()).map_err(ConnectError::Url)?;
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(response_timeout))
        .set_min_delay(RECONNECT_DELAY_MIN)
        .set_max_delay(RECONNECT_DELAY_MAX)
        .set_number_of_retries(RECONNECT_ATTEMPTS_MAX);
    ConnectionManager::new_lazy_with_config(client, config)
        .map(|node| Redis(Connection::Node(node)))
        .map_err(ConnectError::Url)
}

/// The nodes that a cluster's URL names, each with the URL's user and password.
fn cluster_nodes(url: &SecretUrl) -> Result<Vec<ConnectionInfo>, ConnectError> {
    let mut node = url.expose().clone();
    let more: Vec<String> = node
        .query_pairs()
        .filter(|(name, _)| name == "nodes")
        .flat_map(|(_, nodes)| nodes.split(',').map(str::to_owned).collect::<Vec<_>>())
        .collect();
    node.set_query(None);
    // A scheme that the `url` crate does not know keeps its host as it is; `redis` is such a one too.
    let first = node.as_str().replacen(CLUSTER_SCHEME, "redis", 1).into_connection_info().map_err(ConnectError::Url)?;
    let mut nodes = vec![first.clone()];
    for address in more {
        let (host, port) = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?))).ok_or(
            ConnectError::Url(RedisError::from((
                redis::ErrorKind::InvalidClientConfig,
                "nodes= takes host:port,host:port",
            ))),
        )?;
        nodes.push(first.clone().set_addr(ConnectionAddr::Tcp(host.to_owned(), port)));
    }
    Ok(nodes)
}

/// Messages of one channel, on a connection of its own. On a cluster a message reaches every node, so any will do.
pub struct Subscription {
    messages: Pin<Box<dyn Stream<Item = Msg> + Send>>,
}

impl Subscription {
    /// Subscribes. Fails if no node answers; ends when the connection breaks.
    pub async fn open(url: &SecretUrl, channel: &RedisKey) -> Result<Self, RedisError> {
        let nodes = if url.expose().scheme() == CLUSTER_SCHEME {
            cluster_nodes(url).map_err(|_| RedisError::from((redis::ErrorKind::InvalidClientConfig, "the URL")))?
        } else {
            vec![url.expose().as_str().into_connection_info()?]
        };
        let mut failed = RedisError::from((redis::ErrorKind::InvalidClientConfig, "the URL names no node"));
        for node in nodes {
            let opened = tokio::time::timeout(CONNECT_TIMEOUT, async {
                let mut subscription = Client::open(node)?.get_async_pubsub().await?;
                subscription.subscribe(channel).await?;
                Ok::<_, RedisError>(subscription)
            });
            match opened.await {
                Ok(Ok(subscription)) => return Ok(Self { messages: Box::pin(subscription.into_on_message()) }),
                Ok(Err(error)) => failed = error,
                Err(_elapsed) => failed = RedisError::from((redis::ErrorKind::Io, "no answer in time")),
            }
        }
        Err(failed)
    }

    /// The next message that is text; `None` when the connection has ended.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            let message = self.messages.next().await?;
            if let Ok(text) = message.get_payload() {
                return Some(text);
            }
        }
    }
}

/// Checks that Redis answers and never evicts, on every primary if it is a cluster. For start-up and `/readyz`.
pub async fn preflight(connection: &Redis) -> Result<(), ConnectError> {
    let info = redis::cmd("INFO").arg("memory").query_async(&mut connection.clone()).await;
    check_policies(info.map_err(ConnectError::Unreachable)?)
}

/// A node answers with a text, a cluster with one per primary.
fn check_policies(info: Value) -> Result<(), ConnectError> {
    match info {
        Value::Map(nodes) => nodes.into_iter().try_for_each(|(_, info)| check_policies(info)),
        info => check_policy(&redis::from_redis_value::<String>(info).map_err(|_| ConnectError::PolicyUnknown)?),
    }
}

fn check_policy(info: &str) -> Result<(), ConnectError> {
    let policy = info.lines().find_map(|line| line.strip_prefix("maxmemory_policy:")).map(str::trim);
    match policy {
        Some(SAFE_POLICY) => Ok(()),
        Some(policy) => Err(ConnectError::Evicts { policy: policy.to_owned() }),
        None => Err(ConnectError::PolicyUnknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_noeviction_passes() {
        let check = |info: &str| check_policy(info);
        assert!(check("# Memory\r\nused_memory:1\r\nmaxmemory_policy:noeviction\r\n").is_ok());
        for policy in ["allkeys-lru", "volatile-ttl", "noeviction2", ""] {
            assert!(matches!(
                check(&format!("maxmemory_policy:{policy}\r\n")),
                Err(ConnectError::Evicts { policy: found }) if found == policy
            ));
        }
        assert!(matches!(check("# Memory\r\n"), Err(ConnectError::PolicyUnknown)));
    }
}
