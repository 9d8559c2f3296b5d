//! The ledger of more orgs than anybody can list.

use std::time::{Duration, Instant};

use ledger::{Hours, ROWS_MAX, Scope};
use ledger_watch::Watch;
use model::ids::OrgId;
use model::shard::Shard;
use stores::clock::unix_hour;
use stores::keys::RedisKey;
use tests::World;
use uuid::Uuid;

use crate::ledger::books;

/// Orgs that are in no registry, each of which sent something in each of the last hours.
struct Crowd {
    orgs: u64,
    hours: Hours,
}

/// Items of an org and hour.
const EACH: u64 = 5;

impl Crowd {
    const HOURS: u32 = 24;

    /// Counts them as accepted and as stored, but for one org and hour of which nothing is stored, and one that is
    /// stored twice.
    async fn settle(world: &World, orgs: u64, lost: (u64, i64), doubled: (u64, i64)) -> anyhow::Result<Self> {
        let hours = Hours::up_to(unix_hour(), Self::HOURS);
        let mut redis = world.redis().await?;
        for hour in hours.iter() {
            for shard in Shard::all() {
                let key = RedisKey::shard_accepted(shard, hour);
                let of_shard: Vec<u64> = (1..=orgs).filter(|org| *org % 16 == u64::from(shard.number())).collect();
                for some in of_shard.chunks(5_000) {
                    let mut set = redis::cmd("HSET");
                    set.arg(&key);
                    for org in some {
                        set.arg(Self::id(*org).to_string()).arg(EACH);
                    }
                    set.exec_async(&mut redis).await?;
                }
            }
            let at = |(org, of): (u64, i64)| if of == hour { org } else { 0 };
            let insert = format!(
                "INSERT INTO billing_meter (org_id, project_id, envelope_id, meter, period, quantity, received_at)
                 SELECT toUUID(concat('00000000-0000-0000-0000-', leftPad(lower(hex(number)), 12, '0'))) AS org,
                        org, generateUUIDv4(), 'span_ingested', 202601, if(number = {}, {}, {EACH}),
                        fromUnixTimestamp64Second(toInt64({}), 'UTC')
                   FROM numbers(1, {orgs}) WHERE number != {}",
                at(doubled),
                2 * EACH,
                hour * 3600 + 7,
                at(lost),
            );
            world.clickhouse.text(&insert).await?;
        }
        Ok(Self { orgs, hours })
    }

    fn id(org: u64) -> OrgId {
        OrgId(Uuid::from_u128(org.into()))
    }

    fn rows(&self) -> usize {
        self.orgs as usize * self.hours.iter().len()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imbalance_is_found_among_more_orgs_and_hours_than_one_answer_lists() -> anyhow::Result<()> {
    let mut world = World::start().await?;
    world.worker.stop().await?;
    let (lost, doubled) = ((77, unix_hour() - 20), (3_000, unix_hour() - 1));
    let crowd = Crowd::settle(&world, 4_300, lost, doubled).await?;
    assert!(crowd.rows() > ROWS_MAX);
    let wanted = [((Crowd::id(77), lost.1), 5), ((Crowd::id(3_000), doubled.1), -5)];

    let balance = books(&world).await?.balance(Scope::Everyone, &crowd.hours).await?;
    let listed: Vec<_> = balance.rows.iter().map(|row| ((row.org_id, row.hour), row.amounts.imbalance)).collect();
    assert_eq!((listed, balance.is_whole, balance.is_complete), (wanted.to_vec(), false, true));

    let redis = world.redis().await?;
    let watch = Watch::new(books(&world).await?, redis.clone(), world.registry().await?, Duration::ZERO);
    let report = watch.check().await?;
    assert_eq!((report.imbalances, report.items, report.alarms), (2, 10, 0), "{report:?}");
    assert_eq!(watch.check().await?.alarms, 2, "the older hour is checked again, because something is missing in it");
    let seen = ledger::imbalances(&redis).await?;
    let seen: Vec<_> = seen.iter().map(|(of, imbalance)| (*of, imbalance.alarmed)).collect();
    assert_eq!(seen, wanted);
    Ok(())
}

/// What was spent so far.
#[derive(Clone, Copy, Debug)]
struct Spent {
    at: Instant,
    redis_cpu_s: f64,
    redis_commands: u64,
    clickhouse_cpu_us: u64,
}

impl Spent {
    async fn read(world: &World) -> anyhow::Result<Self> {
        let mut redis = world.redis().await?;
        let cpu: String = redis::cmd("INFO").arg("cpu").query_async(&mut redis).await?;
        let stats: String = redis::cmd("INFO").arg("stats").query_async(&mut redis).await?;
        let field = |text: &str, name: &str| -> f64 {
            text.lines().find_map(|line| line.strip_prefix(name)).map_or(0.0, |value| value.trim().parse().unwrap())
        };
        let spent = "SELECT sum(value) FROM system.events WHERE event = 'OSCPUVirtualTimeMicroseconds'";
        Ok(Self {
            at: Instant::now(),
            redis_cpu_s: field(&cpu, "used_cpu_sys:") + field(&cpu, "used_cpu_user:"),
            redis_commands: field(&stats, "total_commands_processed:") as u64,
            clickhouse_cpu_us: world.clickhouse.number(spent).await?,
        })
    }

    async fn since(self, world: &World, what: &str) -> anyhow::Result<()> {
        let now = Self::read(world).await?;
        println!(
            "{what}: {:.2} s; Redis {:.3} s CPU, {} commands; ClickHouse {:.2} s CPU",
            now.at.duration_since(self.at).as_secs_f64(),
            now.redis_cpu_s - self.redis_cpu_s,
            now.redis_commands - self.redis_commands,
            (now.clickhouse_cpu_us - self.clickhouse_cpu_us) as f64 / 1e6,
        );
        Ok(())
    }
}

/// What looking costs, for docs/operations/ledger.md: `just ledger-cost`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it measures, and takes some minutes"]
async fn the_cost_of_checking_a_hundred_thousand_orgs() -> anyhow::Result<()> {
    let mut world = World::start().await?;
    world.worker.stop().await?;
    let crowd = Crowd::settle(&world, 100_000, (0, 0), (0, 0)).await?;
    println!("{} orgs and hours", crowd.rows());
    let redis = world.redis().await?;
    let watch = Watch::new(books(&world).await?, redis.clone(), world.registry().await?, Duration::ZERO);
    for what in ["all hours", "the last two hours", "the last two hours again"] {
        let before = Spent::read(&world).await?;
        let report = watch.check().await?;
        before.since(&world, what).await?;
        assert_eq!((report.imbalances, report.items), (0, 0), "{report:?}");
    }
    // One org loses something: its bucket is looked at.
    let mut redis = redis;
    let key = RedisKey::shard_accepted(Shard::new(5).unwrap(), unix_hour());
    redis::cmd("HINCRBY").arg(&key).arg(Crowd::id(5).to_string()).arg(3).exec_async(&mut redis).await?;
    let before = Spent::read(&world).await?;
    let report = watch.check().await?;
    before.since(&world, "with one org that does not balance").await?;
    assert_eq!((report.imbalances, report.items), (1, 3), "{report:?}");
    Ok(())
}
