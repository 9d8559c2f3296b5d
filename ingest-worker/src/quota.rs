//! Which envelopes to park or drop because their org turned out to be over a monthly limit after admission had let them
//! pass. The quota reconciler sets a flag for such an org, and the worker asks for the flag once per second and org.
//!
//! If the flag cannot be read, the envelopes are stored. They are also stored if there is no room to park them: data
//! that was accepted is worth more than a limit. This module only finds the verdict; the intent of the batch records
//! it.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use delivery::intent::Verdict;
use futures_util::future::join_all;
use model::ids::OrgId;
use model::meter::period;
use model::org::OverQuota;
use quota::{Flag, ParkedAmount, ParkedEnvelopes};
use redis::RedisError;
use stores::redis::Redis;
use wire::envelope::Envelope;

use crate::fair_queue::FairQueue;
use crate::{fair_queue, metrics};

/// How long an answer is used before it is asked for again.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Most orgs that are asked about in one round trip.
const ASKED_MAX: usize = 256;
/// Most answers that are kept in memory.
const KNOWN_MAX: usize = 10_000;

/// An org and a calendar month, as the month's number from [`period`].
type OrgMonth = (OrgId, u32);

/// Finds the verdicts on the envelopes of one shard.
#[derive(Debug)]
pub struct Quotas {
    redis: Redis,
    parked: ParkedEnvelopes,
    /// Most bytes of parked envelopes that one org may have.
    bytes_max: u64,
    known: HashMap<OrgMonth, Known>,
    /// What the current batch will park. It is not among the parked envelopes yet.
    in_batch: HashMap<OrgId, ParkedAmount>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    asked: Instant,
    flag: Flag,
    parked: ParkedAmount,
}

impl Quotas {
    /// Reads flags from that Redis, and lets each org have `bytes_max` bytes of parked envelopes.
    pub fn new(redis: Redis, bytes_max: u64) -> Self {
        let parked = ParkedEnvelopes::new(redis.clone());
        Self { redis, parked, bytes_max, known: HashMap::new(), in_batch: HashMap::new() }
    }

    /// The verdict on an envelope; `None` if it is stored. When Redis is asked, the same request asks about the other
    /// orgs in the fair queue too.
    pub async fn verdict(&mut self, envelope: &Envelope<'_>, bytes: usize, queue: &FairQueue) -> Option<Verdict> {
        if envelope.is_exempt {
            return None;
        }
        let org_month = (envelope.header.org_id, period(envelope.header.received_at));
        let now = Instant::now();
        if self.is_unknown(&org_month, now) {
            self.ask(org_month, queue, now).await;
        }
        self.decide(org_month, bytes as u64)
    }

    /// The batch is delivered: what it parks is among the parked envelopes now.
    pub fn delivered(&mut self) {
        let in_batch = std::mem::take(&mut self.in_batch);
        self.known.retain(|(org, _), _| !in_batch.contains_key(org));
    }

    fn is_unknown(&self, org_month: &OrgMonth, now: Instant) -> bool {
        self.known.get(org_month).is_none_or(|known| now.saturating_duration_since(known.asked) >= ASK_EVERY)
    }

    async fn ask(&mut self, org_month: OrgMonth, queue: &FairQueue, now: Instant) {
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        let mut asked = HashSet::from([org_month]);
        let ahead = queue.firsts().filter_map(month_of).filter(|org_month| self.is_unknown(org_month, now));
        asked.extend(ahead.take(ASKED_MAX - 1));
        let questions: Vec<_> =
            asked.into_iter().map(|org_month| answer(self.redis.clone(), self.parked.clone(), org_month)).collect();
        let answers = join_all(questions).await;
        for (org_month, flag, parked) in answers {
            self.known.insert(org_month, Known { asked: now, flag, parked });
        }
    }

    fn decide(&mut self, org_month: OrgMonth, bytes: u64) -> Option<Verdict> {
        let known = self.known.get(&org_month)?;
        match known.flag? {
            OverQuota::Drop => Some(Verdict::Drop),
            OverQuota::Park => {
                let in_batch = self.in_batch.entry(org_month.0).or_default();
                let parked_bytes = known.parked.bytes + in_batch.bytes + bytes;
                let is_room = parked_bytes <= self.bytes_max
                    && known.parked.envelopes + in_batch.envelopes < quota::ENVELOPES_MAX;
                if !is_room {
                    metrics::over_quota_stored();
                    tracing::warn!(org_id = %org_month.0, parked_bytes = known.parked.bytes, "no room to park more of an org; it is stored");
                    return None;
                }
                *in_batch = ParkedAmount { envelopes: in_batch.envelopes + 1, bytes: in_batch.bytes + bytes };
                Some(Verdict::Park)
            }
        }
    }
}

async fn answer(redis: Redis, parked: ParkedEnvelopes, (org, month): OrgMonth) -> (OrgMonth, Flag, ParkedAmount) {
    let asked = async {
        let flag = quota::read(&redis, org, month).await?;
        let amount = if flag == Some(OverQuota::Park) { parked.amount(org).await? } else { ParkedAmount::default() };
        Ok::<_, RedisError>((flag, amount))
    };
    let (flag, amount) = asked.await.unwrap_or_else(|error| {
        tracing::warn!(org_id = %org, %error, "it is not known whether an org is over its quota; it is stored");
        metrics::redis_failed();
        (None, ParkedAmount::default())
    });
    ((org, month), flag, amount)
}

fn month_of(entry: &fair_queue::ReadEntry) -> Option<OrgMonth> {
    entry.envelope.header().map(|header| (header.org_id, period(header.received_at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quotas(flag: Flag, parked: ParkedAmount) -> (Quotas, OrgMonth) {
        let url = service::settings::parse::redis_url("redis://127.0.0.1:1").unwrap();
        let mut quotas = Quotas::new(stores::redis::connect(&url).unwrap(), 1_000);
        let org_month = (OrgId(uuid::Uuid::from_u128(7)), 202_611);
        quotas.known.insert(org_month, Known { asked: Instant::now(), flag, parked });
        (quotas, org_month)
    }

    #[tokio::test]
    async fn an_envelope_over_quota_is_stored_when_there_is_no_room_to_park_it() {
        let (mut quotas, org_month) = quotas(Some(OverQuota::Park), ParkedAmount { envelopes: 1, bytes: 700 });
        assert_eq!(quotas.decide(org_month, 200), Some(Verdict::Park));
        assert_eq!(quotas.decide(org_month, 200), None, "the batch holds 200 already");
        assert_eq!(quotas.decide(org_month, 100), Some(Verdict::Park), "a smaller one has room");
        quotas.delivered();
        assert!(quotas.is_unknown(&org_month, Instant::now()), "it is asked again how much is parked");
    }

    #[tokio::test]
    async fn envelopes_over_the_parking_limit_are_stored() {
        let parked = ParkedAmount { envelopes: quota::ENVELOPES_MAX - 1, bytes: 0 };
        let (mut quotas, org_month) = quotas(Some(OverQuota::Park), parked);
        assert_eq!(quotas.decide(org_month, 1), Some(Verdict::Park));
        assert_eq!(quotas.decide(org_month, 1), None);
    }

    #[tokio::test]
    async fn dropping_needs_no_parking_room_and_orgs_within_quota_are_stored() {
        let (mut all, org_month) = quotas(Some(OverQuota::Drop), ParkedAmount::default());
        assert_eq!(all.decide(org_month, 5_000), Some(Verdict::Drop));
        let (mut all, org_month) = quotas(None, ParkedAmount::default());
        assert_eq!(all.decide(org_month, 1), None);
        assert_eq!(all.decide((org_month.0, 202_612), 1), None, "another month");
    }
}
