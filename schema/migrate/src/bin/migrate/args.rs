//! What `migrate` can be told.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use migrate::{ClusterName, Count, Options, Store, Stores, Target};

#[derive(Parser)]
#[command(
    name = "migrate",
    version,
    about = "Brings Postgres and ClickHouse to the schema that this release needs, or back.",
    after_help = "Exit status:\n  \
        0  done, or nothing to do\n  \
        1  failed; the message says what and where\n  \
        2  wrong arguments, or a setting or confirmation is missing; nothing was changed\n  \
        143 and 130: ended by SIGTERM and SIGINT; run it again\n\n\
        Examples:\n  \
        migrate up                                  both databases, as the environment names them\n  \
        migrate up --target postgres                the registry alone\n  \
        migrate version                             what each database is at\n  \
        migrate down --target clickhouse --dry-run  what taking back the newest migration would send"
)]
pub(crate) struct Cli {
    /// Say each statement on standard error, even if that is no terminal.
    #[arg(long, short, global = true)]
    pub(crate) verbose: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Apply every migration that is missing, in order.
    ///
    /// It does nothing at the newest version, nor on a database that a newer release has migrated. Several may run at
    /// once: each migration is applied once. When it was stopped half-way, run it again.
    #[command(after_help = "Examples:\n  \
        migrate up\n  \
        migrate up --dry-run\n  \
        migrate up --target clickhouse\n  \
        migrate up --cluster main\n  \
        TRACEBILITY_PG_OWNER_DSN=postgres://owner:pw@db/tracebility \\\n  \
        TRACEBILITY_CLICKHOUSE_URL=http://writer:pw@ch:8123/tracebility migrate up")]
    Up(Up),
    /// Take back the newest migrations of each database, and delete what is in their tables.
    ///
    /// ClickHouse first, newest first. A migration that was begun and not finished is taken back too.
    #[command(after_help = "Examples:\n  \
        migrate down --target clickhouse           what it would run; changes nothing\n  \
        migrate down --target clickhouse --dry-run the same with every statement\n  \
        migrate down --target clickhouse --yes     take back its newest migration\n  \
        migrate down 2 --target postgres --yes     take back the two newest of Postgres\n  \
        migrate down --all --yes                   everything in both databases")]
    Down(Down),
    /// Print the version that each database is at. Changes nothing.
    #[command(after_help = "Examples:\n  migrate version\n  migrate version --target postgres")]
    Version(TargetArgs),
    /// Say in the journal that VERSION and all before it are applied, and nothing later. Runs no migration.
    ///
    /// For a database that was repaired by hand. Without --i-verified it only explains what it would change.
    #[command(after_help = "Examples:\n  \
        migrate force 2 --target postgres               what it would change; changes nothing\n  \
        migrate force 2 --target postgres --i-verified  change it\n  \
        migrate force 0 --target clickhouse --i-verified\n                                                  \
        empty the journal, as if nothing were applied")]
    Force(Force),
    /// Write the two files of a new migration, with the next number. For people who change the schema.
    #[command(after_help = "Examples:\n  \
        migrate create add_teams --target postgres\n  \
        migrate create span_links --target clickhouse --dir schema/migrations")]
    Create(Create),
}

#[derive(Args)]
pub(crate) struct Up {
    #[command(flatten)]
    pub(crate) place: TargetArgs,
    /// Print every statement that would be sent, and change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    how: ClickHouseArgs,
}

#[derive(Args)]
pub(crate) struct Down {
    /// How many migrations to take back, in each database.
    #[arg(value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Take back every migration.
    #[arg(long, conflicts_with = "count")]
    all: bool,
    #[command(flatten)]
    pub(crate) place: TargetArgs,
    /// Print every statement that would be sent, and change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do it, and delete what is in the tables. Without it, only say what would be run.
    #[arg(long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    how: ClickHouseArgs,
}

#[derive(Args)]
pub(crate) struct Force {
    /// The newest version that is there in full; 0 empties the journal.
    pub(crate) version: u32,
    /// Which database; each has versions of its own.
    #[arg(long, value_enum)]
    target: StoreArg,
    /// I have looked at the schema, and it is that of VERSION.
    #[arg(long)]
    pub(crate) i_verified: bool,
    #[command(flatten)]
    urls: UrlArgs,
    /// The cluster that ClickHouse's tables are on, if they are on one, such as main.
    #[arg(long, value_name = "NAME")]
    cluster: Option<ClusterName>,
}

#[derive(Args)]
pub(crate) struct Create {
    /// What it is about, for the files' names: 1 to 64 of a-z, 0-9 and _, such as add_teams.
    pub(crate) name: String,
    /// The database that the migration is for.
    #[arg(long, value_enum)]
    target: StoreArg,
    /// The directory with the directories postgres and clickhouse, where the migrations are.
    #[arg(long, default_value = "schema/migrations")]
    pub(crate) dir: PathBuf,
}

#[derive(Args)]
pub(crate) struct TargetArgs {
    /// The databases that the command is for.
    #[arg(long, value_enum, default_value_t = TargetArg::All)]
    target: TargetArg,
    #[command(flatten)]
    urls: UrlArgs,
}

#[derive(Args)]
struct UrlArgs {
    /// Postgres, as the owner of the schema, such as postgres://owner:pw@db/tracebility. ClickHouse is migrated under a
    /// lock in Postgres, so needs it too.
    #[arg(long, env = "TRACEBILITY_PG_OWNER_DSN", hide_env_values = true, value_name = "URL")]
    pg_owner_dsn: Option<String>,
    /// Postgres, used when there is no owner's URL.
    #[arg(long, env = "TRACEBILITY_PG_DSN", hide_env_values = true, value_name = "URL")]
    pg_dsn: Option<String>,
    /// ClickHouse's HTTP interface, with the database, such as http://writer:pw@ch:8123/tracebility.
    #[arg(long, env = "TRACEBILITY_CLICKHOUSE_URL", hide_env_values = true, value_name = "URL")]
    clickhouse_url: Option<String>,
}

/// How ClickHouse is migrated.
#[derive(Args)]
struct ClickHouseArgs {
    /// Make ClickHouse's tables on this cluster, replicated: its name in ClickHouse, such as main.
    #[arg(long, value_name = "NAME")]
    cluster: Option<ClusterName>,
    /// Leave rows of projects that no org has in the old tables, instead of stopping.
    #[arg(long)]
    leave_orphans: bool,
    /// Postgres as ClickHouse reaches it, to learn the orgs of old rows, which have none. A new
    /// deployment needs no such URL.
    #[arg(long, env = "TRACEBILITY_CLICKHOUSE_REGISTRY_DSN", hide_env_values = true, value_name = "URL")]
    registry_dsn: Option<String>,
    /// Postgres, used when there is no URL that is ClickHouse's own.
    #[arg(long, env = "TRACEBILITY_PG_OPERATOR_DSN", hide_env_values = true, value_name = "URL")]
    pg_operator_dsn: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum StoreArg {
    /// Orgs, projects, API keys and limits.
    Postgres,
    /// Runs, spans and what is billed for them.
    Clickhouse,
}

#[derive(Clone, Copy, ValueEnum)]
enum TargetArg {
    /// Orgs, projects, API keys and limits.
    Postgres,
    /// Runs, spans and what is billed for them.
    Clickhouse,
    /// Both, one after the other.
    All,
}

impl From<StoreArg> for Store {
    fn from(arg: StoreArg) -> Self {
        match arg {
            StoreArg::Postgres => Self::Postgres,
            StoreArg::Clickhouse => Self::Clickhouse,
        }
    }
}

impl Up {
    pub(crate) fn options(&self) -> Options {
        self.how.options()
    }
}

impl Down {
    pub(crate) const fn count(&self) -> Count {
        if self.all { Count::All } else { Count::Newest(self.count) }
    }

    pub(crate) fn options(&self) -> Options {
        self.how.options()
    }
}

impl Force {
    pub(crate) fn store(&self) -> Store {
        self.target.into()
    }

    pub(crate) fn stores(&self) -> Stores {
        self.urls.stores()
    }

    pub(crate) fn options(&self) -> Options {
        Options { cluster: self.cluster.clone(), ..Options::default() }
    }
}

impl Create {
    pub(crate) fn store(&self) -> Store {
        self.target.into()
    }
}

impl TargetArgs {
    pub(crate) const fn target(&self) -> Target {
        match self.target {
            TargetArg::Postgres => Target::Postgres,
            TargetArg::Clickhouse => Target::Clickhouse,
            TargetArg::All => Target::All,
        }
    }

    pub(crate) fn stores(&self) -> Stores {
        self.urls.stores()
    }
}

impl UrlArgs {
    fn stores(&self) -> Stores {
        let postgres = set(self.pg_owner_dsn.as_ref()).or_else(|| set(self.pg_dsn.as_ref()));
        Stores { postgres, clickhouse: set(self.clickhouse_url.as_ref()) }
    }
}

impl ClickHouseArgs {
    fn options(&self) -> Options {
        Options {
            cluster: self.cluster.clone(),
            registry_dsn: set(self.registry_dsn.as_ref()).or_else(|| set(self.pg_operator_dsn.as_ref())),
            leave_orphans: self.leave_orphans,
            ..Options::default()
        }
    }
}

/// A blank setting counts as unset.
fn set(text: Option<&String>) -> Option<String> {
    text.filter(|text| !text.trim().is_empty()).cloned()
}
