//! `just bench-durable`: what it costs ClickHouse to have an insert on disk before it answers.
//!
//! The same rows go into tables that differ in their settings only, in turn, so that whatever else the machine does
//! hits all of them alike. Latency is what the client waits for one insert; CPU is the server's, all of its threads,
//! during it.

use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use load::client::{ClickHouse, Http};
use load::table::Table;
use stack::{Layout, Name, UpOptions};

/// Measures what inserts of 1, 1 000 and 100 000 rows cost with and without fsync.
#[derive(Clone, Copy, Parser)]
#[command(after_help = "Example: cargo run -p load --bin bench-durable -- --rounds 40")]
struct Options {
    /// Inserts of one row into each table; larger ones are fewer.
    #[arg(long, default_value_t = 60)]
    rounds: usize,
}

/// What is compared: the settings of a table.
const KINDS: [(&str, &str); 4] = [
    ("nothing", "fsync_after_insert = 0, fsync_part_directory = 0, min_compressed_bytes_to_fsync_after_merge = 0"),
    ("insert", "fsync_after_insert = 1, fsync_part_directory = 0, min_compressed_bytes_to_fsync_after_merge = 0"),
    (
        "insert_and_directory",
        "fsync_after_insert = 1, fsync_part_directory = 1, min_compressed_bytes_to_fsync_after_merge = 0",
    ),
    ("and_merges", "fsync_after_insert = 1, fsync_part_directory = 1, min_compressed_bytes_to_fsync_after_merge = 1"),
];
/// Rows of an insert, and by how much fewer of them there are.
const SIZES: [(usize, usize); 3] = [(1, 1), (1_000, 2), (100_000, 15)];
/// Spans of about 1.3 kB, each different.
const ROWS: &str =
    "INSERT INTO source (org_id, workspace_id, project_id, run_id, span_id, name, kind, start_time, end_time, model,
      inputs, outputs, attributes, received_at, source)
    SELECT toUUID('00000000-0000-0000-0000-000000000001'), generateUUIDv4(1), generateUUIDv4(2), generateUUIDv4(number),
           generateUUIDv4(number + 1), 'chat', 'llm', now64(9), now64(9), 'gpt-4o', hex(randomString(300, number)),
           hex(randomString(200, number + 1)), mapFromArrays(arrayMap(n -> concat('key.', toString(n)), range(11)),
           arrayMap(n -> toString(rand(n + number)), range(11))), toDateTime64('2026-11-01 00:00:00', 9), 'bench'
    FROM numbers(100000)";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let layout = Layout::new(std::env::temp_dir().join(format!("tracebility-durable-{}", std::process::id())));
    let measured = measure(&layout, options).await;
    stack::down(&layout, false).await?;
    println!("{}", measured?);
    Ok(())
}

async fn measure(layout: &Layout, options: Options) -> anyhow::Result<Table> {
    // The services come with it, and stand still.
    let urls = stack::up(layout, &UpOptions::default()).await?.urls;
    let status = stack::status(layout).await?;
    let server = status.iter().find(|process| process.name == Name::Clickhouse).and_then(|process| process.pid);
    let server = server.context("ClickHouse does not run")?;
    let clickhouse = ClickHouse::new(Http::new(), &urls.clickhouse_url)?;
    clickhouse.text("CREATE TABLE source AS span").await?;
    clickhouse.text(ROWS).await?;
    for (kind, settings) in KINDS {
        clickhouse.text(&format!("CREATE TABLE {kind} AS span")).await?;
        clickhouse.text(&format!("ALTER TABLE {kind} MODIFY SETTING {settings}")).await?;
    }
    let mut table = Table::new(&["ROWS", "SYNCED", "P50 ms", "P90 ms", "CPU ms PER INSERT", "CPU ms WITH MERGES"]);
    for (rows, fewer) in SIZES {
        let body = clickhouse.raw(&format!("SELECT * FROM source LIMIT {rows} FORMAT Native"), "").await?;
        let rounds = (options.rounds / fewer).max(3);
        let mut all: [Figures; KINDS.len()] = std::array::from_fn(|_| Figures::default());
        for round in 0..rounds {
            for ((kind, _), figures) in KINDS.iter().zip(&mut all) {
                let insert = format!(
                    "INSERT INTO {kind} SETTINGS insert_deduplication_token = '{rows}-{round}' FORMAT Native\n"
                );
                let (begun, before) = (Instant::now(), cpu(server)?);
                clickhouse.raw(&insert, body.clone()).await?;
                figures.took.push(begun.elapsed());
                figures.cpu.push(cpu(server)? - before);
            }
        }
        for ((kind, _), figures) in KINDS.iter().zip(all) {
            let before = cpu(server)?;
            clickhouse.text(&format!("OPTIMIZE TABLE {kind} FINAL")).await?;
            let merges = (cpu(server)? - before) / u32::try_from(rounds)?;
            clickhouse.text(&format!("TRUNCATE TABLE {kind}")).await?;
            let ms = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1e3);
            let (took, cpu) = (sorted(figures.took), sorted(figures.cpu));
            let (p50, p90) = (took[took.len() / 2], took[took.len() * 9 / 10]);
            let spent = cpu[cpu.len() / 2];
            table.row([rows.to_string(), kind.replace('_', " "), ms(p50), ms(p90), ms(spent), ms(spent + merges)]);
        }
    }
    Ok(table)
}

#[derive(Default)]
struct Figures {
    took: Vec<Duration>,
    cpu: Vec<Duration>,
}

fn sorted(mut all: Vec<Duration>) -> Vec<Duration> {
    all.sort();
    all
}

/// What all threads of a process have run.
fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let mut ns = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end meanwhile.
        let Ok(text) = std::fs::read_to_string(task?.path().join("schedstat")) else { continue };
        ns += text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or_default();
    }
    Ok(Duration::from_nanos(ns))
}
