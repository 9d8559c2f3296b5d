//! What goes wrong, by name.

use std::future::Future;
use std::pin::Pin;

use stack::Flavour;
use stores::redis::ack::AckClass;

use crate::redis_fleet::RedisKind;
use crate::scene::Scene;

mod clickhouse;
mod crashes;
mod failover;
mod fleet;
mod load;
mod network;
mod owners;
mod poison;
mod power;
mod redis;
mod refusals;
mod sizes;
mod versions;

/// After how many milliseconds a silent primary counts as dead: the failover is over before a lease is.
const FAST_MS: u32 = 1_500;
/// The same, where every lease of a worker (3 s) has run out by then.
const SLOW_MS: u32 = 6_000;

/// A fault as a future that borrows its scene.
type Doing<'a> = Pin<Box<dyn Future<Output = anyhow::Result<()>> + 'a>>;

/// Something that goes wrong under load.
#[derive(Debug)]
pub struct Scenario {
    /// As it is called on the command line.
    pub name: &'static str,
    /// What goes wrong in it, in one line for the list of scenarios.
    pub about: &'static str,
    /// How many workers there are.
    pub workers: usize,
    /// What its Redis is made up of.
    pub redis: RedisKind,
    /// What its acknowledgements stand for.
    pub ack: AckClass,
    pub(crate) fault: for<'a> fn(&'a mut Scene<'_>) -> Doing<'a>,
}

/// What must be found. Without it nobody knows that rows that are stored twice are seen.
pub const CONTROL: Scenario = Scenario {
    name: "control",
    about: "somebody copies rows of two tables",
    workers: 1,
    redis: RedisKind::Shared,
    ack: AckClass::Queued,
    fault: |scene| Box::pin(network::copied_rows(scene)),
};

macro_rules! scenarios {
    (@redis) => { RedisKind::Shared };
    (@redis $redis:expr) => { $redis };
    (@ack) => { AckClass::Queued };
    (@ack $ack:expr) => { $ack };
    ($($name:literal, $workers:literal, $fault:path, $about:literal $(, $redis:expr, $ack:expr)?;)*) => {
        /// Every scenario there is, in the order in which they are run.
        pub const SCENARIOS: &[Scenario] = &[
            $(Scenario {
                name: $name,
                about: $about,
                workers: $workers,
                redis: scenarios!(@redis $($redis)?),
                ack: scenarios!(@ack $($ack)?),
                fault: |scene| Box::pin($fault(scene)),
            },)*
        ];
    };
}

scenarios! {
    "killed-before-insert", 2, crashes::before_insert, "kill -9 of a worker that has announced a batch and inserted nothing";
    "killed-between-tables", 2, crashes::between_tables, "kill -9 between the inserts of two tables of a batch";
    "killed-after-insert", 2, crashes::after_insert, "kill -9 when ClickHouse has stored the last table and the worker does not know";
    "killed-before-commit", 2, crashes::before_commit, "kill -9 after every insert was confirmed, before the commit";
    "killed-after-commit", 2, crashes::after_commit, "kill -9 when Redis has committed and the worker does not know";
    "killed-at-random", 2, crashes::at_random, "kill -9 of either worker, at no particular point";
    "api-killed", 1, crashes::api, "kill -9 of the API, again and again: unanswered requests are stored once or not at all";
    "worker-paused", 2, owners::paused, "SIGSTOP of a worker until another has its shards, then SIGCONT: two owners";
    "late-insert", 2, owners::late_insert, "an insert of a stopped owner that arrives when the next owner has stored and gone on";
    "late-commit", 2, owners::late_commit, "a commit of a stopped owner that arrives when the next owner has gone on";
    "late-announce", 2, owners::late_announce, "a batch that a stopped owner announces when the next owner has gone on";
    "cut-off-from-redis", 2, owners::cut_off, "a worker that cannot reach Redis any more, but ClickHouse, and comes back";
    "rolling-restarts", 3, fleet::rolling, "workers stopped, killed and started again, one after the other";
    "started-twice", 1, fleet::started_twice, "the same worker started a second time, under the same name";
    "two-versions", 2, versions::side_by_side, "a column is added: both releases of worker and API side by side, killed between tables, and back";
    "clickhouse-killed", 2, clickhouse::killed, "kill -9 of ClickHouse, and its start on the data it left";
    "clickhouse-refusing", 2, clickhouse::refusing, "nobody listens at ClickHouse's address";
    "clickhouse-read-only", 2, clickhouse::read_only, "its tables, and then its user, may only be read";
    "clickhouse-out-of-memory", 2, clickhouse::out_of_memory, "every insert hits the memory limit";
    "clickhouse-too-many-parts", 2, clickhouse::too_many_parts, "a table refuses inserts because it has too many parts";
    "outage-memory", 1, clickhouse::outage_memory, "ClickHouse is away for long: the worker's memory stays flat";
    "network-lost-replies", 2, network::lost_replies, "ClickHouse stores, and every third answer is lost";
    "clickhouse-forgets-tokens", 2, network::forgetful, "ClickHouse stores, every third answer is lost, and no token is remembered";
    "network-cut-bodies", 2, network::cut_bodies, "every third insert is cut in mid-body";
    "network-slow", 2, network::slow, "everything is slow, and some of it is cut or lost, on both ways";
    "network-narrow", 2, network::narrow, "a backlog in Redis behind a way that is too narrow for the usual reads";
    "redis-killed", 2, redis::killed, "kill -9 of Redis, and its start from its append-only file";
    "sizes-shift", 2, sizes::shift, "a backlog of small requests, and then of some that are a thousand times larger: no read is";
    "redis-failover-queued", 2, failover::lagging,
        "Sentinel fails over to a replica that is behind, before leases run out; class queued: what is lost is counted",
        RedisKind::Sentinel { down_after_ms: FAST_MS }, AckClass::Queued;
    "redis-failover-replicated", 2, failover::lagging,
        "the same in class replicated: nothing that was acknowledged is lost",
        RedisKind::Sentinel { down_after_ms: FAST_MS }, AckClass::Replicated;
    "redis-failover-slow", 2, failover::lagging,
        "the same, after every lease has run out",
        RedisKind::Sentinel { down_after_ms: SLOW_MS }, AckClass::Replicated;
    "redis-cluster-failover-queued", 2, failover::lagging,
        "a primary of a cluster fails over to a replica that is behind; class queued: what is lost is counted",
        RedisKind::Cluster { down_after_ms: FAST_MS }, AckClass::Queued;
    "redis-cluster-failover", 2, failover::lagging,
        "the same in class replicated: nothing that was acknowledged is lost",
        RedisKind::Cluster { down_after_ms: FAST_MS }, AckClass::Replicated;
    "redis-cluster-failover-slow", 2, failover::lagging,
        "the same, after every lease has run out",
        RedisKind::Cluster { down_after_ms: SLOW_MS }, AckClass::Replicated;
    "redis-slow-fsync-queued", 2, failover::slow_fsync,
        "kill -9 of a Redis whose fsyncs take seconds, so that it postpones writes; class queued: what is lost is counted",
        RedisKind::SlowDisk(Flavour::Redis), AckClass::Queued;
    "redis-slow-fsync", 2, failover::slow_fsync,
        "the same in class fsynced: nothing that was acknowledged is lost",
        RedisKind::SlowDisk(Flavour::Valkey), AckClass::Fsynced;
    "group-destroyed", 2, redis::group_destroyed, "somebody makes and destroys consumer groups on the streams";
    "everything-refused", 2, refusals::everything, "a table refuses everything: large batches wait, and nothing becomes a dead letter";
    "throwing-view", 2, refusals::throwing_view, "a materialized view of an operator's fails for every insert";
    "dead-letters-full", 2, refusals::dead_letters_full, "no room for dead letters for longer than ClickHouse remembers tokens, and then a kill";
    "clickhouse-power-cut", 2, power::clickhouse, "ClickHouse's machine loses power: what it had not synced is gone";
    "clickhouse-power-cut-tokens", 2, power::clickhouse_tokens_written, "the same, but its memory of tokens happened to be written in time";
    "clickhouse-power-cut-unsynced", 2, power::clickhouse_unsynced, "the same without the settings that sync inserts: something must be lost";
    "redis-power-cut", 2, power::redis_always, "Redis' machine loses power, with appendfsync always";
    "redis-power-cut-everysec", 2, power::redis_everysec, "the same with appendfsync everysec: what is lost is counted";
    "soak", 2, load::soak, "batches of the default size, and workers, the API, Redis and ClickHouse killed at random";
    "one-org-floods", 2, load::one_org_floods, "one of 10 000 orgs sends four fifths of all spans";
    "poison", 2, poison::poison, "envelopes that ClickHouse refuses, and entries that are none, among good ones";
}
