//! Figures in a file, and what became of them since.

use std::fs;
use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::figures::{Shaped, digits};
use super::options::Options;
use crate::table::Table;

/// Of the file; another number is not compared.
const FORMAT: u64 = 1;

/// Everything that is known about a run.
pub(super) fn document(options: &Options, shapes: &[Shaped]) -> Value {
    let Options { per_request, spans, rounds, connections, encoding, format, span_bytes, orgs, spread, .. } = options;
    json!({
        "format": FORMAT,
        "date": OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
        "machine": machine(),
        "options": {
            "per_request": per_request, "spans": spans, "rounds": rounds, "connections": connections,
            "encoding": encoding.to_string(), "format": format.to_string(), "span_bytes": span_bytes.to_string(),
            "orgs": orgs, "spread": spread.to_string(), "trickle": options.trickle,
            "trickle_seconds": options.trickle_seconds, "endpoint": options.endpoint,
        },
        "shapes": shapes.iter().map(Shaped::to_json).collect::<Vec<_>>(),
    })
}

/// The processor, its cores, and how busy they were.
pub(super) fn machine() -> Value {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    json!({
        "cpu": model.map_or("unknown", |(_, model)| model.trim()),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "load_of_the_last_minute": load.split(' ').next().and_then(|load| load.parse::<f64>().ok()),
    })
}

/// Writes a file, and the directory for it.
pub(super) fn write(path: &Path, content: &str) -> anyhow::Result<()> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    }
    fs::write(path, content).with_context(|| format!("writing {}; choose another file", path.display()))
}

/// Reads what [`document`] was written to.
pub(super) fn read(path: &Path) -> anyhow::Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let not_ours = || format!("{} is not a file that this bench has written; choose another", path.display());
    serde_json::from_str(&text).with_context(not_ours)
}

/// The ratio of each figure of the same shape, now to then; and what makes the two hard to compare.
pub(super) fn compare(then: &Value, now: &Value) -> anyhow::Result<String> {
    anyhow::ensure!(then["format"] == FORMAT, "the file to compare with is of another release; run its bench again");
    let mut text = format!("Compared with {}\n\n", then["date"].as_str().unwrap_or("an unknown date"));
    for what in ["cpu", "cores"] {
        if then["machine"][what] != now["machine"][what] {
            text += &format!("  Another machine: {} then, {} now\n", then["machine"][what], now["machine"][what]);
        }
    }
    for what in ["spans", "rounds", "connections", "trickle_seconds"] {
        if then["options"][what] != now["options"][what] {
            text += &format!("  --{what} was {} then, and is {} now\n", then["options"][what], now["options"][what]);
        }
    }
    let shapes = |saved: &Value| -> Vec<Shaped> {
        saved["shapes"].as_array().into_iter().flatten().filter_map(Shaped::of_json).collect()
    };
    let earlier = shapes(then);
    let mut table = Table::new(&["SHAPE", "FIGURE", "UNIT", "THEN", "NOW", "RATIO", ""]);
    let mut rows = 0;
    for shaped in shapes(now) {
        let Some(earlier) = earlier.iter().find(|earlier| earlier.label == shaped.label) else { continue };
        for (name, figure) in &shaped.figures {
            let Some(before) = earlier.figures.get(name).filter(|before| before.unit == figure.unit) else { continue };
            let overlap = figure.min() <= before.max() && before.min() <= figure.max();
            let ratio = ratio(before.median(), figure.median()).map_or("–".to_owned(), |r| format!("{r:.2}"));
            let mark = if overlap { "within the spread" } else { "" };
            let (short, name, unit) = (shaped.short.clone(), name.clone(), figure.unit.clone());
            table.row([short, name, unit, digits(before.median()), digits(figure.median()), ratio, mark.to_owned()]);
            rows += 1;
        }
    }
    if rows == 0 {
        return Ok(text + "  No shape is in both.\n");
    }
    Ok(format!("{text}{table}"))
}

/// `None` if there was nothing then.
fn ratio(then: f64, now: f64) -> Option<f64> {
    (then.abs() > f64::EPSILON).then(|| now / then)
}

#[cfg(test)]
mod tests {
    use super::super::figures::Round;
    use super::*;
    use clap::Parser;

    fn saved(label: &str, values: &[f64]) -> Value {
        let rounds = values.iter().map(|value| {
            let mut round = Round::default();
            round.set("cpu redis", "us/span", *value);
            round
        });
        let shaped = Shaped::new(label.to_owned(), "1/request".to_owned(), rounds.collect());
        document(&Options::parse_from(["bench"]), &[shaped])
    }

    #[test]
    fn figures_of_the_same_shape_are_compared_and_others_are_not() {
        let then = saved("a", &[2.0, 2.2, 1.8]);
        let text = compare(&then, &saved("a", &[3.0, 3.1, 2.9])).unwrap();
        assert!(text.contains("2.00  3.00  1.50") && !text.contains("spread"), "{text}");
        let text = compare(&then, &saved("a", &[2.1])).unwrap();
        assert!(text.contains("1.05   within the spread"), "{text}");
        assert!(compare(&then, &saved("b", &[1.0])).unwrap().contains("No shape is in both"));
    }

    #[test]
    fn what_makes_a_comparison_doubtful_is_said() {
        let (mut then, now) = (saved("a", &[0.0]), saved("a", &[1.0]));
        then["machine"]["cpu"] = json!("another");
        then["options"]["spans"] = json!(7);
        let text = compare(&then, &now).unwrap();
        assert!(text.contains("Another machine") && text.contains("--spans was 7"), "{text}");
        assert!(text.contains('–'), "nothing is divided by nothing: {text}");
        assert!(compare(&json!({}), &now).is_err());
    }
}
