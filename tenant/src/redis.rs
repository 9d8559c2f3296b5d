//! Connections to Redis, and the check that it may be trusted with acknowledged data.

use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, RedisError};
use thiserror::Error;

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

/// A shared, multiplexed connection that reconnects by itself. No I/O happens here: the first command connects, so that
/// a service can start, and say why it is not ready, while Redis is down.
pub fn connect(url: &SecretUrl) -> Result<ConnectionManager, ConnectError> {
    connect_waiting(url, Duration::ZERO)
}

/// Like [`connect`], for a connection whose commands block in Redis for at most `block` (`XREADGROUP … BLOCK`). Such a
/// connection must not be shared with anyone who is in a hurry.
pub fn connect_waiting(url: &SecretUrl, block: Duration) -> Result<ConnectionManager, ConnectError> {
    let client = Client::open(url.expose().as_str()).map_err(ConnectError::Url)?;
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(RESPONSE_TIMEOUT + block))
        .set_min_delay(RECONNECT_DELAY_MIN)
        .set_max_delay(RECONNECT_DELAY_MAX)
        .set_number_of_retries(RECONNECT_ATTEMPTS_MAX);
    ConnectionManager::new_lazy_with_config(client, config).map_err(ConnectError::Url)
}

/// Checks that Redis answers and never evicts. For start-up and `/readyz`.
pub async fn preflight(connection: &ConnectionManager) -> Result<(), ConnectError> {
    let info: String = redis::cmd("INFO")
        .arg("memory")
        .query_async(&mut connection.clone())
        .await
        .map_err(ConnectError::Unreachable)?;
    check_policy(&info)
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
