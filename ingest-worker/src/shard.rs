//! The work on one shard: finish what the previous owner began, then read, gather and deliver again and again, until
//! the worker gives the shard up or loses it.
//!
//! Nothing is deleted from the stream before ClickHouse has confirmed the insert into every table. An operation that
//! fails is repeated for as long as it takes. In that time nothing more is gathered, so memory use does not grow, and
//! the stream keeps the rest.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use auth::envelope_key::EnvelopeKeys;
use delivery::intent::Verdict;
use futures_util::future::OptionFuture;
use lease::{LeaseGuard, Leases};
use model::entry_id::EntryId;
use queue::dlq::Reason;
use stores::redis::confirm::ConfirmedConnection;
use stores::redis::{ConnectError, Redis};
use stores::secret::SecretUrl;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::JoinSet;
use wire::envelope::{ContentId, DecodeError, EnvelopeKey};

use crate::backoff::Backoff;
use crate::batch::Batch;
use crate::crash_recovery::{CrashRecovery, Precaution};
use crate::deliverer::{Deliverer, LeaseLost};
use crate::legacy::{DRAINED_BY, Legacy};
use crate::persist::persist;
use crate::quota::Quotas;
use crate::reader::{READ_WAIT_MAX, Reader};
use crate::recent::Recent;
use crate::shared::{MEMORY_UNIT_BYTES, Shared};
use crate::stream::Stream;
use crate::{dead_letter, metrics};

/// How often to check whether Redis has brought back entries that were stored.
const CHECK_BEHIND_EVERY: Duration = Duration::from_secs(5);

/// The servers and keys that the shards are served with.
pub struct Stores {
    /// For the connections that block while they wait, one per shard.
    pub redis_url: SecretUrl,
    /// The connection that all shards share.
    pub redis: Redis,
    /// The connection through which batches are announced; `None` where the plain reply of Redis suffices.
    pub confirmed: Option<ConfirmedConnection>,
    /// Most bytes of dead letters per shard.
    pub dlq_bytes_max: u64,
    /// Most bytes of parked envelopes per org; `None` where monthly limits are not enforced.
    pub parked_bytes_max: Option<u64>,
    /// The envelope keys. No shard is taken before they are there.
    pub envelope_keys: EnvelopeKeys,
    /// Drains the legacy stream.
    pub legacy: Legacy,
}

/// Serves the shards of this worker until `stop` is true.
pub fn serve(
    stores: Stores,
    shared: Shared,
    worker_id: &str,
    stop: &watch::Receiver<bool>,
) -> Result<JoinSet<()>, ConnectError> {
    let mut tasks = JoinSet::new();
    let (throttle, records, stopping) = (shared.throttle.clone(), shared.records.clone(), stop.clone());
    tasks.spawn(persist("throttle", move || throttle.clone().follow(records.clone(), stopping.clone())));
    // A connection of its own, because the renewal of a lease must not wait behind anything slow.
    let leases = Leases::new(stores::redis::connect(&stores.redis_url)?, worker_id);
    let (keys, mut stopped) = (stores.envelope_keys.clone(), stop.clone());
    let work = move |guard: LeaseGuard, key: EnvelopeKey| {
        let (shard, shared) = (guard.shard(), shared.clone());
        let stream = Stream::new(shard, stores.redis.clone(), stores.dlq_bytes_max);
        let stream = stream.confirmed_by(stores.confirmed.clone());
        let redis = stores.redis.clone();
        let quotas = stores.parked_bytes_max.map(|bytes_max| Quotas::new(redis.clone(), bytes_max));
        let connection = stores::redis::connect_waiting(&stores.redis_url, READ_WAIT_MAX);
        let legacy = (shard == DRAINED_BY).then(|| {
            let (legacy, guard, key) = (stores.legacy.clone(), guard.clone(), key.clone());
            persist("legacy", move || legacy.clone().drain(guard.clone(), key.clone()))
        });
        async move {
            match connection {
                Ok(connection) => {
                    let working = async {
                        let reader = Reader::new(shard, connection, key.clone(), shared.read_ahead_max);
                        let recovery = CrashRecovery::new(guard.clone(), redis.clone());
                        let deliverer = Deliverer::new(guard, stream, redis, key, &shared);
                        run(reader, deliverer, recovery, quotas, shared).await;
                    };
                    // The lease is held for as long as this future runs, so it ends with the work on the shard.
                    // Draining the legacy stream may be aborted anywhere, because each of its steps may be repeated.
                    let drained = async {
                        OptionFuture::from(legacy).await;
                        std::future::pending::<()>().await;
                    };
                    tokio::select! {
                        () = working => {}
                        () = drained => {}
                    }
                }
                Err(error) => tracing::error!(shard = shard.number(), %error, "cannot work on a shard"),
            }
        }
    };
    let stop = stop.clone();
    tasks.spawn(async move {
        // Without the key, no entry would look authentic.
        let key = tokio::select! {
            key = keys.wait() => key.clone(),
            _ = stopped.wait_for(|stop| *stop) => return,
        };
        leases.run(stop, move |guard| work(guard, key.clone())).await;
    });
    Ok(tasks)
}

/// Serves a shard until its guard ends. Entries that were read by then and are in no announced batch stay in Redis.
async fn run(reader: Reader, deliverer: Deliverer, recovery: CrashRecovery, quotas: Option<Quotas>, shared: Shared) {
    let shard = deliverer.guard().shard().number();
    let batch = Batch::default();
    let worker = Worker {
        reader,
        deliverer,
        recovery,
        horizon: None,
        quotas,
        shared,
        batch,
        contents: HashSet::new(),
        recent: Recent::default(),
        memory: None,
        delivered: None,
        batches: 0,
        checked_behind: Instant::now(),
    };
    if worker.work().await.is_err() {
        tracing::warn!(shard, "the shard was lost; its next owner goes on with what is under way");
    }
}

struct Worker {
    reader: Reader,
    deliverer: Deliverer,
    recovery: CrashRecovery,
    /// The last entry of the stream when it was read to its end for the first time.
    horizon: Option<EntryId>,
    quotas: Option<Quotas>,
    shared: Shared,
    batch: Batch,
    /// Content ids of the requests in the current batch.
    contents: HashSet<ContentId>,
    /// Content ids of the requests in the recent batches.
    recent: Recent,
    memory: Option<OwnedSemaphorePermit>,
    /// When this shard's last delivery began.
    delivered: Option<Instant>,
    /// How many batches this owner has announced.
    batches: u64,
    checked_behind: Instant,
}

impl Worker {
    async fn work(mut self) -> Result<(), LeaseLost> {
        self.recover_from_crashes().await;
        self.deliverer.finish_batch_under_way().await?;
        self.recent = self.deliverer.recent().await?;
        while self.deliverer.guard().is_wanted() {
            // The task that renews the lease may not have noticed yet: it cannot run while the runtime's threads are
            // busy here.
            if !self.deliverer.guard().holds() {
                return Err(LeaseLost);
            }
            let now = Instant::now();
            let wait = self.batch.time_left(&self.shared.limits, now).unwrap_or(READ_WAIT_MAX).min(READ_WAIT_MAX);
            self.read(wait).await?;
            let is_full = self.gather().await?;
            if is_full || self.batch.is_due(&self.shared.limits, Instant::now()) {
                self.deliver().await?;
            }
            self.forget_crashes_once_done().await?;
            self.expect_none_behind().await?;
        }
        Ok(())
    }

    /// Checks now and then whether the stream has entries again that were stored.
    async fn expect_none_behind(&mut self) -> Result<(), LeaseLost> {
        if self.checked_behind.elapsed() < CHECK_BEHIND_EVERY {
            return Ok(());
        }
        self.checked_behind = Instant::now();
        let waiting = [self.batch.oldest(), self.reader.queue.oldest()];
        self.deliverer.expect_none_behind(self.reader.queue.read_to(), waiting.into_iter().flatten().min()).await
    }

    /// Pauses before any work, when the work on this shard has crashed several times.
    async fn recover_from_crashes(&self) {
        let (guard, pause) = (self.deliverer.guard(), self.recovery.pause());
        let (shard, crashes) = (guard.shard(), guard.crashes());
        metrics::shard_crashes(shard, crashes);
        if self.recovery.is_careful() {
            let shard = shard.number();
            tracing::error!(shard, crashes, ?pause, "the work on a shard has crashed again and again; being careful");
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = guard.ended() => {}
        }
    }

    /// Forgets the crashes when all entries are done that were waiting at the beginning.
    async fn forget_crashes_once_done(&mut self) -> Result<(), LeaseLost> {
        if !self.recovery.has_crashed() {
            return Ok(());
        }
        if self.horizon.is_none() && self.reader.is_at_end() {
            self.horizon = Some(self.reader.queue.read_to());
        }
        let is_past = |horizon| self.reader.queue.oldest().is_none_or(|oldest| oldest > horizon);
        if self.batch.is_empty() && self.horizon.is_some_and(is_past) {
            let mut backoff = Backoff::new();
            while let Err(error) = self.recovery.forget_crashes().await {
                self.deliverer.wait_for_redis(&mut backoff, "forget crashes", &error.into()).await?;
            }
            metrics::shard_crashes(self.deliverer.guard().shard(), 0);
        }
        Ok(())
    }

    /// Writes down that an entry is about to be processed. Repeats until Redis answers.
    async fn record_attempt(&self, entry: EntryId) -> Result<Precaution, LeaseLost> {
        let mut backoff = Backoff::new();
        loop {
            match self.recovery.record_attempt(entry).await {
                Ok(Precaution::LeaseLost) => return Err(LeaseLost),
                Ok(precaution) => return Ok(precaution),
                Err(error) => self.deliverer.wait_for_redis(&mut backoff, "note an entry", &error.into()).await?,
            }
        }
    }

    async fn read(&mut self, wait: Duration) -> Result<(), LeaseLost> {
        let mut backoff = Backoff::new();
        loop {
            let ended = self.deliverer.guard().clone();
            let read = tokio::select! {
                read = self.reader.read(wait) => read,
                // A read leaves no trace in Redis, so it may be aborted.
                () = ended.ended() => return Ok(()),
            };
            match read {
                Ok(()) => return Ok(()),
                Err(error) => self.deliverer.wait_for_redis(&mut backoff, "read", &error).await?,
            }
        }
    }

    /// Moves entries from the fair queue into the batch, org by org. True if the batch is full.
    async fn gather(&mut self) -> Result<bool, LeaseLost> {
        while let Some(entry) = self.reader.queue.pop() {
            let org = entry.envelope.header().map(|header| header.org_id);
            match self.record_attempt(entry.id).await? {
                Precaution::Alone if !self.batch.is_empty() => {
                    self.reader.queue.put_back(entry);
                    return Ok(true);
                }
                Precaution::DeadLetter(tries) => {
                    let detail = format!("{tries} workers in a row crashed as soon as they looked at it");
                    let letter = dead_letter::describe(entry.id, org, Reason::CrashedWorker, 0, &detail);
                    self.deliverer.dead_letter(&letter).await?;
                    continue;
                }
                Precaution::None | Precaution::Alone | Precaution::LeaseLost => {}
            }
            #[cfg(debug_assertions)]
            crate::crash::on(&entry);
            let envelope = match entry.envelope.decode() {
                Ok(envelope) => envelope,
                Err(error) => {
                    let reason = match error {
                        DecodeError::Unauthenticated => Reason::Unauthenticated,
                        _ => Reason::Unreadable,
                    };
                    let letter = dead_letter::describe(entry.id, org, reason, 0, &error.to_string());
                    self.deliverer.dead_letter(&letter).await?;
                    continue;
                }
            };
            let fits =
                self.batch.has_room(&self.shared.limits, &envelope) && self.reserve(envelope.expanded_len()).await?;
            if !fits {
                self.reader.queue.put_back(entry);
                return Ok(true);
            }
            if self.batch.is_empty() {
                self.batch = Batch::reusing(
                    self.shared.block_pool.take(),
                    self.delivered.map(|at| at + self.shared.throttle.between_inserts(self.shared.limits.age)),
                );
            }
            let content = envelope.header.content_id;
            let is_repeated = !content.is_none() && (self.recent.contains(content) || self.contents.contains(&content));
            let verdict = match &mut self.quotas {
                _ if is_repeated => Some(Verdict::Repeated),
                Some(quotas) => quotas.verdict(&envelope, entry.envelope.len(), &self.reader.queue).await,
                None => None,
            };
            if !content.is_none() && !is_repeated {
                self.contents.insert(content);
            }
            self.batch.add(entry.id, &envelope, verdict, Instant::now());
            if self.batch.is_full(&self.shared.limits) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reserves memory for an envelope. False if there is none before this shard delivers what it holds.
    async fn reserve(&mut self, bytes: usize) -> Result<bool, LeaseLost> {
        // An envelope larger than the whole budget reserves the whole budget.
        let units = bytes.div_ceil(MEMORY_UNIT_BYTES).min(self.shared.memory_max / MEMORY_UNIT_BYTES);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let permit = match Arc::clone(&self.shared.memory).try_acquire_many_owned(units) {
            Ok(permit) => permit,
            Err(_) if !self.batch.is_empty() => return Ok(false),
            Err(_) => {
                tokio::select! {
                    permit = Arc::clone(&self.shared.memory).acquire_many_owned(units) => permit.map_err(|_| LeaseLost)?,
                    () = self.deliverer.guard().ended() => return Err(LeaseLost),
                }
            }
        };
        match &mut self.memory {
            Some(reserved) => reserved.merge(permit),
            None => self.memory = Some(permit),
        }
        Ok(true)
    }

    /// Delivers the batch. Reading goes on meanwhile, so that orgs behind a flood are seen.
    async fn deliver(&mut self) -> Result<(), LeaseLost> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.delivered = Some(Instant::now());
        self.batches += 1;
        let (intent, blocks) = std::mem::take(&mut self.batch).into_parts(self.reader.queue.oldest());
        let recent = self.recent.announce(unix_ms(), self.contents.drain().collect());
        let emptied = tokio::select! {
            emptied = self.deliverer.deliver(self.batches, intent, recent, blocks) => emptied?,
            never = self.reader.read_ahead() => match never {},
        };
        self.memory = None;
        if let Some(quotas) = &mut self.quotas {
            quotas.delivered();
        }
        self.shared.block_pool.give(emptied);
        Ok(())
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
