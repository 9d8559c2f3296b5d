//! Writes to the audit trail that envelopes became dead letters. The first one of a shard and org is written at once,
//! and those that follow are written together, so that a client that sends a thousand bad envelopes does not make a
//! thousand events.

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
/// How often to check whether an event is due.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// Most pairs of shard and org that have events of their own. Beyond it, events do not name the org.
const ORGS_MAX: usize = 4_096;
/// The actor that the events name.
const ACTOR: &str = "ingest-worker";

type ShardAndOrg = (Source, Option<OrgId>);
/// Number of envelopes and of their items, by reason and ClickHouse's error code.
type Sums = BTreeMap<(Reason, u32), (u64, u64)>;

/// Dead letters that no event has reported yet. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct DeadLetterNotes(Arc<Mutex<HashMap<ShardAndOrg, Unreported>>>);

#[derive(Debug, Default)]
struct Unreported {
    sums: Sums,
    logged_at: Option<Instant>,
}

impl DeadLetterNotes {
    /// Notes that an envelope became a dead letter.
    pub(crate) fn note(&self, source: Source, letter: &Description) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.len() < ORGS_MAX || all.contains_key(&(source, letter.org));
        let unreported = all.entry((source, letter.org.filter(|_| known))).or_default();
        let (envelopes, items) = unreported.sums.entry((letter.reason, letter.code)).or_default();
        *envelopes += 1;
        *items += letter.items;
    }

    /// Writes events until `stop` is true, and then one last time for everything that is left.
    pub async fn write_to_audit(self, audit: AuditWriter, mut stop: watch::Receiver<bool>) {
        let mut ticks = tokio::time::interval(POLL_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let last = tokio::select! {
                _ = ticks.tick() => false,
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

    /// Takes out what is due for an event now, and forgets the pairs of shard and org that had nothing new.
    fn due(&self, now: Instant, all: bool) -> Vec<(ShardAndOrg, Sums)> {
        let mut unreported = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = Vec::new();
        unreported.retain(|whose, unreported| {
            if !all && unreported.logged_at.is_some_and(|at| now.saturating_duration_since(at) < TELL_EVERY) {
                return true;
            }
            if unreported.sums.is_empty() {
                return false;
            }
            unreported.logged_at = Some(now);
            due.push((*whose, std::mem::take(&mut unreported.sums)));
            true
        });
        due
    }

    /// The audit trail's queue had no room: the sums are added to the next event.
    fn put_back(&self, whose: ShardAndOrg, sums: Sums) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let unreported = all.entry(whose).or_default();
        for (why, (envelopes, items)) in sums {
            let sum = unreported.sums.entry(why).or_default();
            *sum = (sum.0 + envelopes, sum.1 + items);
        }
    }
}

fn event((source, org): ShardAndOrg, sums: &Sums) -> NewEvent {
    let notes = sums.iter().map(|((reason, code), (envelopes, items))| {
        json!({ "reason": reason, "code": code, "envelopes": envelopes, "items": items })
    });
    let notes = notes.collect::<Vec<_>>();
    let (target, detail) = match source {
        Source::Shard(shard) => (format!("shard {shard}"), json!({ "shard": shard, "dead_letters": notes })),
        Source::Legacy => ("the legacy stream".to_owned(), json!({ "dead_letters": notes })),
    };
    NewEvent::new(org, EventType::DlqDeadLettered, ACTOR).with_target(&target).with_detail(detail)
}

#[cfg(test)]
mod tests {
    use model::entry_id::EntryId;
    use model::shard::Shard;

    use super::*;
    use crate::dead_letter;

    #[test]
    fn dead_letters_of_an_org_are_logged_once_a_minute_and_all_are_counted() {
        let (notes, shard, org) =
            (DeadLetterNotes::default(), Source::Shard(Shard::new(3).unwrap()), Some(OrgId(uuid::Uuid::from_u128(7))));
        let mut refused = dead_letter::describe(EntryId::ZERO, org, Reason::Refused, 469, "");
        refused.items = 5;
        let due = |at, all| notes.due(at, all);
        let begin = Instant::now();
        notes.note(shard, &refused);
        let one = BTreeMap::from([((Reason::Refused, 469), (1, 5))]);
        assert_eq!(due(begin, false), [((shard, org), one.clone())], "the first at once");
        for _ in 0..1000 {
            notes.note(shard, &refused);
        }
        notes.note(shard, &dead_letter::describe(EntryId::ZERO, None, Reason::Unreadable, 0, ""));
        let unreadable = ((shard, None), BTreeMap::from([((Reason::Unreadable, 0), (1, 0))]));
        assert_eq!(due(begin + TELL_EVERY / 2, false), [unreadable], "others do not wait for it");
        let many = BTreeMap::from([((Reason::Refused, 469), (1000, 5000))]);
        assert_eq!(due(begin + TELL_EVERY, false), [((shard, org), many.clone())]);
        notes.put_back((shard, org), many);
        notes.note(shard, &refused);
        let all = BTreeMap::from([((Reason::Refused, 469), (1001, 5005))]);
        assert_eq!(due(begin + TELL_EVERY, true), [((shard, org), all)], "at the end all is told");
        assert_eq!(due(begin + 3 * TELL_EVERY, false), []);
        assert!(notes.0.lock().unwrap().is_empty(), "who is quiet is forgotten");
    }

    #[test]
    fn dead_letters_of_too_many_orgs_are_logged_as_one_sum() {
        let (notes, shard) = (DeadLetterNotes::default(), Source::Legacy);
        for n in 0..=ORGS_MAX as u128 + 1 {
            notes.note(
                shard,
                &dead_letter::describe(EntryId::ZERO, Some(OrgId(uuid::Uuid::from_u128(n))), Reason::Refused, 1, ""),
            );
        }
        let due = notes.due(Instant::now(), false);
        assert_eq!(due.len(), ORGS_MAX + 1);
        let rest = due.iter().find(|((_, org), _)| org.is_none()).map(|(_, sums)| sums[&(Reason::Refused, 1)]);
        assert_eq!(rest, Some((2, 0)));
    }
}
