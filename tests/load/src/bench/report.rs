//! What was measured, as tables for people.

use super::figures::{Shaped, digits};
use super::processes::{GENERATOR, seconds_per_tick};
use super::round::{ALL, CLICKHOUSE, CLICKHOUSE_MERGED};
use super::svg::Bar;
use crate::table::Table;

/// Figures that were not measured.
const NONE: &str = "–";

/// All tables. Each shape is a line of each.
pub(super) fn tables(shapes: &[Shaped]) -> String {
    let mut text = String::new();
    let Some(first) = shapes.first() else { return text };
    let mut add = |heading: &str, table: Option<String>| {
        if let Some(table) = table {
            text += &format!("\n{heading}\n\n{table}");
        }
    };
    let total: Vec<String> = ordered(first, "cpu ");
    let without_all: Vec<String> = total.iter().filter(|name| *name != ALL).cloned().collect();
    add("CPU, us/span: median, and smallest..largest round", table(shapes, "cpu ", &total, spread));
    add("CPU, us/span: user + system", split(shapes, &without_all));
    add("CPU, cores: median, and smallest..largest round", table(shapes, "cores ", &ordered(first, "cores "), spread));
    let speed = ["answered", "stored", "half load", "stored after the last answer", "merged after stored", "inserts"];
    add("Speed", table_with_units(shapes, "", &speed));
    for load in ["full load", "half load", "trickle"] {
        let percentiles = |what: &str| ["p50", "p99", "p999"].map(|p| format!("{what}, {load} {p}"));
        let mut names: Vec<String> = [percentiles("ack"), percentiles("queryable")].concat();
        names.push(format!("sent late, {load} p99"));
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        add(&format!("Latency, {load}"), table_with_units(shapes, "", &names));
    }
    add("Disk, B/span", table(shapes, "disk ", &ordered(first, "disk "), median));
    add("Memory now, MiB", table(shapes, "rss ", &resident(first), median));
    add("Memory at most in a round, MiB", table(shapes, "rss peak ", &ordered(first, "rss peak "), median));
    add("Bytes", table_with_units(shapes, "", &["redis used_memory_peak", "wire bytes"]));
    for shaped in shapes {
        for note in &shaped.notes {
            text += &format!("\n  {}: {note}\n", shaped.short);
        }
    }
    text
}

/// The resolution of CPU figures, in a sentence.
pub(super) fn resolution(spans: usize) -> String {
    let tick = seconds_per_tick();
    format!(
        "CPU times are known to {:.0} ms per process: {:.2} us/span in a round of {spans} spans",
        tick * 1e3,
        tick * 1e6 / spans.max(1) as f64
    )
}

/// The CPU of each process as bars; ClickHouse with its merges.
pub(super) fn bars(shapes: &[Shaped]) -> Vec<Bar> {
    let bar = |shaped: &Shaped| {
        let (prefix, mut names) = match ordered(shaped, "cpu ") {
            none if none.is_empty() => ("cores ", ordered(shaped, "cores ")),
            some => ("cpu ", some),
        };
        let is_merged_known = names.iter().any(|name| name == CLICKHOUSE_MERGED);
        names.retain(|name| name != ALL && name != GENERATOR && !(is_merged_known && name == CLICKHOUSE));
        let length = |name: String| Some((name.clone(), shaped.median(&format!("{prefix}{name}"))?));
        Bar { label: shaped.short.clone(), pieces: names.into_iter().filter_map(length).collect() }
    };
    shapes.iter().map(bar).collect()
}

/// The names of figures that begin so: in the order of a span's way, then others.
fn ordered(shaped: &Shaped, prefix: &str) -> Vec<String> {
    const WAY: [&str; 8] =
        [ALL, "ingest-api", "redis", "ingest-worker", CLICKHOUSE, CLICKHOUSE_MERGED, "postgres", GENERATOR];
    let names = shaped.figures.keys().filter_map(|name| name.strip_prefix(prefix));
    let mut names: Vec<String> =
        names.filter(|name| !name.starts_with("user ") && !name.starts_with("system ")).map(str::to_owned).collect();
    names.sort_by_key(|name| WAY.iter().position(|known| known == name).unwrap_or(WAY.len() - 1));
    names
}

fn resident(shaped: &Shaped) -> Vec<String> {
    ordered(shaped, "rss ").into_iter().filter(|name| !name.starts_with("peak ")).collect()
}

type Show = fn(&Shaped, &str) -> String;

fn median(shaped: &Shaped, name: &str) -> String {
    shaped.median(name).map_or(NONE.to_owned(), digits)
}

fn spread(shaped: &Shaped, name: &str) -> String {
    let show = |f: &super::figures::Figure| format!("{} {}..{}", digits(f.median()), digits(f.min()), digits(f.max()));
    shaped.figures.get(name).map_or(NONE.to_owned(), show)
}

/// A column per name; `None` if no shape has any of them.
fn table(shapes: &[Shaped], prefix: &str, names: &[String], show: Show) -> Option<String> {
    if names.is_empty() {
        return None;
    }
    let headings: Vec<&str> = std::iter::once("SHAPE").chain(names.iter().map(String::as_str)).collect();
    let mut table = Table::new(&headings);
    for shaped in shapes {
        let cells = names.iter().map(|name| show(shaped, &format!("{prefix}{name}")));
        table.row(std::iter::once(shaped.short.clone()).chain(cells));
    }
    Some(table.to_string())
}

fn split(shapes: &[Shaped], names: &[String]) -> Option<String> {
    fn user_and_system(shaped: &Shaped, name: &str) -> String {
        let name = name.strip_prefix("cpu ").unwrap_or(name);
        format!("{} + {}", median(shaped, &format!("cpu user {name}")), median(shaped, &format!("cpu system {name}")))
    }
    table(shapes, "cpu ", names, user_and_system)
}

/// The same as [`table`] with the spread, for figures of several units: the first line of a column is its unit.
fn table_with_units(shapes: &[Shaped], prefix: &str, names: &[&str]) -> Option<String> {
    let unit = |name: &str| shapes.iter().find_map(|s| Some(s.figures.get(&format!("{prefix}{name}"))?.unit.clone()));
    let known: Vec<(&str, String)> = names.iter().filter_map(|name| Some((*name, unit(name)?))).collect();
    if known.is_empty() {
        return None;
    }
    let headings: Vec<&str> = std::iter::once("SHAPE").chain(known.iter().map(|(name, _)| *name)).collect();
    let mut table = Table::new(&headings);
    table.row(std::iter::once(String::new()).chain(known.iter().map(|(_, unit)| unit.clone())));
    for shaped in shapes {
        let cells = known.iter().map(|(name, _)| spread(shaped, &format!("{prefix}{name}")));
        table.row(std::iter::once(shaped.short.clone()).chain(cells));
    }
    Some(table.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::figures::Round;
    use super::*;

    #[test]
    fn processes_stand_in_the_order_of_a_spans_way_and_each_shape_in_a_line() {
        let mut round = Round::default();
        for name in ["redis", "all", "zeta", "ingest-api", "clickhouse", "clickhouse, merged", "load generator"] {
            round.set(format!("cpu {name}"), "us/span", 2.0);
            round.set(format!("cpu user {name}"), "us/span", 1.5);
            round.set(format!("cpu system {name}"), "us/span", 0.5);
        }
        let shaped = Shaped::new("long".to_owned(), "1/request".to_owned(), vec![round.clone(), round]);
        let names = ordered(&shaped, "cpu ");
        assert_eq!(names[..5], ["all", "ingest-api", "redis", "clickhouse", "clickhouse, merged"]);
        let text = tables(std::slice::from_ref(&shaped));
        assert!(text.contains("1/request  2.00 2.00..2.00") && text.contains("1.50 + 0.50"), "{text}");
        let pieces: Vec<_> = bars(&[shaped])[0].pieces.iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(pieces, ["ingest-api", "redis", "clickhouse, merged", "zeta"], "ClickHouse counts once");
    }
}
