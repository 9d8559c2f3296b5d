//! Orgs that move between shards: the fence in real Redis, on one node and on a cluster, the map in Postgres, and moves
//! that are interrupted.

use std::collections::BTreeSet;
use std::time::Duration;

use auth::Resolver;
use auth::invalidate::Invalidator;
use auth::resolver::PostgresSource;
use model::ids::OrgId;
use model::org::DEFAULT_ORG;
use model::shard::Shard;
use queue::appender::{Accepted, Appended, ShardAppender};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use redis::AsyncCommands;
use redis::streams::StreamRangeReply;
use registry::{Registry, RegistryError};
use service::settings::parse;
use stack::RedisCluster;
use stores::keys::RedisKey;
use stores::redis::{Redis, connect};
use transfer::moving::{MoveError, Mover, Progress};
use uuid::Uuid;

use crate::support::World;

const FIELD: &str = "e";

fn redis(url: &str) -> Redis {
    connect(&parse::redis_url(url).unwrap()).unwrap()
}

fn shard(number: u8) -> Shard {
    Shard::new(number).unwrap()
}

/// A request of that org.
fn of(org: OrgId, envelope: &[u8]) -> Accepted<'_> {
    Accepted { org, received_at: 0, items: 1, envelope }
}

/// What a worker would find in a shard, in order.
async fn waiting(redis: &Redis, shard: Shard) -> Vec<(String, String)> {
    let all: StreamRangeReply = redis.clone().xrange_all(RedisKey::shard_stream(shard)).await.unwrap();
    all.ids.iter().map(|entry| (entry.id.clone(), entry.get(FIELD).unwrap())).collect()
}

/// What a worker does to an entry that is stored.
async fn store(redis: &Redis, shard: Shard, id: &str) {
    let _: u64 = redis.clone().xdel(RedisKey::shard_stream(shard), &[id]).await.unwrap();
}

async fn a_closed_shard_takes_nothing_of_that_org(redis: Redis) {
    let fence = ShardAppender::new(redis.clone());
    let (org, other, here) = (OrgId(Uuid::new_v4()), OrgId(Uuid::new_v4()), shard(3));
    let append = async |org, text: &str| fence.append(here, &of(org, text.as_bytes())).await.unwrap();
    assert_eq!(append(org, "before").await, Appended::Kept);
    assert_eq!(append(other, "of another").await, Appended::Kept);
    let closed = fence.close(here, org, 7).await.unwrap().unwrap();
    let [before, of_another] = waiting(&redis, here).await.try_into().unwrap();
    assert_eq!((closed.fence.to_string(), closed.entries), (of_another.0.clone(), 2));
    assert_eq!(append(org, "too late").await, Appended::Closed);
    assert_eq!(append(other, "of another, after").await, Appended::Kept);
    assert_eq!(waiting(&redis, here).await.len(), 3, "what came too late was taken out again");

    store(&redis, here, &before.0).await;
    let still = fence.close(here, org, 7).await.unwrap().unwrap();
    assert_eq!((still.fence, still.is_drained()), (closed.fence, false), "closing again moves no fence");
    store(&redis, here, &of_another.0).await;
    assert!(fence.close(here, org, 7).await.unwrap().unwrap().is_drained(), "what came after the fence does not count");

    assert!(fence.open(here, org, 8).await.unwrap());
    assert_eq!(append(org, "back again").await, Appended::Kept);
    assert_eq!(fence.close(here, org, 7).await.unwrap(), None, "an earlier move is too late");
    assert!(!fence.open(here, org, 7).await.unwrap());
    assert_eq!(append(org, "still here").await, Appended::Kept);
    let again = fence.close(here, org, 9).await.unwrap().unwrap();
    assert!(again.fence > closed.fence && !again.is_drained(), "a new move has a new fence");
}

#[tokio::test]
async fn a_closed_shard_takes_nothing_of_that_org_on_a_node() {
    let world = World::new().await;
    a_closed_shard_takes_nothing_of_that_org(redis(&world.db.redis_url)).await;
}

#[tokio::test]
async fn a_closed_shard_takes_nothing_of_that_org_on_a_cluster() {
    let cluster = RedisCluster::start().await.unwrap();
    a_closed_shard_takes_nothing_of_that_org(redis(cluster.url())).await;
    order_is_kept(redis(cluster.url()), 100..103).await;
}

/// A move that somebody is in the middle of.
struct Walker {
    version: i64,
    to: Shard,
    leaves: Vec<Shard>,
    done: Done,
}

/// What of it was done last.
#[derive(Clone, Copy, PartialEq)]
enum Done {
    Begun,
    Drained,
    Opened,
}

impl Walker {
    /// Goes one step further; false when somebody else has taken over.
    async fn step(&mut self, fence: &ShardAppender, org: OrgId) -> bool {
        if self.done == Done::Drained {
            self.done = Done::Opened;
            return fence.open(self.to, org, self.version).await.unwrap();
        }
        let mut drained = true;
        for shard in &self.leaves {
            let Some(closed) = fence.close(*shard, org, self.version).await.unwrap() else { return false };
            drained &= closed.is_drained();
        }
        if drained {
            self.done = Done::Drained;
        }
        true
    }
}

/// Whatever processes believe, whoever moves the org where, and whoever is interrupted at which step: what was answered
/// for is stored in the order of the answers, each once.
async fn order_is_kept(redis: Redis, seeds: std::ops::Range<u64>) {
    const STEPS: usize = 700;
    const PROCESSES: usize = 3;
    let shards = [shard(1), shard(6), shard(11), shard(15)];
    let (mut refused, mut arrived, runs) = (0, 0, seeds.end - seeds.start);
    for seed in seeds {
        let mut random = StdRng::seed_from_u64(seed);
        let fence = ShardAppender::new(redis.clone());
        for stream in shards {
            let _: () = redis.clone().del(RedisKey::shard_stream(stream)).await.unwrap();
        }
        let org = OrgId(Uuid::from_u128(seed.into()));
        // The map: where the org is, the newest move, and everywhere that it ever was to go.
        let (mut settled, mut newest, mut ever) = (shards[0], 0_i64, BTreeSet::from([shards[0]]));
        let mut is_moving = false;
        // Where each process believes it to be; `None` is moving.
        let mut believed = [Some(shards[0]); PROCESSES];
        let mut walkers: Vec<Walker> = Vec::new();
        let (mut number, mut answered, mut stored) = (0_u64, Vec::new(), Vec::new());
        for _ in 0..STEPS {
            match random.random_range(0..100) {
                // A client sends its next number, or the same again after a refusal.
                0..35 => {
                    let Some(shard) = believed[random.random_range(0..PROCESSES)] else { continue };
                    match fence.append(shard, &of(org, number.to_string().as_bytes())).await.unwrap() {
                        Appended::Kept => {
                            answered.push(number);
                            number += 1;
                        }
                        Appended::Closed => refused += 1,
                    }
                }
                // A worker stores the first entry of some shard.
                35..65 => {
                    let from = *shards.choose(&mut random).unwrap();
                    if let Some((id, text)) = waiting(&redis, from).await.first() {
                        stored.push(text.parse::<u64>().unwrap());
                        store(&redis, from, id).await;
                    }
                }
                // A process hears of the map, which some never do for a long time.
                65..72 => believed[random.random_range(0..PROCESSES)] = (!is_moving).then_some(settled),
                // Somebody begins another move, wherever the last one stands.
                72..74 => {
                    let to = *shards.choose(&mut random).unwrap();
                    newest += 1;
                    is_moving = true;
                    ever.insert(to);
                    let leaves = ever.iter().copied().filter(|shard| *shard != to).collect();
                    walkers.push(Walker { version: newest, to, leaves, done: Done::Begun });
                }
                // Somebody is interrupted for good.
                74..75 if !walkers.is_empty() => {
                    walkers.swap_remove(random.random_range(0..walkers.len()));
                }
                // Somebody takes up the newest move.
                75..78 if is_moving => {
                    if let Some(walker) = walkers.iter().find(|walker| walker.version == newest) {
                        let Walker { version, to, ref leaves, .. } = *walker;
                        walkers.push(Walker { version, to, leaves: leaves.clone(), done: Done::Begun });
                    }
                }
                // A move gets one step further.
                _ if !walkers.is_empty() => {
                    let n = random.random_range(0..walkers.len());
                    let walker = &mut walkers[n];
                    if walker.done == Done::Opened {
                        if walker.version == newest {
                            (settled, is_moving) = (walker.to, false);
                            arrived += 1;
                        }
                        walkers.swap_remove(n);
                    } else if !walker.step(&fence, org).await {
                        walkers.swap_remove(n);
                    }
                }
                _ => {}
            }
        }
        for shard in shards {
            for (id, text) in waiting(&redis, shard).await {
                stored.push(text.parse::<u64>().unwrap());
                store(&redis, shard, &id).await;
            }
        }
        assert_eq!(stored, answered, "seed {seed}");
        assert!(answered.len() > 10, "seed {seed}: {}", answered.len());
        // Whatever was begun and left, the org is let in where it is, and nowhere else.
        if is_moving {
            let leaves = ever.iter().copied().filter(|shard| *shard != settled).collect();
            let mut back = Walker { version: newest + 1, to: settled, leaves, done: Done::Begun };
            while back.done != Done::Opened {
                assert!(back.step(&fence, org).await, "seed {seed}");
            }
        }
        for mut late in walkers {
            while late.done != Done::Opened && late.step(&fence, org).await {}
        }
        for shard in ever {
            let expected = if shard == settled { Appended::Kept } else { Appended::Closed };
            assert_eq!(fence.append(shard, &of(org, b"at last")).await.unwrap(), expected, "seed {seed}, {shard}");
        }
    }
    assert!(refused > 5 * runs && arrived > runs, "{refused} refused, {arrived} moves in {runs} runs");
}

#[tokio::test]
async fn order_holds_with_stale_routing() {
    let world = World::new().await;
    order_is_kept(redis(&world.db.redis_url), 0..15).await;
}

#[tokio::test]
async fn the_shard_map_says_where_an_org_is_and_where_it_goes() {
    let world = World::new().await;
    let (registry, org) = (&world.registry, world.org.org_id);
    let key = world.key("site").await;
    let seen = async || {
        let resolver = Resolver::new(PostgresSource::new(world.pool.clone()));
        let tenant = resolver.resolve(key.reveal()).await.unwrap();
        (tenant.shard(), tenant.is_moving())
    };
    let home = Shard::home(org);
    let away = shard((home.number() + 1) % 16);
    let further = shard((home.number() + 2) % 16);
    assert_eq!(seen().await, (home, false));
    assert_eq!(registry.shard_map(None).await.unwrap(), []);
    assert!(matches!(registry.assign_shard(org, None).await, Err(RegistryError::NotAssigned)));
    assert!(matches!(registry.abort_shard_move(org).await, Err(RegistryError::NotMoving)));
    assert!(matches!(registry.assign_shard(DEFAULT_ORG, Some(away)).await, Err(RegistryError::NotMovable)));

    let first = registry.assign_shard(org, Some(away)).await.unwrap();
    assert_eq!((first.changed, first.place.shard, first.place.moving_to), (true, home, Some(away)));
    assert_eq!(seen().await, (home, true), "it is where it was until it has moved");
    assert!(!registry.assign_shard(org, Some(away)).await.unwrap().changed, "on its way already");
    let moving = registry.shard_move(org).await.unwrap().unwrap();
    assert_eq!((moving.version, moving.to, &moving.leaves[..]), (first.place.version, away, &[home][..]));

    let second = registry.assign_shard(org, Some(further)).await.unwrap();
    let settled = registry.settle_shard_move(org, first.place.version).await;
    assert!(matches!(settled, Err(RegistryError::MoveSuperseded)));
    let moving = registry.shard_move(org).await.unwrap().unwrap();
    let mut leaves = [home, away];
    leaves.sort();
    assert_eq!((moving.to, &moving.leaves[..]), (further, &leaves[..]), "it may have got to the first");
    assert!(registry.settle_shard_move(org, second.place.version).await.unwrap());
    assert!(!registry.settle_shard_move(org, second.place.version).await.unwrap(), "once");
    assert_eq!(seen().await, (further, false));
    assert_eq!(registry.shard_moves().await.unwrap(), []);

    let back = registry.assign_shard(org, None).await.unwrap();
    assert_eq!(back.place.moving_to, Some(home));
    let [place] = registry.shard_moves().await.unwrap().try_into().unwrap();
    assert_eq!((place.slug.as_str(), place.by.as_str(), place.shard), ("acme", "a test", further));
    let aborted = registry.abort_shard_move(org).await.unwrap();
    assert_eq!(aborted.place.moving_to, Some(further), "back to where it is");
    assert!(registry.settle_shard_move(org, aborted.place.version).await.unwrap());
    assert_eq!(seen().await, (further, false));

    let mut recorded: Vec<_> = registry.events(org, 100).await.unwrap().into_iter().map(|e| e.event_type).collect();
    recorded.retain(|event| event.starts_with("shard."));
    recorded.reverse();
    let assign = "shard.assign";
    assert_eq!(recorded, [assign, assign, "shard.settle", "shard.unassign", assign, "shard.settle"]);
}

#[tokio::test]
async fn a_move_waits_only_for_entries_appended_before_it() {
    let world = World::new().await;
    let redis = redis(&world.db.redis_url);
    let registry = Registry::new(world.operator.clone()).announcing(Invalidator::new(redis.clone()));
    let fence = ShardAppender::new(redis.clone());
    let mover = Mover::new(registry.clone(), fence.clone());
    let org = world.org.org_id;
    let home = Shard::home(org);
    let away = shard((home.number() + 1) % 16);
    assert_eq!(fence.append(home, &of(org, b"before")).await.unwrap(), Appended::Kept);
    registry.assign_shard(org, Some(away)).await.unwrap();
    let mut recorded = Vec::new();
    let error = mover.finish(org, Duration::ZERO, &mut |progress| recorded.push(progress)).await.unwrap_err();
    assert!(matches!(error, MoveError::NotDrained { shard, .. } if shard == home), "{error}");
    assert!(matches!(recorded[..], [Progress::Announced, Progress::Draining { .. }]), "{recorded:?}");
    // Interrupted, and taken back: the org goes on where it is, without waiting for anything.
    registry.abort_shard_move(org).await.unwrap();
    mover.finish(org, Duration::ZERO, &mut |_| {}).await.unwrap();
    assert_eq!(fence.append(home, &of(org, b"after")).await.unwrap(), Appended::Kept);

    // Interrupted, and taken up again by another process.
    registry.assign_shard(org, Some(away)).await.unwrap();
    mover.finish(org, Duration::ZERO, &mut |_| {}).await.unwrap_err();
    let (mut count, finishing) = (0, Mover::new(registry.clone(), fence.clone()));
    let draining = async {
        for (id, _) in waiting(&redis, home).await {
            store(&redis, home, &id).await;
            count += 1;
        }
    };
    draining.await;
    assert_eq!(count, 2);
    finishing.finish(org, Duration::from_secs(60), &mut |_| {}).await.unwrap();
    assert_eq!(registry.shard_place(org).await.unwrap().unwrap().shard, away);
    assert_eq!(fence.append(home, &of(org, b"late")).await.unwrap(), Appended::Closed);
    assert_eq!(fence.append(away, &of(org, b"there")).await.unwrap(), Appended::Kept);
    finishing.finish(org, Duration::ZERO, &mut |_| panic!("nothing to do")).await.unwrap();
}
