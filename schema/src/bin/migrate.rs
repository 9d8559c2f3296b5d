//! `migrate`: brings the databases to the newest schema, or says which version they are at.

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use schema::migrate::{self, MigrateError, Outcome, Stores, Target, Version};

#[derive(Parser)]
#[command(
    name = "migrate",
    version,
    about = "Brings Postgres and ClickHouse to the schema that this release needs.",
    after_help = "Examples:\n  \
        migrate up                       both databases, as the environment names them\n  \
        migrate up --target postgres     the registry alone\n  \
        migrate version                  what each database is at"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Apply every migration that is missing, in order.
    ///
    /// At the newest version it does nothing. Many may run it at once: each migration is applied once. When it was
    /// stopped half-way, run it again.
    #[command(after_help = "Examples:\n  \
        migrate up\n  \
        migrate up --target clickhouse\n  \
        TRACEBILITY_PG_OWNER_DSN=postgres://owner:pw@db/tracebility \\\n  \
        TRACEBILITY_CLICKHOUSE_URL=http://writer:pw@ch:8123/tracebility migrate up")]
    Up(Where),
    /// Print the version that each database is at. Changes nothing.
    #[command(after_help = "Examples:\n  migrate version\n  migrate version --target postgres")]
    Version(Where),
}

#[derive(Args)]
struct Where {
    /// Which databases.
    #[arg(long, value_enum, default_value_t = TargetArg::All)]
    target: TargetArg,
    /// Postgres, as the owner of the schema.
    #[arg(long, env = "TRACEBILITY_PG_OWNER_DSN", hide_env_values = true, value_name = "URL")]
    pg_owner_dsn: Option<String>,
    /// Postgres, used when there is no owner's URL.
    #[arg(long, env = "TRACEBILITY_PG_DSN", hide_env_values = true, value_name = "URL")]
    pg_dsn: Option<String>,
    /// ClickHouse's HTTP interface, with the database.
    #[arg(long, env = "TRACEBILITY_CLICKHOUSE_URL", hide_env_values = true, value_name = "URL")]
    clickhouse_url: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum TargetArg {
    /// The registry.
    Postgres,
    /// The traces.
    Clickhouse,
    /// Both, one after the other.
    All,
}

impl Where {
    const fn target(&self) -> Target {
        match self.target {
            TargetArg::Postgres => Target::Postgres,
            TargetArg::Clickhouse => Target::Clickhouse,
            TargetArg::All => Target::All,
        }
    }

    fn stores(self) -> Stores {
        let set = |text: Option<String>| text.filter(|text| !text.trim().is_empty());
        Stores { postgres: set(self.pg_owner_dsn).or(set(self.pg_dsn)), clickhouse: set(self.clickhouse_url) }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Cli::parse().command).await {
        Ok(lines) => {
            lines.iter().for_each(|line| println!("{line}"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("migrate: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<Vec<String>, MigrateError> {
    match command {
        Command::Up(place) => {
            let target = place.target();
            Ok(migrate::up(target, &place.stores()).await?.iter().flat_map(describe_outcome).collect())
        }
        Command::Version(place) => {
            let target = place.target();
            Ok(migrate::version(target, &place.stores()).await?.iter().map(describe_version).collect())
        }
    }
}

fn describe_outcome(outcome: &Outcome) -> Vec<String> {
    let Outcome { store, applied, version } = outcome;
    if applied.is_empty() {
        return vec![format!("{store}: at version {version}, the newest; nothing to do")];
    }
    let mut lines: Vec<String> = applied.iter().map(|file| format!("{store}: applied {file}")).collect();
    lines.push(format!("{store}: now at version {version}"));
    lines
}

fn describe_version(found: &Version) -> String {
    let Version { store, current, newest } = found;
    match current {
        None => format!("{store}: empty (newest is {newest})"),
        Some(current) => {
            let dirty = if current.dirty { ", dirty: begun and not finished" } else { "" };
            format!("{store}: {} {} (newest is {newest}){dirty}", current.version, current.name)
        }
    }
}
