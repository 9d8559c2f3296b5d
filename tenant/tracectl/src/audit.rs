//! `tracectl audit`: the copy of the audit trail in ClickHouse, and what was missing in it.

use audit::AuditReconciler;
use clap::Subcommand;

use crate::failure::Failure;
use crate::output::{Answer, moment, yes_no};
use crate::stores::{Clickhouse, Services};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check now that every event of the audit trail is in ClickHouse, and copy missing ones again.
    ///
    /// Workers do this every day. Events of the last 15 minutes do not count as missing yet.
    #[command(after_help = "Examples:\n  tracectl audit reconcile")]
    Reconcile {
        #[command(flatten)]
        services: Services,
        #[command(flatten)]
        clickhouse: Clickhouse,
    },
    /// Show the events that were found missing, newest first.
    #[command(after_help = "Examples:\n  tracectl audit gaps\n  tracectl audit gaps --limit 1000 --output json")]
    Gaps {
        /// The most events to show, 1 to 1000.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        #[command(flatten)]
        clickhouse: Clickhouse,
    },
}

impl Command {
    pub(crate) async fn run(self) -> Result<Answer, Failure> {
        match self {
            Self::Reconcile { services, clickhouse } => {
                let records = clickhouse.records()?;
                let report = AuditReconciler::new(services.registry().await?, records).run().await.map_err(failed)?;
                let fields = [
                    ("run", report.detection_id.to_string()),
                    ("checked", report.checked.to_string()),
                    ("missing", report.missing.to_string()),
                ];
                let answer = Answer::record(&report, &fields)?;
                Ok(match report.missing {
                    0 => answer,
                    _ => answer.note("what was missing was sent again; tracectl audit gaps shows it"),
                })
            }
            Self::Gaps { limit, clickhouse } => {
                let gaps = clickhouse.records()?.gaps(limit).await.map_err(failed)?;
                let headings = ["FOUND", "HAPPENED", "REPAIRED", "ORG", "EVENT", "TYPE"];
                Answer::list("gaps", &gaps, None, headings, |gap| {
                    [
                        moment(gap.detected_at),
                        moment(gap.event_time),
                        yes_no(gap.is_repaired),
                        gap.org_id.to_string(),
                        gap.event_id.to_string(),
                        gap.event_type.clone(),
                    ]
                })
            }
        }
    }
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::new(error.to_string(), "check that the stores run, then repeat the command")
}
