//! Migrates a deployment from before orgs, and back.

mod killed;
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use migrate::CLICKHOUSE;
use stack::TestDb;
use uuid::Uuid;
use wire::tables::CLOSED;

use self::world::{Batch, TABLES, World};
use crate::support::{clickhouse, empty, must, stores};

/// How long a test waits for anything.
const LONG: std::time::Duration = std::time::Duration::from_secs(60);
const POLL_EVERY: std::time::Duration = std::time::Duration::from_millis(10);

/// Fills every table with many rows, some of which were sent again, changed or unchanged.
async fn fill(world: &World) -> Vec<Batch> {
    let batches = [
        Batch { first: 0, rows: 2000, version: 1 },
        Batch { first: 500, rows: 700, version: 2 },
        Batch { first: 1000, rows: 10, version: 3 },
        Batch { first: 0, rows: 100, version: 1 },
    ];
    for table in TABLES {
        for batch in batches {
            world.write(table, batch).await.unwrap();
        }
    }
    batches.to_vec()
}

/// `SHOW CREATE TABLE` of every table but the journal, without the database's name.
async fn definitions(url: &str) -> Vec<String> {
    let query = "SELECT replaceAll(create_table_query, concat(currentDatabase(), '.'), '') FROM system.tables \
                 WHERE database = currentDatabase() AND name != 'schema_migrations' ORDER BY name";
    clickhouse(url).query_raw(query).fetch_all().await.unwrap()
}

async fn fresh() -> TestDb {
    let db = empty().await;
    must(&stores(&db), &["up"]).await;
    db
}

/// Writers of the old release: they write to the tables in turn, and remember what ClickHouse acknowledged.
struct Writers {
    stop: Arc<AtomicBool>,
    refused: Arc<AtomicU64>,
    running: Vec<tokio::task::JoinHandle<Vec<(&'static str, Batch)>>>,
}

impl Writers {
    fn start(world: &Arc<World>, count: u64) -> Self {
        let (stop, refused) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let running = (0..count).map(|writer| {
            let (world, stop, refused) = (Arc::clone(world), Arc::clone(&stop), Arc::clone(&refused));
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                let mut first = (1 + writer) * 1_000_000;
                while !stop.load(Ordering::SeqCst) {
                    for table in TABLES {
                        // Each batch again, as after a lost answer; then as a newer version.
                        for version in [1, 1, 2] {
                            let batch = Batch { first, rows: 20, version };
                            match world.write(table, batch).await {
                                Ok(()) => acknowledged.push((table, batch)),
                                Err(error) => {
                                    let expected = error.contains(CLOSED) || error.contains("org_is_set");
                                    assert!(expected, "a writer was told something else: {error}");
                                    refused.fetch_add(1, Ordering::SeqCst);
                                }
                            }
                        }
                    }
                    first += 20;
                }
                acknowledged
            })
        });
        Self { running: running.collect(), stop, refused }
    }

    async fn stop(self) -> Vec<(&'static str, Batch)> {
        self.stop.store(true, Ordering::SeqCst);
        let mut acknowledged = Vec::new();
        for writer in self.running {
            acknowledged.extend(writer.await.unwrap());
        }
        acknowledged
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_and_its_downgrade_lose_nothing_during_concurrent_writes() {
    let fresh = fresh().await;
    let world = Arc::new(World::before_orgs().await);
    let before = definitions(&world.db.clickhouse_url).await;
    let filled = fill(&world).await;

    let writers = Writers::start(&world, 3);
    let ran = world.must(&["up", "--verbose"]).await;
    for table in TABLES {
        assert!(ran.stderr.contains(&format!("{table}: swapped with ")), "{}", ran.stderr);
    }
    let refused = writers.refused.load(Ordering::SeqCst);
    let written = writers.stop().await;
    assert!(refused > 0, "writers met no closed table");

    let of_table = |table: &str| {
        let live = written.iter().filter(move |(of, _)| *of == table).map(|(_, batch)| *batch);
        filled.iter().copied().chain(live).collect::<Vec<_>>()
    };
    let mut sent = 0;
    for table in TABLES {
        let batches = of_table(table);
        assert!(batches.len() > filled.len(), "nothing was written to {table} meanwhile");
        sent += batches.iter().map(|batch| batch.rows).sum::<u64>();
        world.assert_holds(table, true, &batches).await;
        assert_eq!(world.rows(&format!("{table}_v1")).await, world.rows(table).await, "{table}_v1");
        let refused = world.write(table, filled[0]).await.unwrap_err();
        assert!(refused.contains("org_is_set"), "{refused}");
    }
    println!("{sent} rows sent, {refused} inserts refused while or after they were brought over");
    assert_eq!(definitions(&world.db.clickhouse_url).await, definitions(&fresh.clickhouse_url).await);
    assert_no_dictionary(&world).await;

    let later = [Batch { first: 10_000_000, rows: 500, version: 1 }, Batch { first: 600, rows: 50, version: 9 }];
    for table in TABLES {
        for batch in later {
            world.write_with_orgs(table, batch).await.unwrap();
        }
    }
    world.must(&["down", &(CLICKHOUSE.len() - 1).to_string(), "--yes"]).await;
    assert_eq!(definitions(&world.db.clickhouse_url).await, before);
    for table in TABLES {
        let batches: Vec<_> = of_table(table).into_iter().chain(later).collect();
        world.assert_holds(table, false, &batches).await;
        world.write(table, Batch { first: 20_000_000, rows: 1, version: 1 }).await.unwrap();
    }
    world.must(&["up"]).await;
    assert_eq!(definitions(&world.db.clickhouse_url).await, definitions(&fresh.clickhouse_url).await);
}

async fn assert_no_dictionary(world: &World) {
    let found = world.number("SELECT count() FROM system.dictionaries WHERE database = currentDatabase()").await;
    assert_eq!(found, 0, "its definition holds a password");
    let tables = world.texts("SELECT name FROM system.tables WHERE database = currentDatabase()").await;
    assert!(!tables.iter().any(|table| table.contains("dict")), "{tables:?}");
}

/// An insert whose body arrives slowly begins before the table is closed, and ends after that.
#[tokio::test(flavor = "multi_thread")]
async fn running_inserts_are_waited_for_before_the_table_is_exchanged() {
    for has_rows in [true, false] {
        let world = Arc::new(World::before_orgs().await);
        let (project, org, _) = world.projects[0];
        // ClickHouse begins an insert once it has more bytes than a query may have; before that it has not begun.
        let inputs = "x".repeat(512 << 10);
        let row = |name: &str| format!("{project}\t{}\t{name}\t2026-11-21 12:00:00\t{inputs}\n", Uuid::new_v4());
        let insert = || {
            let sql = "INSERT INTO run (project_id, run_id, name, received_at, inputs) FORMAT TSV";
            world.client.insert_formatted_with(sql)
        };
        if has_rows {
            let mut quick = insert();
            quick.send(row("0").into()).await.unwrap();
            quick.end().await.unwrap();
        }
        let mut slow = insert();
        slow.send(row("1").into()).await.unwrap();
        until(async || world.number(RUNNING_INSERTS).await == 1).await;

        let migrating = tokio::spawn({
            let world = Arc::clone(&world);
            async move { world.migrate(&["up"]).await }
        });
        let closed = format!(
            "SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'run' \
             AND position(create_table_query, '{CLOSED}') > 0"
        );
        until(async || world.number(&closed).await == 1).await;
        assert_eq!(world.number(RUNNING_INSERTS).await, 1);
        slow.send(row("2").into()).await.unwrap();
        slow.end().await.expect("it began before the table was closed");

        let ran = migrating.await.unwrap();
        if !has_rows {
            // The orgs of an empty table had not been looked up.
            assert!(ran.stderr.contains("run had no rows when this began, and has some now"), "{ran:?}");
            assert_eq!(world.number(&closed).await, 0, "it takes rows again");
            world.must(&["up"]).await;
        } else {
            assert_eq!(ran.code, Some(0), "{ran:?}");
        }
        let names = format!("SELECT name FROM run WHERE project_id = '{project}' AND org_id = '{org}' ORDER BY name");
        let wanted = ["0", "1", "2"];
        assert_eq!(world.texts(&names).await, wanted[usize::from(!has_rows)..]);
    }
}

const RUNNING_INSERTS: &str = "SELECT count() FROM system.processes WHERE current_database = currentDatabase() \
                               AND query_kind = 'Insert' AND query LIKE 'INSERT INTO run%'";

async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < LONG, "not after {LONG:?}");
        tokio::time::sleep(POLL_EVERY).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_without_an_org_stop_the_upgrade_unless_they_may_be_left_behind() {
    let world = World::before_orgs().await;
    let batch = Batch { first: 0, rows: 300, version: 1 };
    for table in TABLES {
        world.write(table, batch).await.unwrap();
    }
    let lost = Uuid::new_v4();
    let orphan = format!(
        "INSERT INTO run (project_id, run_id, received_at) SELECT '{lost}', generateUUIDv4(), '2026-11-01' FROM numbers(7)"
    );
    world.execute(&orphan).await;
    let before = definitions(&world.db.clickhouse_url).await;

    // As a run leaves the table if it is killed while the table is closed.
    world.execute(&format!("ALTER TABLE run ADD CONSTRAINT {CLOSED} CHECK 0")).await;
    let refused = world.migrate(&["up"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let wanted = format!("run: 7 rows of 1 projects ({lost})");
    assert!(refused.stderr.contains(&wanted) && refused.stderr.contains("--leave-orphans"), "{}", refused.stderr);
    assert_eq!(definitions(&world.db.clickhouse_url).await, before, "nothing was touched");
    assert_no_dictionary(&world).await;
    world.write("run", Batch { first: 300, rows: 1, version: 1 }).await.expect("it still takes rows");

    world.must(&["up", "--leave-orphans"]).await;
    world.assert_holds("run", true, &[Batch { rows: 301, ..batch }]).await;
    world.assert_holds("span", true, &[batch]).await;
    let left = format!("SELECT count() FROM run_v1 WHERE project_id = '{lost}'");
    assert_eq!(world.number(&left).await, 7);
    world.must(&["down", &(CLICKHOUSE.len() - 1).to_string(), "--yes"]).await;
    assert_eq!(world.rows("run").await, 308, "they are back");
}

#[tokio::test]
async fn an_unreachable_registry_stops_the_upgrade_and_its_password_is_not_printed() {
    let world = World::before_orgs().await;
    world.write("span", Batch { first: 0, rows: 10, version: 1 }).await.unwrap();
    let before = definitions(&world.db.clickhouse_url).await;
    let password = "hunter'2\\";
    for (dsn, wanted) in [
        (None, "not set: TRACEBILITY_CLICKHOUSE_REGISTRY_DSN"),
        (Some("postgres://u:hunter%272%5C@127.0.0.1:1/d"), "could not read the registry at 127.0.0.1:1"),
        (Some("http://u:hunter%272%5C@127.0.0.1:1/d"), "it must start with postgres://"),
    ] {
        let args =
            ["up", "--target", "clickhouse"].into_iter().chain(dsn.iter().flat_map(|dsn| ["--registry-dsn", dsn]));
        let ran = crate::support::run(&world.stores(), &args.collect::<Vec<_>>()).await;
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.stderr.contains(wanted), "{}", ran.stderr);
        assert!(!ran.stderr.contains("hunter") && !ran.stderr.contains(password), "{}", ran.stderr);
        assert_eq!(definitions(&world.db.clickhouse_url).await, before);
        assert_no_dictionary(&world).await;
    }
    world.write("span", Batch { first: 10, rows: 1, version: 1 }).await.unwrap();
}

/// One month has more rows than one statement copies, so it is cut along the key.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_partition_is_copied_in_slices() {
    let world = World::before_orgs().await;
    let (one, two) = (world.projects[0].0, world.projects[2].0);
    let rows = 2_300_000;
    let insert = format!(
        "INSERT INTO billing_meter (project_id, envelope_id, meter, period, quantity, received_at) \
         SELECT if(number % 10 = 0, toUUID('{one}'), toUUID('{two}')), reinterpretAsUUID(sipHash128(number)), \
         ['span_ingested', 'span_bytes'][1 + number % 2], 202600 + number % 12, number, \
         toDateTime64('2026-11-01 00:00:00', 9, 'UTC') + toIntervalMicrosecond(number) FROM numbers({rows})"
    );
    world.execute(&insert).await;
    let sum = "SELECT sum(cityHash64(project_id, envelope_id, meter, period, quantity, received_at)) FROM billing_meter FINAL";
    let before = world.number(sum).await;
    let ran = world.must(&["up", "--verbose"]).await;
    assert!(ran.stderr.contains(&format!("partition 1 of 1: {rows} rows copied")), "{}", ran.stderr);
    assert_eq!(world.number(sum).await, before);
    assert_eq!(world.number("SELECT count() FROM billing_meter").await, rows, "no row was copied twice");
    world.must(&["down", &(CLICKHOUSE.len() - 1).to_string(), "--yes"]).await;
    assert_eq!(world.number(sum).await, before);
}
