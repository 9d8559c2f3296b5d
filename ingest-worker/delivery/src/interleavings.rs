//! Tries every interleaving of two workers that both believe they own a shard: crashes, take-overs, lost replies,
//! commands and inserts that arrive late or twice, rows that ClickHouse refuses until the table is repaired, an org
//! that has a parked envelope released.
//!
//! [`Delivery`] and [`Intent`] are the real code. Redis and ClickHouse are models that do what the scripts and the
//! deduplication window promise (`tests/it` and `tests/faults` check the real servers against that). The models assume
//! two things, and the deadlines of leases and inserts bound both in time: ClickHouse remembers a token for as long as
//! a copy of its insert can be under way; and when the table is repaired, no copy is under way any more, and no worker
//! that has lost the shard still believes that it owns it.

use std::collections::{BTreeMap, BTreeSet};

use model::entry_id::EntryId;
use stateright::{Checker, Model, Property};

use super::intent::{Intent, Note, Piece, Target, Verdict};
use super::judge::Blame;
use super::{Delivery, Step};

const ENTRIES: u64 = 3;
const TABLES: [u8; 2] = [2, 3];
const NO_NOTES: [[u8; 0]; 0] = [];
/// An entry that one table refuses the rows of.
const POISON: EntryId = EntryId::new(2, 0);
/// An entry that may get the verdict that its org is over a monthly limit.
const OVER_QUOTA: EntryId = EntryId::new(3, 0);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    workers: [Option<LeaseGuard>; 2],
    redis: Redis,
    clickhouse: ClickHouse,
    /// Copies of commands and inserts that may still arrive.
    late: BTreeSet<Late>,
    /// How many more crashes may happen.
    crashes: u8,
    mishaps: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct LeaseGuard {
    epoch: u8,
    batches: u8,
    /// The batch under way, with the epoch and number under which it was announced.
    delivery: Option<(Id, Delivery)>,
}

/// The epoch and the number of an intent.
type Id = (u8, u8);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Redis {
    epoch: u8,
    stream: BTreeSet<EntryId>,
    intent: Option<Intent>,
    /// Id of the newest intent, whether that is still in Redis or not.
    newest: Id,
    dead: Vec<EntryId>,
    parked: BTreeSet<EntryId>,
    /// Parked envelopes that were put into the stream again, as new entries, and how often. Redis remembers each
    /// release too, and for longer than a command can be late.
    released: BTreeMap<EntryId, u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
struct ClickHouse {
    tokens: BTreeSet<(u8, String)>,
    rows: BTreeMap<(u8, EntryId), u8>,
    refusing: Option<u8>,
}

/// A command or insert that the owner in that epoch sent for the intent with that id.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Late {
    epoch: u8,
    id: Id,
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum What {
    Announce(Vec<u8>),
    /// The intent's notes from that number on.
    Note(usize, Vec<Vec<u8>>),
    Commit,
    Withhold(Vec<u8>),
    Insert {
        table: u8,
        entries: Vec<EntryId>,
        token: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Reply {
    Done,
    Fenced,
    Refused,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Action {
    /// That worker takes the shard over, whichever worker believes that it owns it.
    TakeOver(usize),
    Crash(usize),
    /// That worker makes a batch of the first entries, or of all but the first, with or without a verdict on
    /// [`OVER_QUOTA`].
    Gather {
        worker: usize,
        first: usize,
        count: usize,
        over: bool,
    },
    /// That worker does the next step of its batch.
    Step(usize),
    /// That worker judges whether the entries or the table are to blame.
    Judge(usize, Blame),
    /// That worker does the next step, but the reply is lost.
    LoseReply(usize),
    /// That worker sends the command or insert of the next step. It arrives later or never.
    Delay(usize),
    Arrive(Late),
    Mend,
    /// An operator releases what is parked: appends it to the stream, and then takes it out of the parked envelopes.
    Release,
}

struct TwoWorkers {
    /// The number of the table that refuses [`POISON`].
    refusing: u8,
    /// How many take-overs of the shard may happen.
    take_overs: u8,
    /// How many commands and inserts may be delayed or lose their reply.
    mishaps: u8,
}

impl World {
    fn late(&self, worker: usize) -> Option<Late> {
        let guard = self.workers[worker].as_ref()?;
        let (id, delivery) = guard.delivery.as_ref()?;
        let what = match delivery.step()? {
            Step::Announce(intent) => What::Announce(intent.encode()),
            Step::Note(intent, first) => What::Note(first, intent.notes()[first..].iter().map(Note::encode).collect()),
            Step::Judge(..) => return None,
            Step::Withhold(intent) => What::Withhold(intent.encode()),
            Step::Commit(_) => What::Commit,
            Step::Insert(intent, piece) => insert(&intent, &piece),
        };
        Some(Late { epoch: guard.epoch, id: *id, what })
    }

    /// What Redis or ClickHouse does when the command or insert arrives.
    fn arrives(&mut self, Late { epoch, id, what }: Late) -> Reply {
        let redis = &mut self.redis;
        let fenced = redis.epoch != epoch;
        match what {
            What::Insert { table, entries, token } => {
                let clickhouse = &mut self.clickhouse;
                if clickhouse.refusing == Some(table) && entries.contains(&POISON) {
                    return Reply::Refused;
                }
                if clickhouse.tokens.insert((table, token)) {
                    for entry in entries {
                        *clickhouse.rows.entry((table, entry)).or_default() += 1;
                    }
                }
            }
            // Parked envelopes are in a store of their org, which does not know the shard's lease. Parking the same
            // entry twice parks it once, and a released entry is not parked again.
            What::Withhold(bytes) => {
                let intent = Intent::decode(&bytes, NO_NOTES).unwrap();
                let entries = intent.withheld.iter().map(|(at, _)| intent.entries[*at as usize]);
                redis.parked.extend(entries.filter(|entry| !redis.released.contains_key(entry)));
            }
            _ if fenced => return Reply::Fenced,
            What::Announce(bytes) => {
                if id > redis.newest {
                    assert!(redis.intent.is_none(), "an intent on top of another");
                    redis.intent = Some(Intent::decode(&bytes, NO_NOTES).unwrap());
                    redis.newest = id;
                }
            }
            What::Note(first, notes) => {
                if id == redis.newest
                    && let Some(intent) = &redis.intent
                {
                    let mut all: Vec<Vec<u8>> = intent.notes().iter().map(Note::encode).collect();
                    assert!(first <= all.len(), "a note is missing");
                    for (at, note) in (first..).zip(notes) {
                        match all.get(at) {
                            Some(known) => assert_eq!(*known, note, "a note has changed"),
                            None => all.push(note),
                        }
                    }
                    redis.intent = Some(Intent::decode(&intent.encode(), all).unwrap());
                }
            }
            What::Commit => {
                if id == redis.newest
                    && let Some(intent) = redis.intent.take()
                {
                    redis.dead.extend(intent.refused().map(|refused| intent.entries[refused.entry as usize]));
                    if intent.is_prefix {
                        let last = intent.entries.iter().max().copied().unwrap();
                        redis.stream.retain(|entry| *entry > last);
                    } else {
                        redis.stream.retain(|entry| !intent.entries.contains(entry));
                    }
                }
            }
        }
        Reply::Done
    }

    fn hears(&mut self, worker: usize, reply: Reply) {
        let Some(guard) = &mut self.workers[worker] else { return };
        let Some((_, delivery)) = &mut guard.delivery else { return };
        match reply {
            Reply::Done => delivery.done(),
            Reply::Refused => delivery.refused(117),
            Reply::Fenced => self.workers[worker] = None,
        }
        if let Some(guard) = &mut self.workers[worker]
            && guard.delivery.as_ref().is_some_and(|(_, delivery)| delivery.step().is_none())
        {
            guard.delivery = None;
        }
    }

    /// Whether an entry that left the stream is in its one right place: its tables, the dead letters or parked.
    fn ended_well(&self, refusing: u8, entry: EntryId) -> bool {
        let rows = |table| self.clickhouse.rows.get(&(table, entry)).copied().unwrap_or_default();
        let dead = self.redis.dead.iter().filter(|dead| **dead == entry).count();
        let released = self.redis.released.get(&entry).copied().unwrap_or_default();
        let parked = self.redis.parked.contains(&entry) || released == 1;
        match (rows(2), rows(3), dead, parked) {
            (1, 1, 0, false) | (0, 0, 0, true) => true,
            (0, 0, 1, false) => entry == POISON && refusing == TABLES[0],
            (1, 0, 1, false) => entry == POISON && refusing == TABLES[1],
            _ => false,
        }
    }
}

fn insert(intent: &Intent, piece: &Piece) -> What {
    let entries = intent.included(piece).map(|at| intent.entries[at]).collect();
    What::Insert { table: piece.target.table, entries, token: intent.token("s", piece) }
}

impl Model for TwoWorkers {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let redis = Redis {
            epoch: 0,
            stream: (1..=ENTRIES).map(|ms| EntryId::new(ms, 0)).collect(),
            intent: None,
            newest: (0, 0),
            dead: Vec::new(),
            parked: BTreeSet::new(),
            released: BTreeMap::new(),
        };
        let clickhouse = ClickHouse { refusing: Some(self.refusing), ..ClickHouse::default() };
        vec![World {
            workers: [None, None],
            redis,
            clickhouse,
            late: BTreeSet::new(),
            crashes: 1,
            mishaps: self.mishaps,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for worker in 0..world.workers.len() {
            if world.redis.epoch < self.take_overs {
                actions.push(Action::TakeOver(worker));
            }
            let Some(guard) = &world.workers[worker] else { continue };
            if world.crashes > 0 {
                actions.push(Action::Crash(worker));
            }
            if let Some((_, delivery)) = &guard.delivery {
                if matches!(delivery.step(), Some(Step::Judge(..))) {
                    let blames = [Blame::Entries, Blame::Undecided, Blame::TableAccepts];
                    actions.extend(blames.map(|blame| Action::Judge(worker, blame)));
                    continue;
                }
                actions.push(Action::Step(worker));
                if world.mishaps > 0 {
                    actions.push(Action::LoseReply(worker));
                    actions.push(Action::Delay(worker));
                }
            } else {
                // A worker that lost its lease may believe that entries are in the stream that are not; the
                // announcement fails then.
                let all = world.redis.stream.len();
                for (first, count) in [(0, 1), (0, all), (1, all.saturating_sub(1))] {
                    if count > 0 && all > 0 {
                        actions.push(Action::Gather { worker, first, count, over: false });
                        actions.push(Action::Gather { worker, first, count, over: true });
                    }
                }
            }
        }
        actions.extend(world.late.iter().cloned().map(Action::Arrive));
        if !world.redis.parked.is_empty() {
            actions.push(Action::Release);
        }
        let inserts = world.late.iter().any(|late| matches!(late.what, What::Insert { .. }));
        let outdated = world.workers.iter().flatten().any(|guard| guard.epoch < world.redis.epoch);
        if world.clickhouse.refusing.is_some() && !inserts && !outdated {
            actions.push(Action::Mend);
        }
    }

    fn next_state(&self, before: &World, action: Action) -> Option<World> {
        let mut world = before.clone();
        match action {
            Action::TakeOver(worker) => {
                world.redis.epoch += 1;
                let found = world.redis.intent.clone().map(|intent| (world.redis.newest, Delivery::found(intent)));
                world.workers[worker] = Some(LeaseGuard { epoch: world.redis.epoch, batches: 0, delivery: found });
            }
            Action::Crash(worker) => {
                world.workers[worker] = None;
                world.crashes -= 1;
            }
            Action::Gather { worker, first, count, over } => {
                let entries: Vec<EntryId> = world.redis.stream.iter().skip(first).take(count).copied().collect();
                let over = entries.iter().position(|entry| over && *entry == OVER_QUOTA);
                let withheld = over.map(|at| (at as u32, Verdict::Park)).into_iter().collect();
                let targets = TABLES.map(|table| Target { table, version: 1 }).to_vec();
                let intent = Intent { entries, is_prefix: first == 0, targets, withheld, ..Intent::default() };
                let guard = world.workers[worker].as_mut()?;
                guard.batches += 1;
                guard.delivery = Some(((guard.epoch, guard.batches), Delivery::new(intent)));
            }
            Action::Step(worker) => {
                let reply = world.late(worker).map(|late| world.arrives(late))?;
                world.hears(worker, reply);
            }
            Action::Judge(worker, blame) => {
                let (_, delivery) = world.workers[worker].as_mut()?.delivery.as_mut()?;
                match blame {
                    Blame::Entries => delivery.entries_are_bad(),
                    Blame::TableAccepts => delivery.table_accepts(),
                    Blame::Table | Blame::Undecided => delivery.try_again(),
                }
            }
            Action::LoseReply(worker) => {
                world.mishaps -= 1;
                world.late(worker).map(|late| world.arrives(late))?;
            }
            Action::Delay(worker) => {
                world.mishaps -= 1;
                let late = world.late(worker)?;
                world.late.insert(late);
            }
            Action::Arrive(late) => {
                world.late.remove(&late);
                world.arrives(late);
            }
            Action::Mend => world.clickhouse.refusing = None,
            Action::Release => {
                for entry in std::mem::take(&mut world.redis.parked) {
                    *world.redis.released.entry(entry).or_default() += 1;
                }
            }
        }
        (world != *before).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no row is stored twice, and no envelope released twice", |_, world: &World| {
                world.clickhouse.rows.values().chain(world.redis.released.values()).all(|times| *times == 1)
            }),
            Property::always("what is deleted is stored whole, or kept elsewhere", |model: &Self, world: &World| {
                let mut all = (1..=ENTRIES).map(|ms| EntryId::new(ms, 0));
                all.all(|e| world.redis.stream.contains(&e) || world.ended_well(model.refusing, e))
            }),
            Property::sometimes("all is stored", |_, world: &World| {
                world.redis.stream.is_empty() && world.redis.dead.is_empty() && world.redis.parked.is_empty()
            }),
            Property::sometimes("the poison is dead-lettered and the rest stored", |_, world: &World| {
                world.redis.stream.is_empty() && world.redis.dead == [POISON] && world.redis.parked.is_empty()
            }),
            Property::sometimes("the org over its quota is parked", |_, world: &World| {
                world.redis.stream.is_empty() && world.redis.parked.contains(&OVER_QUOTA)
            }),
            Property::sometimes("and released", |_, world: &World| {
                world.redis.stream.is_empty() && world.redis.released.contains_key(&OVER_QUOTA)
            }),
        ]
    }
}

fn check(take_overs: u8, mishaps: u8) {
    for refusing in TABLES {
        let checker = TwoWorkers { refusing, take_overs, mishaps }.checker().threads(2).spawn_bfs().join();
        println!("table {refusing} refuses: {} distinct states", checker.unique_state_count());
        checker.assert_properties();
    }
}

#[test]
fn every_entry_is_stored_exactly_once() {
    check(2, 1);
}

/// Sixteen million states for each table. Takes some minutes and several GiB of memory.
#[test]
#[ignore = "takes minutes; cargo test -p delivery -- --ignored"]
fn every_entry_is_stored_exactly_once_with_more_going_wrong() {
    check(3, 2);
}
