//! Counts items in entries of streams, dead letters and parked envelopes, by reading each of them.

use std::collections::HashSet;
use std::sync::LazyLock;

use model::ids::OrgId;
use model::shard::Shard;
use queue::dlq::{DeadLetters, Listed, Source, Walk};
use redis::{Script, Value};
use stores::clock::hour_of;
use stores::keys::RedisKey;
use stores::redis::Redis;
use wire::envelope::{ENVELOPE_FIELD, claims};
use wire::tables::BILLING_METER;

use super::LedgerError;
use super::balance::{Counts, Group, Hours};
use super::filter::Filter;

static WAITING: LazyLock<Script> = LazyLock::new(|| script(include_str!("waiting.lua")));
static PARKED: LazyLock<Script> = LazyLock::new(|| script(include_str!("parked.lua")));

/// The most bytes of envelopes that one call reads. Redis does nothing else meanwhile: some milliseconds.
pub const PAGE_BYTES: u64 = 4 << 20;
/// The most entries that one call reads.
const PAGE_ENTRIES: u64 = 500;
/// The most entries of a stream, or dead letters of a shard, that are read. Further ones are in flight as well, but
/// their orgs are unknown.
pub const SCAN_ENTRIES_MAX: u64 = 10_000;
/// The most bytes of a stream, or of an org's parked envelopes, that are read.
pub const SCAN_BYTES_MAX: u64 = 64 << 20;

fn script(text: &str) -> Script {
    Script::new(&format!("#!lua flags=no-writes\n{}\n{text}", include_str!("cut.lua")))
}

/// Reads what is in transit, for those orgs and hours.
pub(super) struct Transit<'a> {
    redis: &'a Redis,
    filter: Filter<'a>,
    hours: &'a Hours,
    /// Whether everything was read.
    pub(super) is_complete: bool,
    /// The number of entries that could not be decoded.
    pub(super) unreadable: u64,
}

impl<'a> Transit<'a> {
    pub(super) const fn new(redis: &'a Redis, filter: Filter<'a>, hours: &'a Hours) -> Self {
        Self { redis, filter, hours, is_complete: true, unreadable: 0 }
    }

    /// The items in all streams.
    pub(super) async fn in_flight<G: Group>(&mut self) -> Result<Counts<G>, LedgerError> {
        let mut counts = Counts::new();
        for shard in Shard::all() {
            self.waiting(shard, &mut counts).await?;
        }
        Ok(counts)
    }

    /// The entries that the stream has at the start, without those appended later.
    async fn waiting<G: Group>(&mut self, shard: Shard, counts: &mut Counts<G>) -> Result<(), LedgerError> {
        let (mut from, mut until) = ("-".to_owned(), None::<String>);
        let (mut entries, mut bytes) = (0, 0);
        loop {
            let mut call = WAITING.key(RedisKey::shard_stream(shard));
            call.arg(&from).arg(until.as_deref().unwrap_or("+")).arg(PAGE_ENTRIES).arg(PAGE_BYTES);
            call.arg(ENVELOPE_FIELD).arg(BILLING_METER.id);
            let reply: Vec<Value> = call.invoke_async(&mut self.redis.clone()).await?;
            let mut reply = reply.into_iter();
            let last: String = next(&mut reply)?;
            let seen: String = next(&mut reply)?;
            bytes += next::<u64>(&mut reply)?;
            for envelope in reply {
                entries += 1;
                self.count(&redis::from_redis_value::<Vec<u8>>(envelope).map_err(redis::RedisError::from)?, counts);
            }
            let until = until.get_or_insert(last);
            if seen.is_empty() || seen == *until {
                return Ok(());
            }
            if entries >= SCAN_ENTRIES_MAX || bytes >= SCAN_BYTES_MAX {
                self.is_complete = false;
                return Ok(());
            }
            from = format!("({seen}");
        }
    }

    /// The items in an org's parked envelopes.
    pub(super) async fn parked<G: Group>(&mut self, org: OrgId, counts: &mut Counts<G>) -> Result<(), LedgerError> {
        let (mut cursor, mut bytes, mut seen) = ("0".to_owned(), 0, HashSet::new());
        loop {
            let mut call = PARKED.key(RedisKey::quota_parked(org));
            call.arg(&cursor).arg(PAGE_BYTES).arg(BILLING_METER.id);
            let reply: Vec<Value> = call.invoke_async(&mut self.redis.clone()).await?;
            let mut reply = reply.into_iter();
            cursor = next(&mut reply)?;
            bytes += next::<u64>(&mut reply)?;
            while reply.len() > 0 {
                let field: Vec<u8> = next(&mut reply)?;
                let envelope: Vec<u8> = next(&mut reply)?;
                if seen.insert(field) {
                    self.count(&envelope, counts);
                }
            }
            if cursor == "0" {
                return Ok(());
            }
            if bytes >= SCAN_BYTES_MAX {
                self.is_complete = false;
                return Ok(());
            }
        }
    }

    /// The items in the shards' dead letters. Dead letters of the legacy stream were never accepted into a shard.
    pub(super) async fn letters<G: Group>(&mut self) -> Result<Counts<G>, LedgerError> {
        let mut counts = Counts::new();
        for shard in Shard::all() {
            let mut walk = Walk::new(DeadLetters::new(self.redis.clone()), [Source::Shard(shard)]);
            let mut letters = 0;
            while let Some(page) = walk.next().await? {
                letters += page.len() as u64;
                for letter in &page {
                    self.count_letter(letter, &mut counts);
                }
                if letters >= SCAN_ENTRIES_MAX {
                    self.is_complete = false;
                    break;
                }
            }
        }
        Ok(counts)
    }

    fn count_letter<G: Group>(&mut self, letter: &Listed, counts: &mut Counts<G>) {
        let description = &letter.description;
        let Some(org) = description.org.filter(|_| description.items > 0) else {
            self.unreadable += 1;
            return;
        };
        // If only other tables lack its rows, the letter is billed, so it counts as stored.
        if description.tables.is_empty() || description.tables.contains(&BILLING_METER.id) {
            self.add(org, letter.hour(), description.items, counts);
        }
    }

    fn count<G: Group>(&mut self, envelope: &[u8], counts: &mut Counts<G>) {
        // Redis returned only the start of the envelope, so its authentication code cannot be checked: count what it
        // claims, until a worker reads it.
        match claims(envelope) {
            Ok(claims) => self.add(claims.header.org_id, hour_of(claims.header.received_at), claims.items, counts),
            Err(_) => self.unreadable += 1,
        }
    }

    fn add<G: Group>(&self, org: OrgId, hour: i64, items: u64, counts: &mut Counts<G>) {
        if items > 0 && self.filter.contains(org) && self.hours.contains(hour) {
            *counts.entry((G::from(org), hour)).or_default() += items;
        }
    }
}

fn next<T: redis::FromRedisValue>(reply: &mut impl Iterator<Item = Value>) -> Result<T, redis::RedisError> {
    let missing =
        || redis::RedisError::from((redis::ErrorKind::UnexpectedReturnType, "a part of the reply is missing"));
    Ok(redis::from_redis_value(reply.next().ok_or_else(missing)?)?)
}
