//! The life of one shard in this worker's hands: finish what a predecessor began, then read, gather and deliver, again
//! and again, until the shard is given up or lost.
//!
//! Nothing is deleted from the stream before ClickHouse has confirmed the insert of every table. Whatever fails is
//! tried again for as long as it takes; meanwhile no more is gathered, so memory stays where it is and the stream holds
//! the rest.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use auth::envelope_key::EnvelopeKeys;
use futures_util::future::OptionFuture;
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
use crate::care::{Care, Look};
use crate::carrier::{Carrier, Gone};
use crate::dead_letter;
use crate::feed::{Feed, READ_WAIT_MAX};
use crate::legacy::{DRAINED_BY, Legacy};
use crate::metrics;
use crate::persist::persist;
use crate::quota::Quotas;
use crate::recent::Recent;
use crate::shared::{MEMORY_UNIT_BYTES, Shared};
use crate::stream::Stream;
use delivery::intent::Verdict;
use lease::{Leases, Tenure};

/// How often it is looked whether Redis has brought back what was stored.
const LOOK_BEHIND_EVERY: Duration = Duration::from_secs(5);

/// Where shards are.
pub struct Stores {
    /// For the connections that wait, of which every shard has one.
    pub redis_url: SecretUrl,
    /// The connection that all shards share.
    pub redis: Redis,
    /// By way of which batches are written down; `None` where Redis' reply says enough.
    pub confirmed: Option<ConfirmedConnection>,
    /// Bytes of dead letters per shard.
    pub dlq_bytes_max: u64,
    /// Bytes of envelopes of an org that is over its quota; none where a monthly limit refuses nobody.
    pub parked_bytes_max: Option<u64>,
    /// The key of envelopes: until it is there, no shard is taken.
    pub envelope_keys: EnvelopeKeys,
    /// What drains the stream of envelopes written before tenancy.
    pub legacy: Legacy,
}

/// Serves the shards of this worker's share until told to stop.
pub fn serve(
    stores: Stores,
    shared: Shared,
    worker_id: &str,
    stop: &watch::Receiver<bool>,
) -> Result<JoinSet<()>, ConnectError> {
    let mut tasks = JoinSet::new();
    let (pace, records, stopping) = (shared.pace.clone(), shared.records.clone(), stop.clone());
    tasks.spawn(persist("pace", move || pace.clone().follow(records.clone(), stopping.clone())));
    // Renewing a lease must not wait behind anything slow.
    let leases = Leases::new(stores::redis::connect(&stores.redis_url)?, worker_id);
    let (keys, mut stopped) = (stores.envelope_keys.clone(), stop.clone());
    let work = move |tenure: Tenure, key: EnvelopeKey| {
        let (shard, shared) = (tenure.shard(), shared.clone());
        let stream = Stream::new(shard, stores.redis.clone(), stores.dlq_bytes_max);
        let stream = stream.confirmed_by(stores.confirmed.clone());
        let redis = stores.redis.clone();
        let quotas = stores.parked_bytes_max.map(|bytes_max| Quotas::new(redis.clone(), bytes_max));
        let reader = stores::redis::connect_waiting(&stores.redis_url, READ_WAIT_MAX);
        let legacy = (shard == DRAINED_BY).then(|| {
            let (legacy, tenure, key) = (stores.legacy.clone(), tenure.clone(), key.clone());
            persist("legacy", move || legacy.clone().drain(tenure.clone(), key.clone()))
        });
        async move {
            match reader {
                Ok(reader) => {
                    let working = async {
                        let feed = Feed::new(shard, reader, key.clone(), shared.window_max);
                        let care = Care::new(tenure.clone(), redis.clone());
                        let carrier = Carrier::new(tenure, stream, redis, key, &shared);
                        run(feed, carrier, care, quotas, shared).await;
                    };
                    // The lease is kept for as long as this future runs, so it ends with the work on the shard. What is
                    // drained may be broken off anywhere: every step of it may be repeated.
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
        // Without it every entry would look as if somebody else had written it.
        let key = tokio::select! {
            key = keys.wait() => key.clone(),
            _ = stopped.wait_for(|stop| *stop) => return,
        };
        leases.run(stop, move |tenure| work(tenure, key.clone())).await;
    });
    Ok(tasks)
}

/// Serves a shard until its tenure ends. What was read by then and is not announced stays in Redis.
async fn run(feed: Feed, carrier: Carrier, care: Care, quotas: Option<Quotas>, shared: Shared) {
    let shard = carrier.tenure().shard().number();
    let batch = Batch::default();
    let worker = Worker {
        feed,
        carrier,
        care,
        horizon: None,
        quotas,
        shared,
        batch,
        contents: HashSet::new(),
        recent: Recent::default(),
        memory: None,
        delivered: None,
        batches: 0,
        looked_behind: Instant::now(),
    };
    if worker.work().await.is_err() {
        tracing::warn!(shard, "the shard was lost; its next owner goes on with what is under way");
    }
}

struct Worker {
    feed: Feed,
    carrier: Carrier,
    care: Care,
    /// The last entry that was waiting when the stream was read to its end for the first time.
    horizon: Option<EntryId>,
    quotas: Option<Quotas>,
    shared: Shared,
    batch: Batch,
    /// The content of the batch's requests, as far as they may be sent again.
    contents: HashSet<ContentId>,
    /// The same of the batches before.
    recent: Recent,
    memory: Option<OwnedSemaphorePermit>,
    /// When this shard's last delivery began.
    delivered: Option<Instant>,
    /// Batches announced in this tenure.
    batches: u64,
    looked_behind: Instant,
}

impl Worker {
    async fn work(mut self) -> Result<(), Gone> {
        self.recover_from_crashes().await;
        self.carrier.finish_what_was_begun().await?;
        self.recent = self.carrier.recent().await?;
        while self.carrier.tenure().is_wanted() {
            // Not noticed by its keeper yet, who cannot run as long as the workers of the runtime go round here.
            if !self.carrier.tenure().holds() {
                return Err(Gone);
            }
            let now = Instant::now();
            let wait = self.batch.time_left(&self.shared.limits, now).unwrap_or(READ_WAIT_MAX).min(READ_WAIT_MAX);
            self.read(wait).await?;
            let is_full = self.gather().await?;
            if is_full || self.batch.is_due(&self.shared.limits, Instant::now()) {
                self.deliver().await?;
            }
            self.calm_down().await?;
            self.look_behind().await?;
        }
        Ok(())
    }

    /// Looks now and then whether the stream has entries that were dealt with.
    async fn look_behind(&mut self) -> Result<(), Gone> {
        if self.looked_behind.elapsed() < LOOK_BEHIND_EVERY {
            return Ok(());
        }
        self.looked_behind = Instant::now();
        let held = [self.batch.oldest(), self.feed.window.oldest()];
        self.carrier.expect_none_behind(self.feed.window.read_to(), held.into_iter().flatten().min()).await
    }

    /// Waits before anything is done, when the work on this shard has crashed again and again.
    async fn recover_from_crashes(&self) {
        let (tenure, pause) = (self.carrier.tenure(), self.care.pause());
        let (shard, crashes) = (tenure.shard(), tenure.crashes());
        metrics::shard_crashes(shard, crashes);
        if self.care.is_on() {
            let shard = shard.number();
            tracing::error!(shard, crashes, ?pause, "the work on a shard has crashed again and again; being careful");
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = tenure.ended() => {}
        }
    }

    /// Forgets crashes when all that was waiting then is done.
    async fn calm_down(&mut self) -> Result<(), Gone> {
        if !self.care.has_crashed() {
            return Ok(());
        }
        if self.horizon.is_none() && self.feed.is_at_end() {
            self.horizon = Some(self.feed.window.read_to());
        }
        let is_past = |horizon| self.feed.window.oldest().is_none_or(|oldest| oldest > horizon);
        if self.batch.is_empty() && self.horizon.is_some_and(is_past) {
            let mut backoff = Backoff::new();
            while let Err(error) = self.care.calm().await {
                self.carrier.failed(&mut backoff, "forget crashes", &error.into()).await?;
            }
            metrics::shard_crashes(self.carrier.tenure().shard(), 0);
        }
        Ok(())
    }

    /// How to look at an entry.
    async fn look(&self, entry: EntryId) -> Result<Look, Gone> {
        let mut backoff = Backoff::new();
        loop {
            match self.care.look(entry).await {
                Ok(Look::Gone) => return Err(Gone),
                Ok(look) => return Ok(look),
                Err(error) => self.carrier.failed(&mut backoff, "note an entry", &error.into()).await?,
            }
        }
    }

    async fn read(&mut self, wait: Duration) -> Result<(), Gone> {
        let mut backoff = Backoff::new();
        loop {
            let ended = self.carrier.tenure().clone();
            let read = tokio::select! {
                read = self.feed.read(wait) => read,
                // Reading leaves no trace in Redis, so it may be broken off.
                () = ended.ended() => return Ok(()),
            };
            match read {
                Ok(()) => return Ok(()),
                Err(error) => self.carrier.failed(&mut backoff, "read", &error).await?,
            }
        }
    }

    /// Adds what was read to the batch, org by org. True if it is full.
    async fn gather(&mut self) -> Result<bool, Gone> {
        while let Some(held) = self.feed.window.pop() {
            let org = held.envelope.header().map(|header| header.org_id);
            match self.look(held.id).await? {
                Look::Alone if !self.batch.is_empty() => {
                    self.feed.window.put_back(held);
                    return Ok(true);
                }
                Look::Never(tries) => {
                    let detail = format!("{tries} workers in a row crashed as soon as they looked at it");
                    let letter = dead_letter::describe(held.id, org, Reason::CrashedWorker, 0, &detail);
                    self.carrier.park(&letter).await?;
                    continue;
                }
                Look::Freely | Look::Alone | Look::Gone => {}
            }
            #[cfg(debug_assertions)]
            crate::crash::on(&held);
            let envelope = match held.envelope.decode() {
                Ok(envelope) => envelope,
                Err(error) => {
                    let reason = match error {
                        DecodeError::Unauthenticated => Reason::Unauthenticated,
                        _ => Reason::Unreadable,
                    };
                    let letter = dead_letter::describe(held.id, org, reason, 0, &error.to_string());
                    self.carrier.park(&letter).await?;
                    continue;
                }
            };
            let fits =
                self.batch.has_room(&self.shared.limits, &envelope) && self.reserve(envelope.expanded_len()).await?;
            if !fits {
                self.feed.window.put_back(held);
                return Ok(true);
            }
            if self.batch.is_empty() {
                self.batch = Batch::reusing(
                    self.shared.spare.take(),
                    self.delivered.map(|at| at + self.shared.pace.between_inserts(self.shared.limits.age)),
                );
            }
            let content = envelope.header.content_id;
            let is_repeated = !content.is_none() && (self.recent.contains(content) || self.contents.contains(&content));
            let verdict = match &mut self.quotas {
                _ if is_repeated => Some(Verdict::Repeated),
                Some(quotas) => quotas.verdict(&envelope, held.envelope.len(), &self.feed.window).await,
                None => None,
            };
            if !content.is_none() && !is_repeated {
                self.contents.insert(content);
            }
            self.batch.add(held.id, &envelope, verdict, Instant::now());
            if self.batch.is_full(&self.shared.limits) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes memory for an envelope. False if there is none before this shard has delivered what it holds.
    async fn reserve(&mut self, bytes: usize) -> Result<bool, Gone> {
        // An envelope larger than all there is takes all there is.
        let units = bytes.div_ceil(MEMORY_UNIT_BYTES).min(self.shared.memory_max / MEMORY_UNIT_BYTES);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let permit = match Arc::clone(&self.shared.memory).try_acquire_many_owned(units) {
            Ok(permit) => permit,
            Err(_) if !self.batch.is_empty() => return Ok(false),
            Err(_) => {
                tokio::select! {
                    permit = Arc::clone(&self.shared.memory).acquire_many_owned(units) => permit.map_err(|_| Gone)?,
                    () = self.carrier.tenure().ended() => return Err(Gone),
                }
            }
        };
        match &mut self.memory {
            Some(held) => held.merge(permit),
            None => self.memory = Some(permit),
        }
        Ok(true)
    }

    /// Delivers the batch. Meanwhile reading goes on, so that the orgs behind a flood are seen.
    async fn deliver(&mut self) -> Result<(), Gone> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.delivered = Some(Instant::now());
        self.batches += 1;
        let (intent, blocks) = std::mem::take(&mut self.batch).into_parts(self.feed.window.oldest());
        let recent = self.recent.announce(unix_ms(), self.contents.drain().collect());
        let emptied = tokio::select! {
            emptied = self.carrier.deliver(self.batches, intent, recent, blocks) => emptied?,
            never = self.feed.read_ahead() => match never {},
        };
        self.memory = None;
        if let Some(quotas) = &mut self.quotas {
            quotas.delivered();
        }
        self.shared.spare.give(emptied);
        Ok(())
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
