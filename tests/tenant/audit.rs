//! The audit trail, from whoever did something to whoever looks for it.

use std::time::Duration;

use audit::{AuditFull, AuditReconciler, Publisher, QUEUE_MAX, writer};
use migrate::{Options, Target};
use model::ids::OrgId;
use registry::Registry;
use registry::event::{EventType, NewEvent};
use serde_json::json;
use stores::clickhouse::Records;
use tokio::sync::watch;
use uuid::Uuid;

use crate::clickhouse::raw_client;
use crate::support::{Wire, World, stores};

fn login(org: Option<OrgId>, n: usize) -> NewEvent {
    NewEvent::new(org, EventType::Login, "ann@example.com")
        .with_target(&format!("{n:04}"))
        .with_detail(json!({ "n": n }))
}

#[tokio::test]
async fn a_full_audit_queue_refuses_events_and_a_stop_writes_the_queued_ones() {
    let world = World::new().await;
    let (writer, writing) = writer(Registry::new(world.pool.clone()));
    for n in 0..QUEUE_MAX {
        writer.record(login(Some(world.org.org_id), n)).await.unwrap();
    }
    assert_eq!(writer.record(login(Some(world.org.org_id), QUEUE_MAX)).await, Err(AuditFull));
    let (stop, stopping) = watch::channel(false);
    stop.send_replace(true);
    assert_eq!(writing.run(stopping).await, 0);
    assert_eq!(writer.record(login(None, 0)).await, Err(AuditFull), "nobody is there any more");
    let count = "SELECT count(*) FROM audit_outbox WHERE event_type = 'login'";
    assert_eq!(world.count(count).await, QUEUE_MAX as i64);
    let out_of_order = "SELECT count(*) FROM (SELECT target, lag(target) OVER (ORDER BY id) AS before FROM audit_outbox
                         WHERE event_type = 'login') t WHERE before >= target";
    assert_eq!(world.count(out_of_order).await, 0);
}

#[tokio::test]
async fn events_survive_an_outage_and_an_impossible_event() {
    let world = World::new().await;
    let wire = Wire::to(&world.db.pg_app_dsn).await;
    let registry = Registry::new(stores::postgres::pool(&wire.dsn).unwrap());
    let (writer, writing) = writer(registry.clone());
    let (stop, stopping) = watch::channel(false);
    let running = tokio::spawn(writing.run(stopping));
    let until = async |wanted: i64| {
        while world.count("SELECT count(*) FROM audit_outbox WHERE event_type = 'login'").await != wanted {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    writer.record(login(Some(world.org.org_id), 1)).await.unwrap();
    until(1).await;
    wire.cut().await;
    for n in 2..5 {
        writer.record(login(Some(world.org.org_id), n)).await.unwrap();
    }
    // Of an org that is no more.
    writer.record(login(Some(OrgId(Uuid::new_v4())), 5)).await.unwrap();
    wire.mend();
    until(4).await;
    writer.record(login(Some(world.org.org_id), 6)).await.unwrap();
    until(5).await;
    stop.send_replace(true);
    assert_eq!(running.await.unwrap(), 0);
}

/// Postgres with events, and ClickHouse.
struct Trail {
    world: World,
    registry: Registry,
    records: Records,
    clickhouse: clickhouse::Client,
}

impl Trail {
    async fn new() -> Self {
        let world = World::new().await;
        migrate::up(Target::Clickhouse, &stores(&world.db), &Options::default()).await.unwrap();
        let registry = Registry::new(world.pool.clone());
        let records = Records::new(&world.db.clickhouse_url.parse().unwrap());
        let clickhouse = raw_client(&world.db.clickhouse_url);
        Self { world, registry, records, clickhouse }
    }

    fn publisher(&self) -> Publisher {
        Publisher::new(self.registry.clone(), self.records.clone())
    }

    fn reconciler(&self) -> AuditReconciler {
        AuditReconciler::new(self.registry.clone(), self.records.clone()).with_grace(Duration::ZERO)
    }

    async fn record(&self, org: Option<OrgId>, events: &[NewEvent]) {
        self.registry.record_events(org, events).await.unwrap();
    }

    async fn number(&self, sql: &str) -> u64 {
        self.clickhouse.query(sql).fetch_one::<u64>().await.unwrap()
    }

    /// The events in ClickHouse, in order.
    async fn copied(&self) -> Vec<(String, String, String, String)> {
        let sql = "SELECT CAST(event_type, 'String'), toString(org_id), target, detail FROM audit_log FINAL
                    WHERE event_type = 'login' ORDER BY target";
        self.clickhouse.query(sql).fetch_all().await.unwrap()
    }
}

#[tokio::test]
async fn every_event_is_copied_once_wherever_the_copier_is_killed() {
    let trail = Trail::new().await;
    let org = trail.world.org.org_id;
    trail.record(Some(org), &[login(Some(org), 1), login(Some(org), 2)]).await;
    trail.record(None, &[login(None, 3)]).await;
    // Killed before it copied; then before it marked.
    let batch = trail.publisher().next().await.unwrap();
    assert_eq!(batch.len(), 4, "and the making of the org");
    trail.publisher().copy(&batch).await.unwrap();
    assert_eq!(trail.publisher().next().await.unwrap(), batch, "the same batch");
    trail.publisher().copy(&batch).await.unwrap();
    assert_eq!(trail.number("SELECT count() FROM audit_log").await, 4, "is recognised, without FINAL");
    // Killed again, and the batch is another one now.
    trail.record(Some(org), &[login(Some(org), 4)]).await;
    let publishers = [trail.publisher(), trail.publisher()];
    let (one, two) = tokio::join!(publishers[0].run(), publishers[1].run());
    assert!(one.unwrap() + two.unwrap() >= 5);
    assert!(!trail.publisher().has_work().await.unwrap());
    assert_eq!(trail.number("SELECT count() FROM audit_log FINAL").await, 5);
    let copied = trail.copied().await;
    let nobody = Uuid::nil().to_string();
    let event = |org: &str, n: usize| ("login".into(), org.into(), format!("{n:04}"), json!({ "n": n }).to_string());
    let (org, nobody) = (org.to_string(), nobody.as_str());
    assert_eq!(copied, [event(&org, 1), event(&org, 2), event(nobody, 3), event(&org, 4)]);
    let times = "SELECT count() FROM audit_log FINAL WHERE abs(dateDiff('second', event_time, now64(9))) > 600";
    assert_eq!(trail.number(times).await, 0);
}

#[tokio::test]
async fn more_than_one_batch_is_copied() {
    let trail = Trail::new().await;
    let org = Some(trail.world.org.org_id);
    let events: Vec<_> = (0..2_500).map(|n| login(org, n)).collect();
    trail.record(org, &events).await;
    trail.record(org, &events).await; // the same again
    assert_eq!(trail.publisher().run().await.unwrap(), 2_501);
    assert_eq!(trail.number("SELECT uniqExact(event_id) FROM audit_log").await, 2_501);
    let report = trail.reconciler().run().await.unwrap();
    assert_eq!((report.checked, report.missing), (2_501, 0));
}

#[tokio::test]
async fn missing_events_are_noted_and_copied_again() {
    let trail = Trail::new().await;
    let org = trail.world.org.org_id;
    let events = [login(Some(org), 1), login(Some(org), 2), login(Some(org), 3)];
    trail.record(Some(org), &events).await;
    trail.publisher().run().await.unwrap();
    assert_eq!(trail.reconciler().run().await.unwrap().missing, 0);
    let lost = events[1].event_id();
    let delete = format!("ALTER TABLE audit_log DELETE WHERE event_id = '{lost}' SETTINGS mutations_sync = 2");
    trail.clickhouse.query(&delete).execute().await.unwrap();
    assert_eq!(trail.number("SELECT count() FROM audit_log").await, 3);
    // One that was never copied is missing as well.
    trail.record(Some(org), &[login(Some(org), 4)]).await;

    let young = AuditReconciler::new(trail.registry.clone(), trail.records.clone()).run().await.unwrap();
    assert_eq!((young.checked, young.missing), (0, 0), "all of it is too young to be missed");
    let report = trail.reconciler().run().await.unwrap();
    assert_eq!((report.checked, report.missing), (5, 2));
    assert_eq!(trail.copied().await.len(), 4);
    assert!(!trail.publisher().has_work().await.unwrap());
    let gaps = trail.records.gaps(10).await.unwrap();
    assert_eq!(gaps.len(), 2, "{gaps:?}");
    assert!(gaps.iter().all(|gap| gap.is_repaired && gap.detection_id == report.detection_id && gap.org_id == org));
    assert!(gaps.iter().any(|gap| gap.event_id == lost && gap.event_type == "login"));

    // Lost once more: a gap of another run, and back again.
    trail.clickhouse.query(&delete).execute().await.unwrap();
    assert_eq!(trail.reconciler().run().await.unwrap().missing, 1);
    assert_eq!((trail.copied().await.len(), trail.records.gaps(10).await.unwrap().len()), (4, 3));
    assert_eq!(trail.reconciler().run().await.unwrap().missing, 0);
}
