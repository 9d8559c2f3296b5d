//! `ingest-worker`: takes envelopes from the shards and inserts them into ClickHouse.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use auth::envelope_key::EnvelopeKeys;
use delivery::judge::Judge;
use ingest_worker::config::{Config, PROGRAM};
use ingest_worker::health::{self, Health};
use ingest_worker::legacy::Legacy;
use ingest_worker::metrics::INSERT_BUCKETS_SECONDS;
use ingest_worker::pace::Pace;
use ingest_worker::parked::Parked;
use ingest_worker::shard;
use ingest_worker::shared::{MEMORY_UNIT_BYTES, Shared, Spare};
use legacy::Projects;
use outcomes::{self, Ledger};
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
    // Build. A store that is away makes us not ready, and every operation is repeated until it is back.
    let metrics = service::collect_metrics(&INSERT_BUCKETS_SECONDS)?;
    let redis = stores::redis::connect(&config.redis_url)?;
    let postgres = stores::postgres::pool(&config.chores.pg_dsn)?;
    let (stop, stopping) = watch::channel(false);
    let shared = Shared {
        limits: config.limits,
        token_trust: config.token_trust,
        pace: Pace::default(),
        inserter: Inserter::new(&config.clickhouse_url).with_quorum(config.insert_quorum),
        records: Records::new(&config.clickhouse_url),
        inserts: Arc::new(Semaphore::new(config.inserts_max)),
        memory: Arc::new(Semaphore::new(config.memory_max / MEMORY_UNIT_BYTES)),
        memory_max: config.memory_max,
        window_max: config.window_max,
        ledger: Ledger::new(),
        parked: Parked::default(),
        judge: Judge::default(),
        spare: Spare::default(),
    };

    // Announce.
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

    // What is told of the work ends after it.
    let (end_telling, telling_ends) = watch::channel(false);
    let (end_audit, audit_ends) = watch::channel(false);
    let (trail, writing) = audit::writer(Registry::new(postgres.clone()));
    let writing = tokio::spawn(writing.run(audit_ends));
    let mut telling = JoinSet::new();
    telling.spawn(outcomes::run(shared.ledger.clone(), redis.clone(), telling_ends.clone()));
    telling.spawn(shared.parked.clone().tell(trail, telling_ends));

    // Work until told to stop, then finish what was begun.
    let mut chores = config.chores.start(config.roles, &stopping)?;
    let mut shards = JoinSet::new();
    if config.roles.shards {
        let dlq_bytes_max = config.dlq_bytes_max;
        let open = Flags::new(postgres.clone()).follow(Flag::DualReadLegacy, config.dual_read_legacy, stopping.clone());
        let projects = Projects::new(postgres);
        let legacy = Legacy::new(redis.clone(), projects, open, dlq_bytes_max, &shared.ledger, &shared.parked);
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
    // What looks after the leases ends only when it is told to, or by a defect: then another process is to do it.
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
        while chores.join_next().await.is_some() {}
    };
    if tokio::time::timeout(config.drain_max, drained).await.is_err() {
        tracing::warn!("the time to drain is over; what was not inserted stays in Redis");
    }
    end_telling.send_replace(true);
    while telling.join_next().await.is_some() {}
    end_audit.send_replace(true);
    writing.await.context("the audit trail was not written to its end")?;
    serving.abort();
    anyhow::ensure!(is_whole, "the work on the shards has ended by itself");
    tracing::info!("stopped");
    Ok(())
}
