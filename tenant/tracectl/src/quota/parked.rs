//! `tracectl quota parked` and `release`.

use std::collections::BTreeMap;

use model::ids::OrgId;
use model::meter::{Meter, period};
use quota::reconcile::counter;
use quota::{ParkedEnvelopes, ParkedId};
use registry::event::{EventType, NewEvent};
use registry::{LIST_MAX, Limit, Limits, OrgSummary, Registry};
use serde::Serialize;
use serde_json::json;
use stores::redis::Redis;
use wire::envelope::{DecodeError, EnvelopeKey, Verified};

use crate::environment::REDIS;
use crate::failure::Failure;
use crate::output::Answer;

/// Progress is printed after this many envelopes.
const TELL_EVERY: u64 = 1_000;

/// The parked envelopes of an org that were received in one month.
#[derive(Debug, Default, Serialize)]
struct ParkedLine {
    slug: String,
    month: u32,
    envelopes: u64,
    /// The number of runs and spans in them.
    items: u64,
    bytes: u64,
}

/// The header data of an envelope.
struct EnvelopeUsage {
    month: u32,
    /// The billed units by meter, in the order of [`Meter::INGEST`].
    billed: [u64; Meter::INGEST.len()],
}

impl EnvelopeUsage {
    fn of(envelope: &Verified<Vec<u8>>) -> Result<Self, DecodeError> {
        let mut billed = [0; Meter::INGEST.len()];
        for (sum, meter) in billed.iter_mut().zip(Meter::INGEST) {
            *sum = envelope.billed(meter)?;
        }
        Ok(Self { month: period(envelope.header().received_at), billed })
    }
}

/// A parked envelope and its header data. An unreadable one stays parked, and is reported.
fn read(key: &EnvelopeKey, id: ParkedId, bytes: Vec<u8>) -> Option<(Verified<Vec<u8>>, EnvelopeUsage)> {
    let envelope = Verified::check(key, bytes).map_err(|unverified| unverified.error);
    let read = envelope.and_then(|envelope| EnvelopeUsage::of(&envelope).map(|sizes| (envelope, sizes)));
    read.inspect_err(|error| eprintln!("{id} stays parked: {error}")).ok()
}

fn redis_failed(error: redis::RedisError) -> Failure {
    Failure::new(format!("Redis: {error}"), format!("check {REDIS} and repeat the command: what was done is done once"))
}

/// Lists parked envelopes, of one org or of all.
pub(super) async fn list(registry: &Registry, redis: Redis, org: Option<&str>) -> Result<Answer, Failure> {
    let (parked, key) = (ParkedEnvelopes::new(redis), registry.envelope_key().await?);
    let mut lines = Vec::new();
    match org {
        Some(org) => lines.extend(of_org(&parked, &key, &registry.find_org(org).await?).await?),
        None => {
            let mut after: Option<String> = None;
            loop {
                let page = registry.orgs(None, after.as_deref()).await?;
                for org in &page {
                    lines.extend(of_org(&parked, &key, org).await?);
                }
                after = page.last().map(|org| org.slug.clone());
                if page.len() < LIST_MAX as usize {
                    break;
                }
            }
        }
    }
    let headings = ["ORG", "MONTH", "ENVELOPES", "ITEMS", "BYTES"];
    let rows = lines.iter().map(|line| {
        [
            line.slug.clone(),
            line.month.to_string(),
            line.envelopes.to_string(),
            line.items.to_string(),
            line.bytes.to_string(),
        ]
    });
    Ok(Answer::table(json!({ "parked": lines }), &headings, rows.collect()))
}

async fn of_org(parked: &ParkedEnvelopes, key: &EnvelopeKey, org: &OrgSummary) -> Result<Vec<ParkedLine>, Failure> {
    if parked.amount(org.org_id).await.map_err(redis_failed)?.envelopes == 0 {
        return Ok(Vec::new());
    }
    let mut months = BTreeMap::<u32, ParkedLine>::new();
    for id in parked.ids(org.org_id).await.map_err(redis_failed)? {
        let Some(bytes) = parked.read(org.org_id, id).await.map_err(redis_failed)? else { continue };
        let size = bytes.len() as u64;
        let Some((_, EnvelopeUsage { month, billed: [items, ..] })) = read(key, id, bytes) else { continue };
        let line = months.entry(month).or_default();
        (line.slug, line.month) = (org.slug.clone(), month);
        line.envelopes += 1;
        line.items += items;
        line.bytes += size;
    }
    Ok(months.into_values().collect())
}

/// How much more of each meter a month allows, cached per month.
struct RemainingQuota<'a> {
    redis: &'a Redis,
    org: OrgId,
    limits: &'a Limits,
    left: BTreeMap<u32, [Option<u64>; Meter::INGEST.len()]>,
}

impl RemainingQuota<'_> {
    /// Uses up room for an envelope. False if there is not enough.
    async fn take(&mut self, sizes: &EnvelopeUsage) -> Result<bool, Failure> {
        if !self.left.contains_key(&sizes.month) {
            let left = self.ask(sizes.month).await?;
            self.left.insert(sizes.month, left);
        }
        let Some(left) = self.left.get_mut(&sizes.month) else { return Ok(false) };
        let is_room = left.iter().zip(sizes.billed).all(|(left, cost)| left.is_none_or(|left| cost <= left));
        if is_room {
            left.iter_mut().zip(sizes.billed).for_each(|(left, cost)| *left = left.map(|left| left - cost));
        }
        Ok(is_room)
    }

    async fn ask(&self, month: u32) -> Result<[Option<u64>; Meter::INGEST.len()], Failure> {
        let mut left = [None; Meter::INGEST.len()];
        for (left, meter) in left.iter_mut().zip(Meter::INGEST) {
            let of = |limit: &&registry::MeterLimit| limit.meter.as_str() == meter.as_str();
            let Some(found) = self.limits.meters.iter().find(of) else { continue };
            if let Limit::AtMost(limit) = found.limited.limit {
                let used = counter(self.redis, self.org, month, found.meter).await.map_err(redis_failed)?;
                *left = Some(limit.saturating_sub(used.unwrap_or_default()));
            }
        }
        Ok(left)
    }
}

/// The result of a release.
#[derive(Default, Serialize)]
struct Released {
    released: u64,
    items: u64,
    /// Envelopes that another process released meanwhile.
    gone: u64,
    still_parked: u64,
}

/// Releases an org's parked envelopes, the oldest of each shard first.
pub(super) async fn release(
    registry: &Registry,
    redis: Redis,
    org: &str,
    most: Option<u64>,
    force: bool,
    actor: &str,
) -> Result<Answer, Failure> {
    let org = registry.find_org(org).await?;
    let (org_id, slug) = (org.org_id, &org.slug);
    let (limits, key) = (registry.limits(org_id).await?, registry.envelope_key().await?);
    let parked = ParkedEnvelopes::new(redis.clone());
    parked.end_releases(org_id).await.map_err(redis_failed)?;
    let ids = parked.ids(org_id).await.map_err(redis_failed)?;
    let all = ids.len() as u64;
    let most = most.unwrap_or(all).min(all);
    let mut room = RemainingQuota { redis: &redis, org: org_id, limits: &limits, left: BTreeMap::new() };
    let (mut done, mut is_full) = (Released::default(), false);
    for id in ids.into_iter().take(usize::try_from(most).unwrap_or(usize::MAX)) {
        let Some(envelope) = parked.read(org_id, id).await.map_err(redis_failed)? else {
            done.gone += 1;
            continue;
        };
        let Some((envelope, sizes)) = read(&key, id, envelope) else { continue };
        if !force && !room.take(&sizes).await? {
            is_full = true;
            break;
        }
        if done.released == 0 {
            // The audit event comes first: without it, no release.
            let event = NewEvent::new(Some(org_id), EventType::QuotaRelease, actor);
            let event = event.with_detail(json!({ "envelopes_at_most": most, "force": force }));
            registry.record_events(Some(org_id), &[event]).await?;
        }
        parked.release(org_id, id, &envelope, &key).await.map_err(redis_failed)?;
        done.released += 1;
        done.items += sizes.billed[0];
        if done.released % TELL_EVERY == 0 {
            eprintln!("{} of {most} envelopes", done.released);
        }
    }
    done.still_parked = all - done.released - done.gone;
    let next = format!("raise its limits (tracectl limits set {slug}), wait for next month, or use --force");
    if is_full && done.released == 0 {
        return Err(Failure::new(format!("{slug} would be over its monthly limits again"), next));
    }
    let fields = [
        ("released", done.released.to_string()),
        ("items", done.items.to_string()),
        ("gone before", done.gone.to_string()),
        ("still parked", done.still_parked.to_string()),
    ];
    let answer = Answer::record(&done, &fields)?;
    Ok(if is_full {
        answer.note(format!("with more, {slug} would be over its monthly limits again; {next}"))
    } else {
        answer
    })
}
