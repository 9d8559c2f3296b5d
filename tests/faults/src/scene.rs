//! The processes of one scenario, under load, and what may be done to them.

use std::collections::HashSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use load::client::ClickHouse;
use model::ids::OrgId;
use model::shard::Shard;
use stack::{Service, TestDb, Urls, User};
use stores::keys::RedisKey;
use stores::redis::Redis;
use tests::{Org, World};
use uuid::Uuid;

use crate::clickhouse_proxy::ClickHouseProxy;
use crate::redis_fleet::Fleet;
use crate::redis_proxy::RedisProxy;
use crate::scenarios::Scenario;
use crate::servers::Servers;
use crate::traffic::{Sent, Traffic};

/// The shards that the orgs are in. Some have two, so that one's trouble could become the other's.
const SHARDS: [u8; 8] = [0, 3, 3, 6, 9, 9, 12, 15];
/// Small batches, so that a worker is always in the middle of something.
const WORKER: [(&str, &str); 3] = [
    ("TRACEBILITY_BATCH_ROWS_MAX", "200"),
    ("TRACEBILITY_BATCH_AGE_MAX", "150ms"),
    ("TRACEBILITY_READ_AHEAD_MAX", "1MiB"),
];
/// The tables that the load fills.
pub(crate) const TABLES: [&str; 3] = ["run", "span", "billing_meter"];
/// No part is ever merged, or a merge would hide what was stored twice; and there may be as many as that makes.
const NO_MERGES: &str = "max_bytes_to_merge_at_max_space_in_pool = 1, max_bytes_to_merge_at_min_space_in_pool = 1, \
                         parts_to_delay_insert = 1000000, parts_to_throw_insert = 1000000, max_parts_in_total = 10000000";
/// Longer than a slow fsync, and shorter than a client waits.
const ACK_TIMEOUT: &str = "10s";
/// How many requests are answered before anything is done.
const WARM: u64 = 30;
/// How long anything may take before a scenario has failed.
pub const PATIENCE: Duration = Duration::from_secs(180);
const POLL_EVERY: Duration = Duration::from_millis(20);

/// A moment, by two clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    at: Instant,
    unix_ms: u64,
}

impl Moment {
    /// The present moment, by both clocks.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { at: Instant::now(), unix_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX) }
    }
}

/// One worker's ways to its stores.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Ways {
    pub clickhouse: ClickHouseProxy,
    pub redis: RedisProxy,
}

/// How long and how often things go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// For a test among others.
    Short,
    /// For `just faults`: somebody waits for it.
    Usual,
    /// For `just faults --full`: nobody waits for it.
    Full,
}

impl Size {
    /// The value for this size of those for each.
    pub const fn of<T: Copy>(self, values: [T; 3]) -> T {
        values[self as usize]
    }
}

/// What a scenario is to find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expects {
    /// That everything which was promised is there, once.
    #[default]
    Everything,
    /// That something is lost: it shows that a loss would be seen.
    Loss,
    /// Whatever there is: nothing more was promised. It is counted.
    Anything,
}

/// Everything that takes part.
#[derive(Debug)]
pub struct Scene<'s> {
    /// The API, the first worker, and eyes on the stores.
    pub world: World,
    /// Of each worker, by its number.
    pub ways: Vec<Ways>,
    /// The clients, which send while things go wrong.
    pub traffic: Traffic,
    /// How long and how often.
    pub size: Size,
    /// What is worth telling beside the figures.
    pub notes: Vec<String>,
    /// The longest time from a fault's end until what was waiting then was stored.
    pub recovery: Duration,
    /// What it is to find.
    pub expects: Expects,
    /// Entries that were put into a stream by hand and are no envelopes.
    pub unreadable: usize,
    /// From when on everything is kept again, in a scenario where what was promised before may be lost.
    pub mended: Option<Instant>,
    /// What was sent beside the load.
    pub sent_besides: Vec<Sent>,
    others: Vec<Service>,
    pub(crate) servers: Option<&'s Servers>,
    fleet: Option<Fleet>,
    _db: Option<TestDb>,
}

impl<'s> Scene<'s> {
    /// Starts the workers of a scenario and the load, on servers of its own or on those of the test run.
    pub async fn start(
        servers: Option<&'s Servers>,
        scenario: &Scenario,
        size: Size,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let (mut urls, db): (Urls, _) = match servers {
            Some(servers) => (servers.fresh().await?, None),
            None => {
                let db = stack::shared().await?.fresh_database().await?;
                ((*db).clone(), Some(db))
            }
        };
        let fleet = scenario.redis.start().await?;
        if let Some(fleet) = &fleet {
            urls.redis_url = fleet.url();
        }
        let ack = [("TRACEBILITY_ACK", scenario.ack.as_str()), ("TRACEBILITY_ACK_TIMEOUT", ACK_TIMEOUT)];
        let mut ways = Vec::new();
        for _ in 0..scenario.workers {
            let clickhouse = ClickHouseProxy::start(&urls.as_user(User::ClickhouseApp)?).await?;
            ways.push(Ways { clickhouse, redis: RedisProxy::start(&urls.as_user(User::RedisWorker)?).await? });
        }
        // The first worker before the tables are prepared is of no harm: there is nothing to insert yet.
        let world = World::on(&urls, &ack, &[&ack[..], &settings(&ways[0])].concat()).await?;
        for table in TABLES {
            let table = format!("{table}{}", urls.on_cluster());
            world.clickhouse.text(&format!("ALTER TABLE {table} MODIFY SETTING {NO_MERGES}")).await?;
        }
        let mut others = Vec::new();
        for way in ways.iter().skip(1) {
            others.push(Service::ingest_worker(&urls, &[&ack[..], &settings(way)].concat()).await?);
        }
        let orgs = orgs(&world).await?;
        let traffic = Traffic::begin(&world.http, &world.api.url(), &orgs, seed);
        let scene = Self {
            world,
            ways,
            traffic,
            size,
            notes: Vec::new(),
            recovery: Duration::ZERO,
            expects: Expects::default(),
            unreadable: 0,
            mended: None,
            sent_besides: Vec::new(),
            others,
            servers,
            fleet,
            _db: db,
        };
        scene.settled(scenario.workers).await?;
        scene.until("the load is under way", async || Ok(scene.traffic.dials.acked() >= WARM)).await?;
        Ok(scene)
    }

    /// A worker, by its number.
    pub fn worker(&mut self, number: usize) -> &mut Service {
        if number == 0 { &mut self.world.worker } else { &mut self.others[number - 1] }
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.ways.len()
    }

    /// Starts a worker that was killed or stopped.
    pub async fn start_worker(&mut self, number: usize) -> anyhow::Result<()> {
        Ok(self.worker(number).start().await?)
    }

    /// From now on the workers make batches of the size that they make by default.
    pub async fn usual_batches(&mut self) -> anyhow::Result<()> {
        for number in 0..self.workers() {
            let worker = self.worker(number);
            WORKER.iter().for_each(|(name, _)| worker.unset_env(name));
            worker.restart().await?;
        }
        self.settled(self.workers()).await?;
        Ok(())
    }

    /// The servers, which are only this scenario's.
    pub fn servers(&self) -> anyhow::Result<&'s Servers> {
        self.servers.context("this scenario needs servers of its own; run it with: just faults")
    }

    /// The Redis servers that are only this scenario's.
    pub fn fleet(&self) -> anyhow::Result<&Fleet> {
        self.fleet.as_ref().context("this scenario needs Redis servers of its own")
    }

    /// The same, to be started again.
    pub fn fleet_mut(&mut self) -> anyhow::Result<&mut Fleet> {
        self.fleet.as_mut().context("this scenario needs Redis servers of its own")
    }

    /// ClickHouse, past all proxies.
    pub fn clickhouse(&self) -> &ClickHouse {
        &self.world.clickhouse
    }

    /// Redis, past all proxies.
    pub async fn redis(&self) -> anyhow::Result<Redis> {
        self.world.redis().await
    }

    /// Waits until something holds.
    pub async fn until(
        &self,
        what: &str,
        mut holds: impl AsyncFnMut() -> anyhow::Result<bool>,
    ) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        loop {
            // A store that was just started may cost a connection its first question.
            let held = holds().await;
            if let Ok(true) = held {
                return Ok(begun.elapsed());
            }
            if begun.elapsed() > PATIENCE {
                held?;
                bail!("{what}: not so after {PATIENCE:?}");
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    /// Waits until so many workers share all shards evenly, and says how long that took.
    pub async fn settled(&self, workers: usize) -> anyhow::Result<Duration> {
        let redis = self.redis().await?;
        let what = format!("{workers} workers share the shards");
        self.until(&what, async || {
            let now = Moment::now().unix_ms;
            let mut owners = Vec::new();
            for shard in Shard::all() {
                let lease = redis::cmd("HMGET").arg(RedisKey::shard_lease(shard)).arg(&["owner", "until"]).to_owned();
                let (owner, until): (Option<String>, Option<u64>) = lease.query_async(&mut redis.clone()).await?;
                owners.extend(owner.filter(|_| until.is_some_and(|until| until > now)));
            }
            let names: HashSet<&String> = owners.iter().collect();
            let least = names.iter().map(|name| owners.iter().filter(|owner| owner == name).count()).min();
            let all = Shard::all().len();
            Ok(owners.len() == all && names.len() == workers && least >= Some(all / workers))
        })
        .await
    }

    /// Waits until whatever had been accepted at a moment is stored, and keeps how long after it that was.
    pub async fn recovers(&mut self, since: Moment) -> anyhow::Result<Duration> {
        let redis = self.redis().await?;
        self.until("what was accepted before the fault was over is stored", async || {
            Ok(oldest(&redis).await?.is_none_or(|ms| ms > since.unix_ms))
        })
        .await?;
        let took = since.at.elapsed();
        self.recovery = self.recovery.max(took);
        Ok(took)
    }

    /// Waits until more requests were answered with a 2xx.
    pub async fn more(&self, requests: u64) -> anyhow::Result<()> {
        let wanted = self.traffic.dials.acked() + requests;
        self.until("more requests are accepted", async || Ok(self.traffic.dials.acked() >= wanted)).await?;
        Ok(())
    }

    /// A worker's metric, by its name with its labels; 0 if the worker does not have it.
    pub async fn metric(&mut self, worker: usize, name: &str) -> anyhow::Result<f64> {
        let url = format!("{}/metrics", self.worker(worker).url());
        let answer = self.world.http.send(http::Method::GET, &url, &[], "").await?;
        let text = String::from_utf8(answer.body.to_vec())?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(Ok(0.0), |value| value.parse().with_context(|| format!("{name} is {value}")))
    }

    /// Runs statements on each of the tables, with `{}` for its name.
    pub async fn alter(&self, tables: &[&str], statement: &str) -> anyhow::Result<()> {
        for table in tables {
            let named = format!("{table}{}", self.world.urls.on_cluster());
            self.clickhouse().text(&statement.replace("{}", &named)).await?;
        }
        Ok(())
    }
}

/// When the oldest entry of all streams was appended, in milliseconds since the Unix epoch.
async fn oldest(redis: &Redis) -> anyhow::Result<Option<u64>> {
    let mut oldest = None;
    for shard in Shard::all() {
        let stream = RedisKey::shard_stream(shard);
        let range = redis::cmd("XRANGE").arg(stream).arg("-").arg("+").arg("COUNT").arg(1).to_owned();
        let range: redis::streams::StreamRangeReply = range.query_async(&mut redis.clone()).await?;
        let ms = |id: &str| id.split('-').next().and_then(|ms| ms.parse::<u64>().ok());
        oldest = range.ids.iter().filter_map(|entry| ms(&entry.id)).chain(oldest).min();
    }
    Ok(oldest)
}

fn settings(ways: &Ways) -> Vec<(&'static str, &str)> {
    let ways = [("TRACEBILITY_CLICKHOUSE_URL", ways.clickhouse.url()), ("TRACEBILITY_REDIS_URL", ways.redis.url())];
    [&WORKER[..], &ways[..]].concat()
}

async fn orgs(world: &World) -> anyhow::Result<Vec<Org>> {
    let mut orgs = Vec::new();
    for shard in SHARDS {
        let id = loop {
            let id = OrgId(Uuid::new_v4());
            if Shard::home(id).number() == shard {
                break id;
            }
        };
        orgs.push(world.org_with_id(id, &format!("faults-{}", id.0.simple())).await?);
    }
    Ok(orgs)
}
