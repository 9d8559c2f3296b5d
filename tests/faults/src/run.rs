//! One scenario from its start to its verdict.

use std::time::Duration;

use load::table::Table;
use stores::redis::ack::AckClass;

use crate::check::{Found, Verdict};
use crate::redis_fleet::RedisKind;
use crate::scenarios::Scenario;
use crate::scene::{Expects, Moment, Scene, Size};
use crate::servers::Servers;

/// What came of a scenario.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Outcome {
    pub name: &'static str,
    pub verdict: Verdict,
    /// From the end of a fault until what had been accepted by then was stored; the longest of several.
    pub recovery: Duration,
    pub notes: Vec<String>,
    pub expected: Expects,
}

impl Outcome {
    /// Whether what was found is what was to be found.
    pub fn holds(&self) -> bool {
        match self.expected {
            Expects::Everything => self.verdict.holds(),
            Expects::Loss => self.verdict.lost > 0,
            Expects::Anything => true,
        }
    }
}

/// Runs a scenario. It fails if it could not be carried out; what it found is in its outcome.
pub async fn run(scenario: &Scenario, servers: Option<&Servers>, size: Size, seed: u64) -> anyhow::Result<Outcome> {
    let mut scene = Scene::start(servers, scenario, size, seed).await?;
    let judged = judge(scenario, &mut scene).await;
    if judged.as_ref().map_or(true, |outcome| !outcome.holds()) {
        for number in 0..scene.workers() {
            eprintln!("the log of worker {number} ends with:\n{}\n", scene.worker(number).log());
        }
    }
    judged
}

async fn judge(scenario: &Scenario, scene: &mut Scene<'_>) -> anyhow::Result<Outcome> {
    (scenario.fault)(scene).await?;
    scene.recovers(Moment::now()).await?;
    let mut sent = scene.traffic.end().await;
    sent.append(&mut scene.sent_besides);
    scene.world.until_drained().await?;
    let found = Found::read(scene.clickhouse(), &scene.redis().await?).await?;
    let mut verdict = Verdict::of(&sent, &found, scene.unreadable);
    if let (AckClass::Queued, Some(mended)) = (scenario.ack, scene.mended) {
        let (judged, note) = verdict.since(mended, &sent, &found);
        scene.notes.push(note);
        verdict = judged;
    }
    if scenario.redis != RedisKind::Shared {
        scene.notes.push(format!("class {}", scenario.ack));
    }
    Ok(Outcome {
        name: scenario.name,
        verdict,
        recovery: scene.recovery,
        notes: std::mem::take(&mut scene.notes),
        expected: scene.expects,
    })
}

/// The outcomes, or why there is none, as a table.
pub fn summary(outcomes: &[(&'static str, anyhow::Result<Outcome>)]) -> Table {
    let mut table = Table::new(&["SCENARIO", "ACKED", "STORED", "DUPLICATED", "LOST", "RECOVERY s", "RESULT", "NOTES"]);
    for (name, outcome) in outcomes {
        let name = (*name).to_owned();
        match outcome {
            Ok(outcome @ Outcome { verdict, recovery, notes, .. }) => table.row([
                name,
                verdict.acked.to_string(),
                verdict.stored.to_string(),
                verdict.duplicated.to_string(),
                verdict.lost.to_string(),
                format!("{:.2}", recovery.as_secs_f64()),
                result(outcome).to_owned(),
                [&verdict.wrong[..], &notes[..]].concat().join("; "),
            ]),
            Err(error) => {
                let none = || "-".to_owned();
                table.row([name, none(), none(), none(), none(), none(), "FAILED".to_owned(), first_line(error)]);
            }
        }
    }
    table
}

fn result(outcome: &Outcome) -> &'static str {
    match outcome.expected {
        _ if !outcome.holds() => "FAILED",
        Expects::Everything => "ok",
        Expects::Loss => "ok (a loss was to be seen)",
        Expects::Anything => "counted",
    }
}

/// What went wrong without the logs that follow it.
fn first_line(error: &anyhow::Error) -> String {
    format!("{error:#}").lines().next().unwrap_or_default().to_owned()
}
