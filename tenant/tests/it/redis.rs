//! Redis as a service meets it.

use redis::AsyncCommands;
use tenant::keys::RedisKey;
use tenant::redis::{ConnectError, connect, preflight};
use tenant::settings::parse;
use tenant::shard::Shard;

use crate::support::empty;

#[tokio::test]
async fn a_safe_redis_passes_and_takes_typed_keys() {
    let db = empty().await;
    let mut connection = connect(&parse::redis_url(&db.redis_url).unwrap()).unwrap();
    preflight(&connection).await.unwrap();
    let stream = RedisKey::shard_stream(Shard::new(3).unwrap());
    let _id: String = connection.xadd(&stream, "*", &[("d", b"x".as_slice())]).await.unwrap();
    assert_eq!(connection.xlen::<_, u64>(&stream).await.unwrap(), 1);
}

#[tokio::test]
async fn an_absent_redis_is_told_in_time_and_without_its_password() {
    let connection = connect(&parse::redis_url("redis://:hunter2@127.0.0.1:1/0").unwrap()).unwrap();
    let error = preflight(&connection).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable(_)), "{error}");
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
}
