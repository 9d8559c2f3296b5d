//! Whose envelopes are set aside, because their org is over a monthly limit after it was let pass: what the
//! reconciler's flags say, asked for once a second and org.
//!
//! A flag that cannot be read says nothing: then the envelopes are stored. So are those that there is no room for among
//! the parked ones: a limit is worth less than data that was accepted. The verdict is written down with the batch; here
//! it is only found.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use model::ids::OrgId;
use model::meter::period;
use model::org::OverQuota;
use quota::{self, Flag, Held, Parked};
use redis::RedisError;
use stores::redis::Redis;
use wire::envelope::Envelope;

use crate::metrics;
use crate::window::{self, Window};
use delivery::intent::Verdict;

/// How long an answer holds.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Orgs that are asked about at once.
const ASKED_MAX: usize = 256;
/// Answers that are kept.
const KNOWN_MAX: usize = 10_000;

/// An org in a month.
type Whose = (OrgId, u32);

/// Finds verdicts for one shard.
#[derive(Debug)]
pub struct Quotas {
    redis: Redis,
    parked: Parked,
    /// How many bytes of an org may be parked.
    bytes_max: u64,
    known: HashMap<Whose, Known>,
    /// What the present batch parks, which is not among the parked envelopes yet.
    in_batch: HashMap<OrgId, Held>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    asked: Instant,
    flag: Flag,
    held: Held,
}

impl Quotas {
    /// Asks that Redis, and lets that many bytes of an org be parked.
    pub fn new(redis: Redis, bytes_max: u64) -> Self {
        let parked = Parked::new(redis.clone());
        Self { redis, parked, bytes_max, known: HashMap::new(), in_batch: HashMap::new() }
    }

    /// What becomes of an envelope instead of being stored, if anything. What else is in the window is asked about on
    /// the way.
    pub async fn verdict(&mut self, envelope: &Envelope<'_>, bytes: usize, window: &Window) -> Option<Verdict> {
        if envelope.is_exempt {
            return None;
        }
        let whose = (envelope.header.org_id, period(envelope.header.received_at));
        let now = Instant::now();
        if self.is_unknown(&whose, now) {
            self.ask(whose, window, now).await;
        }
        self.decide(whose, bytes as u64)
    }

    /// The batch is delivered: what it parks is among the parked envelopes.
    pub fn delivered(&mut self) {
        let in_batch = std::mem::take(&mut self.in_batch);
        self.known.retain(|(org, _), _| !in_batch.contains_key(org));
    }

    fn is_unknown(&self, whose: &Whose, now: Instant) -> bool {
        self.known.get(whose).is_none_or(|known| now.saturating_duration_since(known.asked) >= ASK_EVERY)
    }

    async fn ask(&mut self, whose: Whose, window: &Window, now: Instant) {
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        let mut asked = HashSet::from([whose]);
        let ahead = window.firsts().filter_map(month_of).filter(|whose| self.is_unknown(whose, now));
        asked.extend(ahead.take(ASKED_MAX - 1));
        let questions: Vec<_> =
            asked.into_iter().map(|whose| answer(self.redis.clone(), self.parked.clone(), whose)).collect();
        let answers = join_all(questions).await;
        for (whose, flag, held) in answers {
            self.known.insert(whose, Known { asked: now, flag, held });
        }
    }

    fn decide(&mut self, whose: Whose, bytes: u64) -> Option<Verdict> {
        let known = self.known.get(&whose)?;
        match known.flag? {
            OverQuota::Drop => Some(Verdict::Drop),
            OverQuota::Park => {
                let in_batch = self.in_batch.entry(whose.0).or_default();
                let held = known.held.bytes + in_batch.bytes + bytes;
                let is_room =
                    held <= self.bytes_max && known.held.envelopes + in_batch.envelopes < quota::ENVELOPES_MAX;
                if !is_room {
                    metrics::over_quota_stored();
                    tracing::warn!(org_id = %whose.0, held = known.held.bytes, "no room to park more of an org; it is stored");
                    return None;
                }
                *in_batch = Held { envelopes: in_batch.envelopes + 1, bytes: in_batch.bytes + bytes };
                Some(Verdict::Park)
            }
        }
    }
}

async fn answer(redis: Redis, parked: Parked, (org, month): Whose) -> (Whose, Flag, Held) {
    let asked = async {
        let flag = quota::read(&redis, org, month).await?;
        let held = if flag == Some(OverQuota::Park) { parked.held(org).await? } else { Held::default() };
        Ok::<_, RedisError>((flag, held))
    };
    let (flag, held) = asked.await.unwrap_or_else(|error| {
        tracing::warn!(org_id = %org, %error, "it is not known whether an org is over its quota; it is stored");
        metrics::redis_failed();
        (None, Held::default())
    });
    ((org, month), flag, held)
}

fn month_of(held: &window::Held) -> Option<Whose> {
    held.envelope.header().map(|header| (header.org_id, period(header.received_at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quotas(flag: Flag, held: Held) -> (Quotas, Whose) {
        let url = service::settings::parse::redis_url("redis://127.0.0.1:1").unwrap();
        let mut quotas = Quotas::new(stores::redis::connect(&url).unwrap(), 1_000);
        let whose = (OrgId(uuid::Uuid::from_u128(7)), 202_611);
        quotas.known.insert(whose, Known { asked: Instant::now(), flag, held });
        (quotas, whose)
    }

    #[tokio::test]
    async fn what_finds_no_room_is_stored() {
        let (mut quotas, whose) = quotas(Some(OverQuota::Park), Held { envelopes: 1, bytes: 700 });
        assert_eq!(quotas.decide(whose, 200), Some(Verdict::Park));
        assert_eq!(quotas.decide(whose, 200), None, "the batch holds 200 already");
        assert_eq!(quotas.decide(whose, 100), Some(Verdict::Park), "a smaller one has room");
        quotas.delivered();
        assert!(quotas.is_unknown(&whose, Instant::now()), "it is asked again how much is parked");
    }

    #[tokio::test]
    async fn only_so_many_envelopes_are_parked() {
        let held = Held { envelopes: quota::ENVELOPES_MAX - 1, bytes: 0 };
        let (mut quotas, whose) = quotas(Some(OverQuota::Park), held);
        assert_eq!(quotas.decide(whose, 1), Some(Verdict::Park));
        assert_eq!(quotas.decide(whose, 1), None);
    }

    #[tokio::test]
    async fn drops_need_no_room_and_others_are_stored() {
        let (mut all, whose) = quotas(Some(OverQuota::Drop), Held::default());
        assert_eq!(all.decide(whose, 5_000), Some(Verdict::Drop));
        let (mut all, whose) = quotas(None, Held::default());
        assert_eq!(all.decide(whose, 1), None);
        assert_eq!(all.decide((whose.0, 202_612), 1), None, "another month");
    }
}
