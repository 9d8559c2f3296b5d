//! `ingest-api`: takes traces, appends them to the shards durably, and answers.

use std::process::ExitCode;

use admission::Admission;
use anyhow::Context;
use auth::envelope_key::EnvelopeKeys;
use auth::resolver::{FixedKey, PostgresSource, SharedSource};
use auth::{Resolver, resolver};
use ingest_api::app::App;
use ingest_api::body::Budget;
use ingest_api::config::{Config, PROGRAM};
use ingest_api::health::Health;
use ingest_api::metrics::LATENCY_BUCKETS_SECONDS;
use ingest_api::operator::Operator;
use ingest_api::{grpc, prices, routes, server};
use ledger::LedgerReader;
use outcomes::Ledger;
use service::mode::DeploymentMode;
use stores::clickhouse::Records;
use stores::redis::confirm::{APPENDING, Confirmer};
use stores::redis::readiness::Readiness;
use tokio::net::TcpListener;
use tokio::sync::watch;

// Half of the cost of decoding is allocation, as measured with the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    service::main(&PROGRAM, Config::read, run)
}

#[tokio::main]
async fn run(config: Config) -> anyhow::Result<()> {
    // Build the parts. Nothing here waits for a server: while one is away, this process is not ready, but it runs.
    let redis = stores::redis::connect(&config.redis_url)?;
    let (stop, stopping) = watch::channel(false);
    let metrics = service::collect_metrics(&LATENCY_BUCKETS_SECONDS)?;
    let readiness = Readiness::new(redis.clone(), config.ack);
    let confirmer = Confirmer::new(&config.redis_url, readiness.clone(), APPENDING)?;
    let postgres = stores::postgres::pool(&config.pg_dsn)?;
    let envelope_keys = EnvelopeKeys::ask(postgres.clone(), stopping.clone());
    let health = Health { redis: readiness.clone(), envelope_keys, metrics };
    let shared = SharedSource::new(redis.clone(), PostgresSource::new(postgres.clone()));
    let resolver = Resolver::new(FixedKey::new(config.static_api_key.as_ref(), shared)?);
    let budget = Budget::new(config.body_max, config.bodies_in_flight_max);
    let admission = Admission::new(redis.clone(), config.deployment_mode.enforces_quotas());
    let ledger = Ledger::new();
    let app = App::new(resolver.clone(), admission, ledger.clone(), redis.clone(), confirmer, budget, health.clone());
    let records = Records::new(&config.clickhouse_url);
    let reader = LedgerReader::new(redis.clone(), records.clone());
    let operator = Operator::new(redis.clone(), config.admin_key, health, reader);
    let (end_ledger, ledger_ends) = watch::channel(false);
    let answered = ledger.answered().clone().run(records, config.answered_every, ledger_ends.clone());
    let (answered, ledger) = (tokio::spawn(answered), tokio::spawn(outcomes::run(ledger, redis.clone(), ledger_ends)));

    // Listen, and log where.
    let bind = async |address| TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"));
    let ingest_listener = bind(config.ingest_listen).await?;
    let grpc_listener = bind(config.otlp_grpc_listen).await?;
    let operator_listener = bind(config.operator_listen).await?;
    tracing::info!(
        ingest = %config.ingest_listen, otlp_grpc = %config.otlp_grpc_listen, operator = %config.operator_listen,
        "listening"
    );

    // Serve until the stop signal, then drain.
    tokio::spawn(resolver::watch(resolver, config.redis_url.clone(), redis, stopping.clone()));
    tokio::spawn(readiness.follow(stopping.clone()));
    prices::follow(config.prices, stopping.clone()).await;
    if config.deployment_mode == DeploymentMode::SelfHosted {
        tokio::spawn(service::mode::ensure_default_org(postgres, stopping.clone()));
    }
    let (grpc_app, cors) = (app.clone(), config.cors);
    let (connections, drain) = (config.connections_max, config.drain_max);
    let ingest = server::serve(ingest_listener, connections, drain, stopping.clone(), move |request| {
        routes::handle(app.clone(), cors.clone(), request)
    });
    let grpc = server::serve(grpc_listener, connections, drain, stopping.clone(), move |request| {
        grpc::handle(grpc_app.clone(), request)
    });
    let operator =
        server::serve(operator_listener, connections, drain, stopping, move |request| operator.clone().handle(request));
    let signal = async {
        let signal = service::stop_signal().await;
        tracing::info!(signal, "draining");
        stop.send_replace(true);
    };
    tokio::join!(signal, ingest, grpc, operator);
    end_ledger.send_replace(true);
    ledger.await.context("flushing the outcome counters failed")?;
    answered.await.context("flushing the counts of acknowledged items failed")?;
    tracing::info!("stopped");
    Ok(())
}
