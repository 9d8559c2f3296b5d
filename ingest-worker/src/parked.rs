//! Tells the audit trail of envelopes that became dead letters: the first of a shard and org at once, those that follow
//! together, so that a client that sends a thousand of them makes no thousand events.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use audit::AuditWriter;
use model::ids::OrgId;
use queue::dlq::{Description, Reason, Source};
use registry::event::{EventType, NewEvent};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

/// Time between two events of the same shard and org.
pub const TELL_EVERY: Duration = Duration::from_secs(60);
/// How often it is looked whether there is something to tell.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Shards and orgs that are told of apart. Beyond it envelopes are told of without their org.
const ORGS_MAX: usize = 4_096;
/// Who is said to have done it.
const ACTOR: &str = "ingest-worker";

type Whose = (Source, Option<OrgId>);
/// Envelopes and their items, by reason and ClickHouse's code.
type Sums = BTreeMap<(Reason, u32), (u64, u64)>;

/// What is to be told. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Parked(Arc<Mutex<HashMap<Whose, Untold>>>);

#[derive(Debug, Default)]
struct Untold {
    sums: Sums,
    told: Option<Instant>,
}

impl Parked {
    /// An envelope became a dead letter.
    pub(crate) fn note(&self, source: Source, letter: &Description) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.len() < ORGS_MAX || all.contains_key(&(source, letter.org));
        let untold = all.entry((source, letter.org.filter(|_| known))).or_default();
        let (envelopes, items) = untold.sums.entry((letter.reason, letter.code)).or_default();
        *envelopes += 1;
        *items += letter.items;
    }

    /// Tells until `stop`, and then what is left.
    pub async fn tell(self, audit: AuditWriter, mut stop: watch::Receiver<bool>) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let last = tokio::select! {
                _ = looks.tick() => false,
                _ = stop.wait_for(|stop| *stop) => true,
            };
            for (whose, sums) in self.due(Instant::now(), last) {
                if audit.record(event(whose, &sums)).await.is_err() {
                    self.put_back(whose, sums);
                }
            }
            if last {
                return;
            }
        }
    }

    /// Takes out what is to be told now, and forgets who has been quiet.
    fn due(&self, now: Instant, all: bool) -> Vec<(Whose, Sums)> {
        let mut untold = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = Vec::new();
        untold.retain(|whose, untold| {
            if !all && untold.told.is_some_and(|told| now.saturating_duration_since(told) < TELL_EVERY) {
                return true;
            }
            if untold.sums.is_empty() {
                return false;
            }
            untold.told = Some(now);
            due.push((*whose, std::mem::take(&mut untold.sums)));
            true
        });
        due
    }

    /// There was no room in the queue: it is told later, with what comes until then.
    fn put_back(&self, whose: Whose, sums: Sums) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let untold = all.entry(whose).or_default();
        for (why, (envelopes, items)) in sums {
            let sum = untold.sums.entry(why).or_default();
            *sum = (sum.0 + envelopes, sum.1 + items);
        }
    }
}

fn event((source, org): Whose, sums: &Sums) -> NewEvent {
    let parked = sums.iter().map(|((reason, code), (envelopes, items))| {
        json!({ "reason": reason, "code": code, "envelopes": envelopes, "items": items })
    });
    let parked = parked.collect::<Vec<_>>();
    let (target, detail) = match source {
        Source::Shard(shard) => (format!("shard {shard}"), json!({ "shard": shard, "parked": parked })),
        Source::Legacy => ("the legacy stream".to_owned(), json!({ "parked": parked })),
    };
    NewEvent::new(org, EventType::DlqParked, ACTOR).target(&target).detail(detail)
}

#[cfg(test)]
mod tests {
    use model::entry_id::EntryId;
    use model::shard::Shard;

    use super::*;
    use crate::dead_letter;

    #[test]
    fn a_flood_of_an_org_is_told_once_a_minute_and_no_envelope_is_forgotten() {
        let (parked, shard, org) =
            (Parked::default(), Source::Shard(Shard::new(3).unwrap()), Some(OrgId(uuid::Uuid::from_u128(7))));
        let mut refused = dead_letter::describe(EntryId::ZERO, org, Reason::Refused, 469, "");
        refused.items = 5;
        let told = |at, all| parked.due(at, all);
        let begin = Instant::now();
        parked.note(shard, &refused);
        let one = BTreeMap::from([((Reason::Refused, 469), (1, 5))]);
        assert_eq!(told(begin, false), [((shard, org), one.clone())], "the first at once");
        for _ in 0..1000 {
            parked.note(shard, &refused);
        }
        parked.note(shard, &dead_letter::describe(EntryId::ZERO, None, Reason::Unreadable, 0, ""));
        let unreadable = ((shard, None), BTreeMap::from([((Reason::Unreadable, 0), (1, 0))]));
        assert_eq!(told(begin + TELL_EVERY / 2, false), [unreadable], "others do not wait for it");
        let many = BTreeMap::from([((Reason::Refused, 469), (1000, 5000))]);
        assert_eq!(told(begin + TELL_EVERY, false), [((shard, org), many.clone())]);
        parked.put_back((shard, org), many);
        parked.note(shard, &refused);
        let all = BTreeMap::from([((Reason::Refused, 469), (1001, 5005))]);
        assert_eq!(told(begin + TELL_EVERY, true), [((shard, org), all)], "at the end all is told");
        assert_eq!(told(begin + 3 * TELL_EVERY, false), []);
        assert!(parked.0.lock().unwrap().is_empty(), "who is quiet is forgotten");
    }

    #[test]
    fn too_many_orgs_are_told_of_together() {
        let (parked, shard) = (Parked::default(), Source::Legacy);
        for n in 0..=ORGS_MAX as u128 + 1 {
            parked.note(
                shard,
                &dead_letter::describe(EntryId::ZERO, Some(OrgId(uuid::Uuid::from_u128(n))), Reason::Refused, 1, ""),
            );
        }
        let told = parked.due(Instant::now(), false);
        assert_eq!(told.len(), ORGS_MAX + 1);
        let rest = told.iter().find(|((_, org), _)| org.is_none()).map(|(_, sums)| sums[&(Reason::Refused, 1)]);
        assert_eq!(rest, Some((2, 0)));
    }
}
