//! `just bench-ingest`: what a span costs every process on its way, in CPU time (user and system) over a counted run.
//!
//! Starts a stack of its own, sends a fixed number of spans as fast as they are answered, waits until all are in
//! ClickHouse, and reads each process's CPU time before and after.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use clap::Parser;
use load::client::{ClickHouse, Http};
use load::corpus::Corpus;
use load::table::Table;
use stack::{Endpoints, Layout, UpOptions};
use tokio::task::JoinSet;

/// Measures the CPU time per span of each process, from request to rows in ClickHouse.
#[derive(Clone, Parser)]
#[command(after_help = "Example: cargo run --release -p load --bin bench-ingest -- --spans 500000 --per-request 100")]
struct Options {
    /// Spans to send in each run. They must fit into the stack's Redis (512 MiB) in case ClickHouse is slower.
    #[arg(long, default_value_t = 200_000)]
    spans: usize,
    /// Spans in one request.
    #[arg(long, default_value_t = 100)]
    per_request: usize,
    /// Requests under way at the same time.
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// Runs; medians are shown.
    #[arg(long, default_value_t = 3)]
    runs: usize,
}

const STORED_WITHIN: Duration = Duration::from_secs(120);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let layout = Layout::new(std::env::temp_dir().join(format!("tracebility-bench-{}", std::process::id())));
    let result = async {
        let endpoints = stack::up(&layout, &UpOptions::default()).await?;
        let mut runs = Vec::new();
        for run in 0..options.runs {
            eprintln!("bench-ingest: run {} of {}", run + 1, options.runs);
            runs.push(measure(&layout, &endpoints, &options, run as u64).await?);
        }
        anyhow::Ok(runs)
    }
    .await;
    stack::down(&layout, false).await?;
    show(&options, &result?);
    Ok(())
}

/// What was measured in one run.
struct Figures {
    /// Process → µs of CPU per span, until all spans were stored.
    cpu: BTreeMap<String, f64>,
    spans_per_second: f64,
    ack_p50: Duration,
    ack_p99: Duration,
    lag: Duration,
}

async fn measure(layout: &Layout, endpoints: &Endpoints, options: &Options, seed: u64) -> anyhow::Result<Figures> {
    let key = endpoints.api_key.clone().context("the stack has no API key; try: cargo stack down")?;
    let http = Http::new();
    let clickhouse = ClickHouse::new(http.clone(), &endpoints.urls.clickhouse_url)?;
    let mut corpus = Corpus::new(seed);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos() as u64;
    let requests = options.spans / options.per_request;
    // Each once: a body that is sent again is not billed, and its rows collapse with those that are there.
    let bodies: Vec<Bytes> = (0..requests).map(|_| corpus.request(options.per_request, now).body.into()).collect();
    let (before, stored_before) = (cpu(layout).await?, clickhouse.number("SELECT count() FROM span").await?);
    let begun = Instant::now();
    let mut senders = JoinSet::new();
    for sender in 0..options.connections {
        let (http, key, url) = (http.clone(), key.clone(), format!("{}/v1/traces", endpoints.ingest_url));
        let mine: Vec<Bytes> = bodies.iter().skip(sender).step_by(options.connections).cloned().collect();
        senders.spawn(async move {
            let mut latencies = Vec::new();
            for body in mine {
                let sent = Instant::now();
                let answer = http.post(&url, &key, "application/x-protobuf", body).await?;
                ensure!(
                    answer.status.is_success(),
                    "the API answered {}; if it is 503, send fewer spans",
                    answer.status
                );
                latencies.push(sent.elapsed());
            }
            anyhow::Ok(latencies)
        });
    }
    let mut latencies = Vec::new();
    for result in senders.join_all().await {
        latencies.extend(result?);
    }
    let (sending, sent) = (begun.elapsed(), requests * options.per_request);
    let acked = Instant::now();
    loop {
        let stored = clickhouse.number("SELECT sum(quantity) FROM billing_meter WHERE meter = 'span_ingested'").await?;
        if stored >= (seed + 1) * sent as u64 {
            break;
        }
        if acked.elapsed() > STORED_WITHIN {
            bail!("{stored} spans are stored after {STORED_WITHIN:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let lag = acked.elapsed();
    ensure!(clickhouse.number("SELECT count() FROM span").await? >= stored_before.min(1), "no spans");
    let after = cpu(layout).await?;
    latencies.sort();
    let at = |part: usize| latencies.get(latencies.len() * part / 100).copied().unwrap_or_default();
    Ok(Figures {
        cpu: after.iter().map(|(name, t)| (name.clone(), (t - before[name]) * 1e6 / sent as f64)).collect(),
        spans_per_second: sent as f64 / sending.as_secs_f64(),
        ack_p50: at(50),
        ack_p99: at(99),
        lag,
    })
}

/// Per process, seconds of user and system time so far.
async fn cpu(layout: &Layout) -> anyhow::Result<BTreeMap<String, f64>> {
    const CLOCK_TICKS_PER_SECOND: f64 = 100.0;
    let mut all = BTreeMap::new();
    for process in stack::status(layout).await? {
        let pid = process.pid.with_context(|| format!("{} does not run", process.name))?;
        // proc(5): after the command in parentheses, the state is field 3; utime and stime are fields 14 and 15.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |field: usize| fields.get(field - 3).and_then(|f| f.parse::<f64>().ok()).unwrap_or_default();
        all.insert(process.name.to_string(), (ticks(14) + ticks(15)) / CLOCK_TICKS_PER_SECOND);
    }
    Ok(all)
}

fn show(options: &Options, runs: &[Figures]) {
    let median = |mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or_default()
    };
    let of = |figure: &dyn Fn(&Figures) -> f64| median(runs.iter().map(figure).collect());
    println!(
        "{} spans per run, {} per request, {} connections, medians of {} runs\n",
        options.spans, options.per_request, options.connections, options.runs
    );
    let mut table = Table::new(&["PROCESS", "CPU us/span"]);
    for name in ["ingest-api", "redis", "ingest-worker", "clickhouse", "postgres"] {
        table.row([name.to_owned(), format!("{:.2}", of(&|f| f.cpu.get(name).copied().unwrap_or_default()))]);
    }
    println!("{table}");
    println!(
        "  answered           {:.0} spans/s (with the load generator on the same cores)",
        of(&|f| f.spans_per_second)
    );
    let ms = |figure: &dyn Fn(&Figures) -> Duration| of(&|f| figure(f).as_secs_f64() * 1e3);
    println!("  answer p50, p99    {:.1} ms, {:.1} ms", ms(&|f| f.ack_p50), ms(&|f| f.ack_p99));
    println!("  all stored         {:.0} ms after the last answer", ms(&|f| f.lag));
}
