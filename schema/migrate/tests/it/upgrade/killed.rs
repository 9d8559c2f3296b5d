//! Kills `migrate` again and again while it copies rows, one request later each time.
//!
//! Every run goes on from where the one before was killed, and writers write in between. So each request is once the
//! last that was answered, in states that a single interruption would not lead to.

use migrate::CLICKHOUSE;

use super::world::{Batch, World};
use super::{assert_no_dictionary, definitions, fresh};
use crate::proxy::{End, KillAt, Moment, Proxy};
use crate::support::migrate;

/// More requests than any run makes.
const REQUESTS_MAX: usize = 400;
/// The two tables that have rows; the others are rebuilt empty.
const TABLES: [&str; 2] = ["run", "billing_meter"];
/// The rows that the tables have before the migration.
const FILLED: [Batch; 2] = [Batch { first: 0, rows: 60, version: 1 }, Batch { first: 30, rows: 10, version: 2 }];

struct Story {
    world: World,
    acknowledged: Vec<(&'static str, Batch)>,
    next: u64,
}

impl Story {
    async fn begin() -> Self {
        let mut story = Self { world: World::before_orgs().await, acknowledged: Vec::new(), next: 1_000 };
        for table in TABLES {
            for batch in FILLED {
                story.world.write(table, batch).await.unwrap();
                story.acknowledged.push((table, batch));
            }
        }
        story
    }

    /// Writes as writers of both releases would; the tables accept one of them or none.
    async fn write(&mut self) {
        for table in TABLES {
            let batch = Batch { first: self.next, rows: 3, version: 1 };
            let taken = match self.world.write(table, batch).await {
                Ok(()) => true,
                Err(_) => self.world.write_with_orgs(table, batch).await.is_ok(),
            };
            if taken {
                self.acknowledged.push((table, batch));
            }
        }
        self.next += 3;
    }

    /// Runs `migrate` and kills it when ClickHouse has carried out a request and the answer is not sent yet. A kill
    /// before the next request is sent gives the same state.
    async fn kill_after(&self, nth: usize, args: &[&str]) -> End {
        let mut stores = self.world.stores();
        let at = KillAt { nth, moment: Moment::BeforeTheClientHears };
        let proxy = Proxy::to(stores.clickhouse.as_ref().unwrap(), at).await;
        stores.clickhouse = Some(proxy.url().to_owned());
        let mut command = migrate(&stores, &[args, &["--target", "clickhouse"]].concat());
        command.env("TRACEBILITY_CLICKHOUSE_REGISTRY_DSN", &self.world.db.pg_operator_dsn);
        proxy.run(command).await
    }

    /// Kills one request later each time, until nothing is left to do. Returns how often it was killed.
    async fn kill_again_and_again(&mut self, args: &[&str], until_version: usize) -> usize {
        let sql = "SELECT if(max(dirty), 0, max(version)) FROM schema_migrations FINAL WHERE NOT removed";
        for nth in 1..=REQUESTS_MAX {
            if self.world.client.query_raw(sql).fetch_one::<u32>().await.unwrap() as usize == until_version {
                return nth - 1;
            }
            match self.kill_after(nth, args).await {
                End::Killed => self.write().await,
                End::Completed(ran) => assert_eq!(ran.code, Some(0), "{ran:?}"),
            }
        }
        panic!("{args:?} came to no end within {REQUESTS_MAX} requests");
    }

    async fn check(&self, with_orgs: bool) {
        for table in TABLES {
            let of_table = self.acknowledged.iter().filter(|(of, _)| *of == table);
            let batches: Vec<_> = of_table.map(|(_, batch)| *batch).collect();
            self.world.assert_holds(table, with_orgs, &batches).await;
        }
        assert_no_dictionary(&self.world).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn up_and_down_lose_nothing_when_killed_at_any_request() {
    let fresh = definitions(&fresh().await.clickhouse_url).await;
    let mut story = Story::begin().await;
    let before = definitions(&story.world.db.clickhouse_url).await;

    let killed_up = story.kill_again_and_again(&["up"], CLICKHOUSE.len()).await;
    story.check(true).await;
    assert_eq!(definitions(&story.world.db.clickhouse_url).await, fresh);

    story.world.must(&["down", "1", "--yes"]).await;
    let killed_down = story.kill_again_and_again(&["down", "1", "--yes"], 1).await;
    story.check(false).await;
    assert_eq!(definitions(&story.world.db.clickhouse_url).await, before);

    println!("killed {killed_up} times on the way up, {killed_down} on the way down; {} rows", story.next);
    assert!(killed_up > 30 && killed_down > 30, "{killed_up}, {killed_down}");
}

/// Half of one direction, then all of the other direction.
#[tokio::test(flavor = "multi_thread")]
async fn a_half_done_up_can_be_finished_by_down_and_the_reverse() {
    let mut story = Story::begin().await;
    let before = definitions(&story.world.db.clickhouse_url).await;
    for nth in (13..40).step_by(3) {
        assert!(matches!(story.kill_after(nth, &["up"]).await, End::Killed), "up, {nth}");
        story.write().await;
        story.world.must(&["down", "1", "--yes"]).await;
        story.check(false).await;
        assert_eq!(definitions(&story.world.db.clickhouse_url).await, before, "up, {nth}");
    }
    // The version that added orgs, which is taken back next.
    let to_orgs = (CLICKHOUSE.len() - 2).to_string();
    story.world.must(&["up"]).await;
    story.world.must(&["down", &to_orgs, "--yes"]).await;
    for nth in (10..34).step_by(3) {
        assert!(matches!(story.kill_after(nth, &["down", "1", "--yes"]).await, End::Killed), "down, {nth}");
        story.write().await;
        story.world.must(&["up"]).await;
        story.check(true).await;
        story.world.must(&["down", &to_orgs, "--yes"]).await;
    }
}
