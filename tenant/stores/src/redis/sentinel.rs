//! A connection that follows a failover: it asks Sentinel for the primary whenever the last one is gone.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use redis::aio::MultiplexedConnection;
use redis::sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, IntoConnectionInfo, Pipeline, RedisConnectionInfo, RedisError,
    ServerErrorKind, Value,
};

use super::{CONNECT_TIMEOUT, ConnectError, RECONNECT_DELAY_MIN, SENTINEL_SCHEME, further_nodes, not_usable};
use crate::secret::SecretUrl;

/// How long finding the primary and connecting to it may take, including Sentinels that do not answer.
const FIND_MAX: Duration = Duration::from_secs(3);
/// Where a Sentinel listens unless the URL says something else.
const SENTINEL_PORT: u16 = 26_379;

type Connecting = Shared<BoxFuture<'static, Result<MultiplexedConnection, RedisError>>>;

/// A multiplexed connection to whichever node is the primary. Cheap to clone; clones share it.
#[derive(Clone)]
pub(super) struct SentinelConnection(Arc<Inner>);

struct Inner {
    url: SecretUrl,
    response_timeout: Duration,
    database: i64,
    current: Mutex<Attempt>,
}

/// One attempt to connect; all commands that arrive meanwhile share it.
#[derive(Clone)]
struct Attempt {
    number: u64,
    connecting: Connecting,
}

impl SentinelConnection {
    /// No I/O happens here: the first command connects.
    pub(super) fn new(url: &SecretUrl, response_timeout: Duration) -> Result<Self, ConnectError> {
        let database = Watched::of(url)?.redis.db();
        let current = Mutex::new(Attempt { number: 0, connecting: connecting(url, response_timeout, Duration::ZERO) });
        Ok(Self(Arc::new(Inner { url: url.clone(), response_timeout, database, current })))
    }

    pub(super) fn database(&self) -> i64 {
        self.0.database
    }

    pub(super) async fn command(&self, command: &Cmd) -> Result<Value, RedisError> {
        let (number, mut connection) = self.connection().await?;
        let sent = connection.send_packed_command(command).await;
        self.reconnect_if(number, sent.as_ref().map_or_else(is_lost, is_replica));
        sent
    }

    pub(super) async fn pipeline(
        &self,
        pipeline: &Pipeline,
        offset: usize,
        count: usize,
    ) -> Result<Vec<Value>, RedisError> {
        let (number, mut connection) = self.connection().await?;
        let sent = connection.send_packed_commands(pipeline, offset, count).await;
        self.reconnect_if(number, sent.as_ref().map_or_else(is_lost, |all| all.iter().any(is_replica)));
        sent
    }

    /// The present connection and the number of its attempt. A failed attempt is not kept, so the next command tries
    /// again.
    async fn connection(&self) -> Result<(u64, MultiplexedConnection), RedisError> {
        let attempt = self.current();
        let connected = attempt.connecting.await;
        self.reconnect_if(attempt.number, connected.is_err());
        connected.map(|connection| (attempt.number, connection))
    }

    fn current(&self) -> Attempt {
        self.0.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets the connection of that attempt, unless that has happened already. The next command asks Sentinel again.
    fn reconnect_if(&self, number: u64, is_gone: bool) {
        let mut current = self.0.current.lock().unwrap_or_else(PoisonError::into_inner);
        if is_gone && current.number == number {
            let connecting = connecting(&self.0.url, self.0.response_timeout, RECONNECT_DELAY_MIN);
            *current = Attempt { number: number + 1, connecting };
        }
    }
}

/// A command that timed out counts as well: the machine may have gone without closing the connection, and Sentinel
/// knows.
fn is_lost(error: &RedisError) -> bool {
    error.is_unrecoverable_error() || error.is_timeout() || error.is_io_error() || is_replicas(error.kind())
}

fn is_replica(reply: &Value) -> bool {
    match reply {
        Value::ServerError(error) => error.kind().is_some_and(|kind| is_replicas(kind.into())),
        _ => false,
    }
}

/// The errors that a former primary answers after it became a replica.
fn is_replicas(kind: redis::ErrorKind) -> bool {
    kind == ServerErrorKind::ReadOnly.into() || kind == ServerErrorKind::MasterDown.into()
}

fn connecting(url: &SecretUrl, response_timeout: Duration, pause: Duration) -> Connecting {
    let url = url.clone();
    let connecting = async move {
        tokio::time::sleep(pause).await;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(response_timeout));
        primary(&url).await?.get_multiplexed_async_connection_with_config(&config).await
    };
    connecting.boxed().shared()
}

/// The present primary, as Sentinel names it; the server must call itself a primary, too.
pub(super) async fn primary(url: &SecretUrl) -> Result<Client, RedisError> {
    let watched = Watched::of(url).map_err(|_| not_usable("the URL"))?;
    let redis = SentinelNodeConnectionInfo::default().set_redis_connection_info(watched.redis);
    let mut sentinels =
        SentinelClient::build(watched.sentinels, watched.name, Some(redis), SentinelServerType::Master)?;
    match tokio::time::timeout(FIND_MAX, sentinels.async_get_client()).await {
        Ok(found) => found,
        Err(_elapsed) => Err(RedisError::from((redis::ErrorKind::Io, "no Sentinel named the primary in time"))),
    }
}

/// Whether a URL names everything that Sentinel needs.
pub(super) fn check(url: &SecretUrl) -> Result<(), ConnectError> {
    Watched::of(url).map(drop)
}

/// The parts of a Sentinel URL.
struct Watched {
    sentinels: Vec<ConnectionInfo>,
    name: String,
    redis: RedisConnectionInfo,
}

impl Watched {
    fn of(url: &SecretUrl) -> Result<Self, ConnectError> {
        const SHAPE: &str = "redis-sentinel:// takes host:port/name or host:port/name/database";
        let mut plain = url.expose().clone();
        let shape = || ConnectError::Url(not_usable(SHAPE));
        let (name, database) = {
            let mut path = plain.path_segments().ok_or_else(shape)?.map(str::to_owned);
            (path.next().filter(|name| !name.is_empty()).ok_or_else(shape)?, path.next().unwrap_or_default())
        };
        let name = percent_encoding::percent_decode_str(&name).decode_utf8().map_err(|_| shape())?.into_owned();
        plain.set_query(None);
        plain.set_path(&database);
        if plain.port().is_none() {
            plain.set_port(Some(SENTINEL_PORT)).map_err(|()| shape())?;
        }
        let of_redis =
            plain.as_str().replacen(SENTINEL_SCHEME, "redis", 1).into_connection_info().map_err(ConnectError::Url)?;
        let mut of_sentinel = RedisConnectionInfo::default();
        for (parameter, value) in url.expose().query_pairs() {
            match &*parameter {
                "sentinel_user" => of_sentinel = of_sentinel.set_username(&*value),
                "sentinel_password" => of_sentinel = of_sentinel.set_password(&*value),
                _ => {}
            }
        }
        let first = of_redis.clone().set_redis_settings(of_sentinel);
        let sentinels = [vec![first.clone()], further_nodes(url, &first)?].concat();
        Ok(Self { sentinels, name, redis: of_redis.redis_settings().clone() })
    }
}

#[cfg(test)]
mod tests {
    use redis::ConnectionAddr;
    use url::Url;

    use super::*;

    fn watched(url: &str) -> Result<Watched, ConnectError> {
        Watched::of(&SecretUrl::new(Url::parse(url).unwrap()))
    }

    #[test]
    fn a_sentinel_url_names_sentinels_primary_and_both_credentials() {
        let url = "redis-sentinel://app:hunter2@a:1/the%20primary/3?nodes=b:2,c:3&sentinel_password=other";
        let found = watched(url).unwrap();
        let at = |host: &str, port| ConnectionAddr::Tcp(host.to_owned(), port);
        let addresses: Vec<_> = found.sentinels.iter().map(|sentinel| sentinel.addr().clone()).collect();
        assert_eq!(addresses, [at("a", 1), at("b", 2), at("c", 3)]);
        assert_eq!(found.name, "the primary");
        assert_eq!((found.redis.db(), found.redis.password()), (3, Some("hunter2")));
        let sentinel = found.sentinels[2].redis_settings();
        assert_eq!((sentinel.db(), sentinel.username(), sentinel.password()), (0, None, Some("other")));

        let short = watched("redis-sentinel://a/mymaster").unwrap();
        assert_eq!((short.sentinels[0].addr().clone(), short.redis.db()), (at("a", SENTINEL_PORT), 0));
        for bad in ["redis-sentinel://a:1", "redis-sentinel://a:1/", "redis-sentinel://a:1/m?nodes=b"] {
            assert!(matches!(watched(bad), Err(ConnectError::Url(_))), "{bad}");
        }
    }
}
