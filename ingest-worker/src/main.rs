//! `ingest-worker`: takes envelopes from the shards and inserts them into ClickHouse.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use auth::envelope_key::EnvelopeKeys;
use delivery::judge::Judge;
use ingest_worker::config::{Config, PROGRAM};
use ingest_worker::dead_letter_notes::DeadLetterNotes;
use ingest_worker::health::Health;
use ingest_worker::insert_throttle::InsertThrottle;
use ingest_worker::legacy::Legacy;
use ingest_worker::metrics::INSERT_BUCKETS_SECONDS;
use ingest_worker::shared::{BlockPool, MEMORY_UNIT_BYTES, Shared};
use ingest_worker::{health, shard};
use legacy::Projects;
use outcomes::Ledger;
use registry::Registry;
use registry::flags::{Flag, Flags};
use stores::clickhouse::{Inserter, Records};
use stores::redis::ack::AckClass;
use stores::redis::confirm::{ANNOUNCING, ConfirmedConnection, Confirmer};
use stores::redis::readiness::Readiness;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    service::main(&PROGRAM, Config::read, run)
}

#[tokio::main]
async fn run(config: Config) -> anyhow::Result<()> {
    // Build the parts. A server that is away makes this worker not ready, and every operation is repeated until it is
    // back.
    let metrics = service::collect_metrics(&INSERT_BUCKETS_SECONDS)?;
    let redis = stores::redis::connect(&config.redis_url)?;
    let postgres = stores::postgres::pool(&config.jobs.pg_dsn)?;
    let (stop, stopping) = watch::channel(false);
    let shared = Shared {
        limits: config.limits,
        token_trust: config.token_trust,
        throttle: InsertThrottle::default(),
        inserter: Inserter::new(&config.clickhouse_url).with_quorum(config.insert_quorum),
        records: Records::new(&config.clickhouse_url),
        inserts: Arc::new(Semaphore::new(config.inserts_max)),
        memory: Arc::new(Semaphore::new(config.memory_max / MEMORY_UNIT_BYTES)),
        memory_max: config.memory_max,
        read_ahead_max: config.read_ahead_max,
        ledger: Ledger::new(),
        dead_letters: DeadLetterNotes::default(),
        judge: Judge::default(),
        block_pool: BlockPool::default(),
    };

    // Listen before working, so that the health of this worker can be seen from the start.
    let address = config.worker_listen;
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    tracing::info!(worker = config.worker_id, health = %address, "working");
    let readiness = Readiness::new(redis.clone(), config.ack);
    let envelope_keys = EnvelopeKeys::ask(postgres.clone(), stopping.clone());
    let needed_keys = config.roles.shards.then(|| envelope_keys.clone());
    let inserter = shared.inserter.clone();
    let health = Health { redis: readiness.clone(), inserter, envelope_keys: needed_keys, metrics };
    tokio::spawn(readiness.clone().follow(stopping.clone()));
    let serving = tokio::spawn(health::serve(listener, health));

    // The ledger and the audit trail end after the work that they record.
    let (end_recording, recording_ends) = watch::channel(false);
    let (end_audit, audit_ends) = watch::channel(false);
    let (trail, writing) = audit::writer(Registry::new(postgres.clone()));
    let writing = tokio::spawn(writing.run(audit_ends));
    let mut recorders = JoinSet::new();
    recorders.spawn(outcomes::run(shared.ledger.clone(), redis.clone(), recording_ends.clone()));
    recorders.spawn(shared.dead_letters.clone().write_to_audit(trail, recording_ends));

    // Work until the stop signal, then finish what was begun.
    let mut jobs = config.jobs.start(config.roles, &stopping)?;
    let mut shards = JoinSet::new();
    if config.roles.shards {
        let dlq_bytes_max = config.dlq_bytes_max;
        let open = Flags::new(postgres.clone()).follow(Flag::DualReadLegacy, config.dual_read_legacy, stopping.clone());
        let projects = Projects::new(postgres);
        let legacy = Legacy::new(redis.clone(), projects, open, dlq_bytes_max, &shared.ledger, &shared.dead_letters);
        let parked_bytes_max = config.parked_bytes_max;
        let confirmed = match config.ack.class {
            AckClass::Queued => None,
            _ => {
                let confirmer = Confirmer::new(&config.redis_url, readiness, ANNOUNCING)?;
                Some(ConfirmedConnection::new(redis.clone(), confirmer))
            }
        };
        let redis_url = config.redis_url;
        let stores =
            shard::Stores { redis_url, redis, confirmed, dlq_bytes_max, parked_bytes_max, envelope_keys, legacy };
        shards = shard::serve(stores, shared, &config.worker_id, &stopping)?;
    }
    // The shards' task ends only after the stop signal or by a defect. After a defect this process stops, so that other
    // workers take its shards.
    let is_whole = tokio::select! {
        signal = service::stop_signal() => {
            tracing::info!(signal, "draining");
            true
        }
        Some(ended) = shards.join_next() => {
            tracing::error!(?ended, "the work on the shards has ended by itself; stopping");
            false
        }
    };
    stop.send_replace(true);
    let drained = async {
        while shards.join_next().await.is_some() {}
        while jobs.join_next().await.is_some() {}
    };
    if tokio::time::timeout(config.drain_max, drained).await.is_err() {
        tracing::warn!("drain timeout reached; what was not inserted stays in Redis");
    }
    end_recording.send_replace(true);
    while recorders.join_next().await.is_some() {}
    end_audit.send_replace(true);
    writing.await.context("flushing the audit events failed")?;
    serving.abort();
    anyhow::ensure!(is_whole, "the work on the shards has ended by itself");
    tracing::info!("stopped");
    Ok(())
}
