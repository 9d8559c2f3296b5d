//! `deploy/clickhouse-users.sql` gives the services' user what they need, and nothing that they do not.

use bytes::Bytes;
use model::ids::OrgId;
use stack::{TestDb, User};
use stores::clickhouse::{AuditGap, AuditRow, ClickHouseUrl, InsertStatement, Inserter, Records, Tally, TallyOf};
use time::OffsetDateTime;
use uuid::Uuid;
use wire::tables::{STAMPS, Table};

use crate::clickhouse::raw_client;
use crate::support::empty;

/// What ClickHouse says to who may not.
const ACCESS_DENIED: u32 = 497;

/// A migrated database, and its URL for the services' user.
async fn as_app() -> (TestDb, String) {
    let db = empty().await;
    stack::migrate(&db).await.expect("`migrate` has the rights that it needs");
    let url = db.as_user(User::ClickhouseApp).unwrap();
    assert!(url.contains("tracebility_app"), "users with fewer rights are there");
    (db, url)
}

#[tokio::test]
async fn the_services_role_can_run_every_query_and_insert_of_the_services() {
    let (_db, url) = as_app().await;
    let url: ClickHouseUrl = url.parse().unwrap();
    let (records, inserter) = (Records::new(&url), Inserter::new(&url));
    let (org, now) = (OrgId(Uuid::from_u128(7)), OffsetDateTime::now_utc());
    inserter.ping().await.unwrap();
    for table in Table::ALL {
        assert!(!records.has_rows(table.name, org, 1).await.unwrap());
        let columns = STAMPS.iter().chain(table.columns).map(|column| column.name);
        let statement = InsertStatement::new(table.name, columns);
        // It gets as far as the rows, which are none.
        let refused = inserter.insert_native(&statement, "t", &[Bytes::from_static(b"x")], 1).await.unwrap_err();
        assert!(refused.code().is_some_and(|code| code != ACCESS_DENIED), "{refused}");
    }
    assert_eq!(records.billed(202_611, 1, &[org]).await.unwrap(), []);
    for tally in [Tally::Stored, Tally::Answered] {
        assert_eq!(records.tally_orgs(tally, TallyOf::Org(org), &[500_000], 10).await.unwrap(), []);
        assert_eq!(records.tally_buckets(tally, &[500_000]).await.unwrap(), []);
    }
    records.insert_answered(Uuid::from_u128(3), &[(org, 500_000, 1)]).await.unwrap();
    assert!(!records.is_replicated("span").await.unwrap());
    assert_eq!(records.fullest_partition().await.unwrap(), None);
    let event = AuditRow {
        event_id: Uuid::from_u128(1),
        org_id: org,
        event_time: now,
        event_type: "org.create".to_owned(),
        actor: "somebody".to_owned(),
        target: String::new(),
        detail: "{}".to_owned(),
    };
    records.insert_events(std::slice::from_ref(&event), "t").await.unwrap();
    assert_eq!(records.find_events(&[event.event_id], now, now).await.unwrap().len(), 1);
    let gap = AuditGap {
        detection_id: Uuid::from_u128(2),
        detected_at: now,
        event_id: event.event_id,
        org_id: org,
        event_time: now,
        event_type: "org.create".to_owned(),
        is_repaired: false,
    };
    records.insert_gaps(std::slice::from_ref(&gap)).await.unwrap();
    assert_eq!(records.gaps(10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_services_role_can_neither_read_payloads_nor_change_a_table() {
    let (db, url) = as_app().await;
    let client = raw_client(&url);
    let elsewhere = db.clickhouse_url.rsplit_once('/').unwrap().1;
    for sql in [
        "SELECT inputs FROM span".to_owned(),
        "SELECT * FROM run".to_owned(),
        "SELECT content FROM set_aside".to_owned(),
        "SELECT count() FROM schema_migrations".to_owned(),
        "SELECT query FROM system.processes".to_owned(),
        "ALTER TABLE span DROP COLUMN inputs".to_owned(),
        "ALTER TABLE span DELETE WHERE 1".to_owned(),
        "TRUNCATE TABLE billing_meter".to_owned(),
        "DROP TABLE span".to_owned(),
        "CREATE TABLE mine (a UInt8) ENGINE = Memory".to_owned(),
        format!("DROP DATABASE {elsewhere}"),
        "SYSTEM STOP MERGES span".to_owned(),
    ] {
        let refused = client.query_raw(&sql).execute().await.expect_err(&sql).to_string();
        assert!(refused.contains(&format!("Code: {ACCESS_DENIED}.")), "{sql}: {refused}");
    }
}
