//! A bench that cannot flatter: what a span costs every process on its way, how long it takes, and what stays on disk.
//!
//! - Every body is made before the clock starts, has ids of its own, and is sent once.
//! - A warm-up is not counted; medians of several rounds are shown with the smallest and the largest.
//! - A round counts only if the rows that are stored are exactly those that were sent.
//! - ClickHouse is read twice, because merges that come later are paid for as well.
//! - At half load, latency counts from when a request was to be sent, so that a slow answer delays no other's clock.
//! - A percentile that too few requests tell is not told.
//!
//! | module | one idea |
//! | --- | --- |
//! | `options` | what can be asked for |
//! | `shapes`, `json`, `spread` | the bodies: which, in which protocol, from which org |
//! | `target` | where they go: a stack of our own, or any endpoint |
//! | `senders`, `schedule` | closed and open loop |
//! | `round`, `trickle` | what is measured, in which order |
//! | `processes`, `clickhouse`, `probes`, `latency` | the instruments |
//! | `figures`, `report`, `saved`, `svg` | what is shown, saved and compared |
//!
//! The stack's Redis is capped at 512 MiB, and answers 503 when it is full; a round in which that happens is an error.
//! Each shape has a fresh stack, so that no shape pays for the tables and the memory of another.

mod clickhouse;
mod figures;
mod json;
mod latency;
mod options;
mod probes;
mod processes;
mod report;
mod round;
mod saved;
mod schedule;
mod senders;
mod shapes;
mod spread;
mod svg;
mod target;
mod trickle;

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use stack::{Layout, UpOptions};

use figures::{Round, Shaped};
pub use options::Options;
use shapes::Shape;
use target::Target;

/// Measures what the options ask for, and prints, saves and compares it.
pub async fn run(options: &Options) -> anyhow::Result<()> {
    options.check()?;
    if cfg!(debug_assertions) {
        bail!("this bench was built without optimisation, which would measure something else; use: just bench");
    }
    // Before the run overwrites it, and before it takes minutes if the file is unreadable.
    let earlier = match &options.compare {
        Some(path) => Some(saved::read(path)?),
        None if options.json.exists() => {
            let read = saved::read(&options.json);
            read.inspect_err(|error| eprintln!("bench: not compared with the last run: {error:#}")).ok()
        }
        None => None,
    };
    let mut shapes: Vec<Shaped> = Vec::new();
    let ended = measure_all(options, &mut shapes).await;
    println!("{}, {} rounds, machine: {}", heading(options), options.rounds, saved::machine());
    if !options.trickle {
        println!("{}", report::resolution(options.spans));
    }
    println!("{}", report::tables(&shapes));
    // What was measured before an error is shown; only a whole run is saved.
    ended?;
    let document = saved::document(options, &shapes);
    if let Some(earlier) = &earlier {
        match saved::compare(earlier, &document) {
            Ok(comparison) => println!("{comparison}"),
            Err(error) => eprintln!("bench: not compared: {error:#}"),
        }
    }
    saved::write(&options.json, &format!("{document:#}\n"))?;
    eprintln!("bench: saved in {}", options.json.display());
    if let Some(path) = &options.svg {
        let unit = if options.trickle { "cores" } else { "CPU, us/span" };
        saved::write(path, &svg::draw(&format!("{unit}: {}", heading(options)), &report::bars(&shapes)))?;
        eprintln!("bench: drawn in {}", path.display());
    }
    Ok(())
}

fn heading(options: &Options) -> String {
    let Options { format, encoding, span_bytes, orgs, spread, connections, endpoint, .. } = options;
    let target = endpoint.as_deref().unwrap_or("a stack of our own");
    let orgs = if options.trickle { trickle::ORGS } else { *orgs };
    format!("{target}: {format} {encoding}, {span_bytes} B spans, {orgs} orgs {spread}, {connections} connections")
}

async fn measure_all(options: &Options, shapes: &mut Vec<Shaped>) -> anyhow::Result<()> {
    let per_request: &[usize] = if options.trickle { &[1] } else { &options.per_request };
    for (n, per_request) in per_request.iter().enumerate() {
        let mut shape = Shape::new(options, *per_request);
        if options.trickle {
            shape.orgs = trickle::ORGS;
        }
        eprintln!("bench: {shape}");
        let rounds = measure_at(options, &shape, n == 0).await.with_context(|| format!("measuring {shape}"))?;
        let kind = if options.trickle { "trickle, " } else { "" };
        let short = if options.trickle { "trickle".to_owned() } else { shape.short() };
        shapes.push(Shaped::new(format!("{kind}{shape}"), short, rounds));
    }
    Ok(())
}

/// Measures a shape at an endpoint, or at a stack that lives as long.
async fn measure_at(options: &Options, shape: &Shape, is_first: bool) -> anyhow::Result<Vec<Round>> {
    if let Some(url) = &options.endpoint {
        return rounds(Arc::new(Target::foreign(url, options, shape)?), options, shape).await;
    }
    let name = format!("tracebility-bench-{}-{}", std::process::id(), shape.per_request);
    let layout = Layout::new(std::env::temp_dir().join(name));
    let measured = async {
        // The programs are the same for every shape.
        let endpoints = stack::up(&layout, &UpOptions { build: is_first, ..UpOptions::default() }).await?;
        let keys = if options.trickle {
            target::create_orgs_in_shards(&endpoints, shape.orgs).await?
        } else {
            target::create_orgs(&endpoints, shape.orgs).await?
        };
        rounds(Arc::new(Target::ours(&layout, &endpoints, shape, keys).await?), options, shape).await
    };
    let measured = tokio::select! {
        measured = measured => measured,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    stop(&layout, measured.is_err()).await?;
    measured
}

/// Stops a stack. After an error it tells where to look first.
async fn stop(layout: &Layout, has_failed: bool) -> anyhow::Result<()> {
    let root: &Path = layout.root();
    if has_failed {
        eprintln!("bench: the stack is stopped; its data and logs stay in {} until you remove it", root.display());
    }
    Ok(stack::down(layout, has_failed).await?)
}

async fn rounds(target: Arc<Target>, options: &Options, shape: &Shape) -> anyhow::Result<Vec<Round>> {
    eprintln!("bench: warming up");
    round::warm_up(&target, shape, options).await.context("warming up")?;
    let mut rounds = Vec::with_capacity(options.rounds);
    for number in 0..options.rounds {
        eprintln!("bench: {}, round {} of {}", shape.short(), number + 1, options.rounds);
        let measured = if options.trickle {
            trickle::measure(&target, shape, options, number).await
        } else {
            round::measure(&target, shape, options, number).await
        };
        rounds.push(measured.with_context(|| format!("round {}", number + 1))?);
    }
    Ok(rounds)
}
