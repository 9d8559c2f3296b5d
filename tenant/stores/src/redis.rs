//! Connections to Redis: one node, the primary that Sentinel names, or a cluster.
//!
//! Code that uses a connection need not know which of the three it is: every key has a hash tag, and no command, script
//! or pipeline uses keys of two slots.
//!
//! | module | one idea |
//! | --- | --- |
//! | [`readiness`] | whether Redis may be trusted with acknowledged data |
//! | [`ack`] | what must happen before a request is acknowledged |
//! | `facts` | what a server reports about itself |
//! | [`confirm`] | writes that wait for a disk or for replicas, many of them for one wait |
//! | `sentinel` | a connection that follows a failover |

use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::cluster::{ClusterClient, ClusterConfig};
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo};
use redis::{
    Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, Msg, Pipeline, RedisError, RedisFuture, Value,
};

use crate::keys::RedisKey;
use crate::secret::SecretUrl;

pub mod ack;
pub mod confirm;
mod facts;
pub mod readiness;
mod sentinel;

pub use readiness::ConnectError;
use sentinel::SentinelConnection;

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
/// How often a command is tried on a cluster that is moving slots, before the caller gets the error.
pub const CLUSTER_RETRIES_MAX: u32 = 3;

/// The scheme of Sentinel's URL: `redis-sentinel://user:password@host:26379/name/0?nodes=host2:26379,host3:26379`. Host
/// and `nodes` are Sentinels, `name` is what they call the primary, `0` the database (left out: 0). User and password
/// are those of Redis; those of the Sentinels are `sentinel_user=` and `sentinel_password=`.
pub const SENTINEL_SCHEME: &str = "redis-sentinel";

/// A shared, multiplexed connection that reconnects by itself. Cloning it is cheap.
#[derive(Clone)]
pub struct Redis(Connection);

#[derive(Clone)]
enum Connection {
    Node(ConnectionManager),
    Cluster(ClusterConnection),
    Sentinel(SentinelConnection),
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Connection::Node(_) => "Redis(node)",
            Connection::Cluster(_) => "Redis(cluster)",
            Connection::Sentinel(_) => "Redis(sentinel)",
        })
    }
}

impl ConnectionLike for Redis {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match &mut self.0 {
            Connection::Node(node) => node.req_packed_command(cmd),
            Connection::Cluster(cluster) => cluster.req_packed_command(cmd),
            Connection::Sentinel(followed) => Box::pin(followed.command(cmd)),
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
            Connection::Sentinel(followed) => Box::pin(followed.pipeline(pipeline, offset, count)),
        }
    }

    fn get_db(&self) -> i64 {
        match &self.0 {
            Connection::Node(node) => node.get_db(),
            Connection::Cluster(cluster) => cluster.get_db(),
            Connection::Sentinel(followed) => followed.database(),
        }
    }
}

impl Redis {
    /// Whether the keys are spread over several primaries (a Redis cluster).
    pub(crate) const fn is_cluster(&self) -> bool {
        matches!(self.0, Connection::Cluster(_))
    }

    /// Sends a command to every primary. Returns each one's name and reply; a single node has no name.
    async fn on_every_primary(&self, command: &Cmd) -> Result<Vec<(String, Value)>, RedisError> {
        let mut connection = self.0.clone();
        let reply = match &mut connection {
            Connection::Node(node) => node.req_packed_command(command).await?,
            Connection::Sentinel(followed) => followed.command(command).await?,
            Connection::Cluster(cluster) => {
                let primaries = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
                match cluster.route_command(command.clone(), primaries).await? {
                    Value::Map(replies) => {
                        let named = |(name, reply): (Value, Value)| {
                            Ok((redis::from_redis_value(name)?, reply.extract_error()?))
                        };
                        return replies.into_iter().map(named).collect();
                    }
                    other => other,
                }
            }
        };
        Ok(vec![(String::new(), reply.extract_error()?)])
    }
}

/// Checks a URL with one of our own schemes. The error does not repeat the URL.
pub fn check_url(url: &SecretUrl) -> Result<(), String> {
    let checked = match url.expose().scheme() {
        SENTINEL_SCHEME => sentinel::check(url),
        CLUSTER_SCHEME => cluster_nodes(url).map(drop),
        _ => Ok(()),
    };
    checked.map_err(|error| match error {
        ConnectError::Url(cause) => format!("cannot be used: {}", cause.detail().unwrap_or("see its documentation")),
        other => other.to_string(),
    })
}

/// Connects to the node, the cluster, or the primary of that URL. No I/O happens here: the first command connects, so
/// that a service can start, and say why it is not ready, while Redis is down. To be called within a tokio runtime.
pub fn connect(url: &SecretUrl) -> Result<Redis, ConnectError> {
    connect_waiting(url, Duration::ZERO)
}

/// Like [`connect`], for a connection on which commands block in Redis for at most `block` (`XREADGROUP … BLOCK`).
/// Share such a connection only with callers that can wait for that long.
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
    if url.expose().scheme() == SENTINEL_SCHEME {
        return Ok(Redis(Connection::Sentinel(SentinelConnection::new(url, response_timeout)?)));
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
    node.set_query(None);
    // A scheme that the `url` crate does not know keeps its host as it is; `redis` is such a one too.
    let first = node.as_str().replacen(CLUSTER_SCHEME, "redis", 1).into_connection_info().map_err(ConnectError::Url)?;
    Ok([vec![first.clone()], further_nodes(url, &first)?].concat())
}

/// The nodes of a URL's `nodes=`, reached like the first.
fn further_nodes(url: &SecretUrl, first: &ConnectionInfo) -> Result<Vec<ConnectionInfo>, ConnectError> {
    let addresses = url.expose().query_pairs().filter(|(name, _)| name == "nodes").map(|(_, nodes)| nodes.into_owned());
    let mut nodes = Vec::new();
    for address in addresses.collect::<Vec<_>>().iter().flat_map(|addresses| addresses.split(',')) {
        let (host, port) = address
            .rsplit_once(':')
            .and_then(|(host, port)| Some((host, port.parse().ok()?)))
            .ok_or_else(|| ConnectError::Url(not_usable("nodes= takes host:port,host:port")))?;
        nodes.push(first.clone().set_addr(ConnectionAddr::Tcp(host.to_owned(), port)));
    }
    Ok(nodes)
}

fn not_usable(why: &'static str) -> RedisError {
    RedisError::from((redis::ErrorKind::InvalidClientConfig, why))
}

/// Messages of one channel, on a connection of its own. On a cluster a message reaches every node, so any will do.
pub struct Subscription {
    messages: Pin<Box<dyn Stream<Item = Msg> + Send>>,
}

impl Subscription {
    /// Subscribes. Fails if no node answers; ends when the connection breaks.
    pub async fn open(url: &SecretUrl, channel: &RedisKey) -> Result<Self, RedisError> {
        let clients = match url.expose().scheme() {
            SENTINEL_SCHEME => vec![sentinel::primary(url).await?],
            CLUSTER_SCHEME => {
                let nodes = cluster_nodes(url).map_err(|_| not_usable("the URL"))?;
                nodes.into_iter().map(Client::open).collect::<Result<_, _>>()?
            }
            _ => vec![Client::open(url.expose().as_str())?],
        };
        let mut failed = not_usable("the URL names no node");
        for client in clients {
            let opened = tokio::time::timeout(CONNECT_TIMEOUT, async {
                let mut subscription = client.get_async_pubsub().await?;
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
