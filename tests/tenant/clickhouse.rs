//! Inserts into a real ClickHouse.

use bytes::Bytes;
use stores::clickhouse::{ClickHouseUrl, InsertStatement, Inserter, Refusal};

use crate::support::empty;

/// A Native block of one UInt64 column `n`.
pub(crate) fn block(values: &[u64]) -> Bytes {
    let rows = u8::try_from(values.len()).unwrap();
    let mut bytes = vec![1, rows];
    for text in ["n", "UInt64"] {
        bytes.push(u8::try_from(text.len()).unwrap());
        bytes.extend(text.as_bytes());
    }
    values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
    bytes.into()
}

#[tokio::test]
async fn an_insert_token_is_stored_once_and_a_refused_insert_leaves_nothing() {
    let db = empty().await;
    let client = raw_client(&db.clickhouse_url);
    let create = "CREATE TABLE numbers (n UInt64, CONSTRAINT small CHECK n < 100) ENGINE = MergeTree ORDER BY n
                  SETTINGS non_replicated_deduplication_window = 100";
    client.query_raw(create).execute().await.unwrap();
    let url: ClickHouseUrl = db.clickhouse_url.parse().unwrap();
    let inserter = Inserter::new(&url);
    inserter.ping().await.unwrap();

    let numbers = InsertStatement::new("numbers", ["n"]);
    for token in ["a", "a", "b"] {
        inserter.insert_native(&numbers, token, &[block(&[1, 2, 3])], 3).await.unwrap();
    }
    let count = client.query_raw("SELECT count() FROM numbers").fetch_one::<u64>().await.unwrap();
    assert_eq!(count, 6, "the token a was stored once");

    let refused = inserter.insert_native(&numbers, "c", &[block(&[1, 100])], 2).await.unwrap_err();
    assert_eq!((refused.code(), refused.refusal()), (Some(469), Refusal::Permanent), "{refused}");
    let count = client.query_raw("SELECT count() FROM numbers").fetch_one::<u64>().await.unwrap();
    assert_eq!(count, 6, "what was refused left nothing");
}

#[tokio::test]
async fn a_wrong_password_is_an_outage_and_is_not_printed() {
    let db = empty().await;
    let mut url = url::Url::parse(&db.clickhouse_url).unwrap();
    url.set_username("nobody").unwrap();
    url.set_password(Some("hunter2")).unwrap();
    let url: ClickHouseUrl = url.as_str().parse().unwrap();
    let error = Inserter::new(&url).ping().await.unwrap_err();
    assert!(error.is_outage(), "{error}");
    assert!(!format!("{error} {error:?} {url:?}").contains("hunter2"), "{error:?}");
}

pub(crate) fn raw_client(text: &str) -> clickhouse::Client {
    let url = url::Url::parse(text).unwrap();
    clickhouse::Client::default()
        .with_url(format!("http://{}:{}/", url.host_str().unwrap(), url.port().unwrap_or(8123)))
        .with_user(url.username())
        .with_password(url.password().unwrap_or_default())
        .with_database(url.path().trim_matches('/'))
}
