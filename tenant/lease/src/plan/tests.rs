use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

const NAMES: [&str; 20] =
    ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s", "t"];

fn names(from: &[&str]) -> Vec<String> {
    from.iter().map(|name| (*name).to_owned()).collect()
}

/// Checks one state: when all workers that read it follow their plans, every shard has exactly one owner, the shares
/// are even, and no other distribution would move fewer shards.
#[test]
fn the_plan_gives_every_shard_one_owner_with_the_fewest_moves() {
    let mut random = StdRng::seed_from_u64(6);
    for _ in 0..2_000 {
        let members = names(&NAMES[..random.random_range(1..=NAMES.len())]);
        let known = random.random_range(1..=NAMES.len());
        let holders: Holders =
            std::array::from_fn(|_| random.random_bool(0.8).then(|| NAMES[random.random_range(0..known)].to_owned()));
        let (mut wanted, mut kept) = ([0; SHARDS as usize], 0);
        let mut shares = Vec::new();
        for me in &members {
            let mine = |shard: &Shard| holders[shard.index()].as_ref() == Some(me);
            let held: Vec<Shard> = Shard::all().filter(mine).collect();
            let plan = plan(me, &members, &held, &holders);
            let keeps: Vec<_> = held.iter().filter(|shard| !plan.give_up.contains(shard)).collect();
            kept += keeps.len();
            shares.push(keeps.len() + plan.try_for.len());
            keeps.into_iter().chain(&plan.try_for).for_each(|shard| wanted[shard.index()] += 1);
        }
        assert_eq!(wanted, [1; SHARDS as usize], "{members:?} {holders:?}");
        assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1, "{shares:?}");
        assert_eq!(kept, most_that_can_stay(&members, &holders), "{members:?} {holders:?}");
    }
}

/// Every worker keeps an even share of its shards; as many workers as there are larger shares keep one more.
fn most_that_can_stay(members: &[String], holders: &Holders) -> usize {
    let (share, larger) = (usize::from(SHARDS) / members.len(), usize::from(SHARDS) % members.len());
    let holding = members.iter().map(|member| holders.iter().flatten().filter(|holder| *holder == member).count());
    let holding: Vec<usize> = holding.collect();
    let with_more = holding.iter().filter(|held| **held > share).count();
    holding.iter().map(|held| *held.min(&share)).sum::<usize>() + with_more.min(larger)
}

#[test]
fn a_worker_that_is_no_member_does_nothing() {
    let held: Vec<Shard> = Shard::all().collect();
    assert_eq!(plan("x", &names(&["a", "b"]), &held, &Holders::default()), Plan::default());
    assert_eq!(plan("x", &[], &held, &Holders::default()), Plan::default());
}

#[test]
fn a_worker_that_joins_takes_only_its_share() {
    let holders: Holders = std::array::from_fn(|n| Some(if n % 2 == 0 { "a" } else { "b" }.to_owned()));
    let members = names(&["a", "b", "c"]);
    let held = |parity| Shard::all().filter(|shard| shard.index() % 2 == parity).collect::<Vec<_>>();
    assert_eq!(plan("a", &members, &held(0), &holders).give_up.len(), 2);
    assert_eq!(plan("b", &members, &held(1), &holders).give_up.len(), 3);
    assert_eq!(plan("c", &members, &[], &holders).try_for.len(), 5);
}

/// Two workers had eight shards each when a third joined. One has given up its two, the other is still doing so: the
/// first must not appear to have too many again.
#[test]
fn a_worker_that_released_its_excess_keeps_the_rest() {
    let holders: Holders = std::array::from_fn(|n| Some(if n < 6 { "a" } else { "b" }.to_owned()).filter(|_| n < 14));
    let held: Vec<Shard> = Shard::all().take(6).collect();
    assert_eq!(plan("a", &names(&["a", "b", "c"]), &held, &holders), Plan::default());
}

/// How many ticks a lease runs, and a silent member counts as alive.
const TTL: u64 = 6;
/// How many ticks giving up a shard takes at most.
const DRAIN_MAX: u64 = 4;
/// Ticks after the last change until the shares are even: the silence is noticed, the last shard given up and taken.
const SETTLED_AFTER: u64 = TTL + DRAIN_MAX + 6;

/// A model of Redis with only what the plan needs.
#[derive(Default)]
struct World {
    now: u64,
    members: BTreeMap<String, u64>,
    leases: [Option<(String, u64)>; SHARDS as usize],
}

#[derive(Default)]
struct Worker {
    name: String,
    /// Until when the worker relies on the lease, and when it has finished its work, once it gives up the shard.
    held: BTreeMap<Shard, (u64, Option<u64>)>,
    /// The state that the worker read last.
    seen: Option<(Vec<String>, Holders)>,
    stands_still_until: u64,
    gave_up: u64,
}

impl World {
    fn holders(&self) -> Holders {
        std::array::from_fn(|n| {
            self.leases[n].as_ref().filter(|(_, until)| *until > self.now).map(|(owner, _)| owner.clone())
        })
    }

    fn join(&mut self, name: &str) -> Vec<String> {
        self.members.insert(name.to_owned(), self.now);
        let now = self.now;
        self.members.retain(|_, heard| *heard + TTL > now);
        self.members.keys().cloned().collect()
    }

    fn lease(&mut self, name: &str, shard: Shard) -> bool {
        let free = self.leases[shard.index()].as_ref().is_none_or(|(owner, until)| owner == name || *until <= self.now);
        if free {
            self.leases[shard.index()] = Some((name.to_owned(), self.now + TTL));
        }
        free
    }
}

impl Worker {
    /// Renews and follows the plan made from an earlier reading; then reads again. So every plan is made from an old
    /// state.
    fn tick(&mut self, world: &mut World, random: &mut StdRng) {
        let now = world.now;
        let name = self.name.clone();
        self.held.retain(|shard, (until, done)| {
            let runs = *until > now && world.leases[shard.index()].as_ref().is_some_and(|(owner, _)| *owner == name);
            if runs && done.is_some_and(|done| done <= now) {
                world.leases[shard.index()] = None;
                return false;
            }
            if runs {
                world.lease(&name, *shard);
                *until = now + TTL;
            }
            runs
        });
        if let Some((members, holders)) = self.seen.take() {
            let held: Vec<Shard> = self.held.keys().copied().collect();
            let plan = plan(&name, &members, &held, &holders);
            for shard in plan.give_up {
                if let Some((_, done @ None)) = self.held.get_mut(&shard) {
                    *done = Some(now + random.random_range(0..=DRAIN_MAX));
                    self.gave_up += 1;
                }
            }
            for shard in plan.try_for {
                if world.lease(&name, shard) {
                    self.held.insert(shard, (now + TTL, None));
                }
            }
        }
        self.seen = Some((world.join(&name), world.holders()));
    }
}

/// Workers join, leave, crash and are suspended, in any order; each acts on an old state. At no time do two workers
/// rely on one shard, and soon after the last change the shares are even and no shard moves any more.
#[test]
fn shards_become_evenly_shared_after_any_history() {
    for seed in 0..1_000 {
        let mut random = StdRng::seed_from_u64(seed);
        let (mut world, mut workers) = (World::default(), Vec::<Worker>::new());
        let mut born = 0;
        let tick = |world: &mut World, workers: &mut Vec<Worker>, random: &mut StdRng| {
            world.now += 1;
            for at in 0..workers.len() {
                workers.swap(at, random.random_range(0..=at));
            }
            let now = world.now;
            for worker in workers.iter_mut().filter(|worker| worker.stands_still_until <= now) {
                worker.tick(world, random);
            }
            for shard in Shard::all() {
                let relies = |worker: &&Worker| worker.held.get(&shard).is_some_and(|(until, _)| *until > world.now);
                assert!(workers.iter().filter(relies).count() <= 1, "seed {seed}: two rely on shard {shard}");
            }
        };
        for _ in 0..random.random_range(1..12) {
            match random.random_range(0..5) {
                0 | 1 => {
                    born += 1;
                    workers.push(Worker { name: format!("{born:02}"), ..Worker::default() });
                }
                2 if workers.len() > 1 => {
                    let gone = workers.pop().unwrap();
                    world.members.remove(&gone.name);
                    gone.held.keys().for_each(|shard| world.leases[shard.index()] = None);
                }
                3 if workers.len() > 1 => drop(workers.pop()),
                _ => {
                    if let Some(worker) = workers.last_mut() {
                        worker.stands_still_until = world.now + random.random_range(1..3 * TTL);
                    }
                }
            }
            for _ in 0..random.random_range(0..8) {
                tick(&mut world, &mut workers, &mut random);
            }
        }
        if workers.is_empty() {
            workers.push(Worker { name: "last".to_owned(), ..Worker::default() });
        }
        workers.iter_mut().for_each(|worker| worker.stands_still_until = 0);
        for _ in 0..SETTLED_AFTER {
            tick(&mut world, &mut workers, &mut random);
        }
        let shares: Vec<usize> = workers.iter().map(|worker| worker.held.len()).collect();
        assert_eq!(shares.iter().sum::<usize>(), usize::from(SHARDS), "seed {seed}: {shares:?}");
        assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1, "seed {seed}: {shares:?}");
        let gave_up = |workers: &[Worker]| workers.iter().map(|worker| worker.gave_up).sum::<u64>();
        let before = gave_up(&workers);
        for _ in 0..2 * SETTLED_AFTER {
            tick(&mut world, &mut workers, &mut random);
        }
        assert_eq!(gave_up(&workers), before, "seed {seed}: a shard moves to and fro");
    }
}
