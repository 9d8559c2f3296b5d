//! `cargo stack`: Postgres, Redis, ClickHouse and our services on this machine, for a person.

mod follow;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use stack::{Health, Layout, Name, UpOptions};

/// What was asked for is done, or everything answers.
const EXIT_READY: u8 = 0;
/// Something is not ready, as in `systemctl status`.
const EXIT_NOT_READY: u8 = 3;
/// There is no stack.
const EXIT_NO_STACK: u8 = 4;

/// Run Postgres, Redis, ClickHouse, ingest-api and ingest-worker on this machine.
///
/// Everything lives in one directory, listens on 127.0.0.1 only and is removed by `down`.
#[derive(Parser)]
#[command(
    name = "cargo stack",
    bin_name = "cargo stack",
    after_help = "Example:\n  cargo stack up && . .tracebility/stack.env"
)]
struct Args {
    /// The state directory [default: .tracebility in the workspace's root]
    #[arg(long, global = true)]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Start everything, or check and repair what already runs.
    ///
    /// Builds the services, installs missing servers (as root on Debian or Ubuntu; otherwise says how), migrates,
    /// creates an org, a project and a key, and returns when everything is ready. Data, ports and key survive.
    ///
    /// A server whose URL is in the environment is used and not started: TRACEBILITY_REDIS_URL,
    /// TRACEBILITY_CLICKHOUSE_URL, and for Postgres all of TRACEBILITY_PG_DSN, TRACEBILITY_PG_OPERATOR_DSN and
    /// TRACEBILITY_PG_OWNER_DSN. TRACEBILITY_STACK=local starts every server whatever is set, external starts none, and
    /// containers starts them as containers, which needs another build: cargo run -p stack --features containers --bin
    /// stack -- up
    #[command(
        after_help = "Example:\n  cargo stack up\n  . .tracebility/stack.env\n  curl $TRACEBILITY_INGEST_URL/readyz"
    )]
    Up {
        /// Start only Postgres, Redis and ClickHouse, with empty databases.
        #[arg(long, hide = true)]
        servers_only: bool,
    },
    /// Show each process, its address and whether it answers.
    ///
    /// Exits with 0 when everything is ready, 3 when something is not, and 4 when there is no stack.
    #[command(after_help = "Example:\n  cargo stack status --output json | jq '.[] | select(.health != \"ready\")'")]
    Status {
        /// How to print it.
        #[arg(long, value_enum, default_value = "text")]
        output: Output,
    },
    /// Start one process that was killed or has ended.
    #[command(after_help = "Example:\n  cargo stack start redis")]
    Start {
        /// The process: postgres, redis, clickhouse, ingest-api or ingest-worker.
        name: Name,
    },
    /// Send a signal to one process, to rehearse a failure.
    #[command(
        after_help = "Example:\n  cargo stack kill redis                # as a crash\n  cargo stack kill ingest-worker --signal TERM   # as a deployment"
    )]
    Kill {
        /// The process: postgres, redis, clickhouse, ingest-api or ingest-worker.
        name: Name,
        /// KILL, TERM, INT, HUP, QUIT, STOP, CONT, USR1 or USR2.
        #[arg(long, default_value = "KILL")]
        signal: String,
    },
    /// Print what one process, or every process, wrote.
    #[command(after_help = "Example:\n  cargo stack logs ingest-api --follow")]
    Logs {
        /// The process, such as ingest-api; all of them when left out.
        name: Option<Name>,
        /// Keep printing what is added, until Ctrl-C.
        #[arg(long, short)]
        follow: bool,
        /// How many of the last lines to print.
        #[arg(long, short = 'n', default_value_t = 200)]
        lines: usize,
    },
    /// Stop everything and remove its data.
    #[command(after_help = "Example:\n  cargo stack down --keep-data   # the next `up` continues where this one was")]
    Down {
        /// Keep data, ports and key for the next `up`.
        #[arg(long)]
        keep_data: bool,
    },
    /// Serve one set of servers to the test processes of this checkout, until the last of them is gone.
    #[command(hide = true)]
    Hold,
    /// Start one server as a container and look after it until it ends.
    #[command(hide = true)]
    Container {
        /// The server: postgres, redis or clickhouse.
        name: Name,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    /// A table to read.
    Text,
    /// One JSON array, with an object for each process.
    Json,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let layout = args.dir.map_or_else(Layout::of_checkout, Layout::new);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(run(&layout, args.action)));
    match done {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("error: {e:#}");
            let no_stack = matches!(e.downcast_ref(), Some(stack::StackError::NoStack { .. }));
            ExitCode::from(if no_stack { EXIT_NO_STACK } else { 1 })
        }
    }
}

async fn run(layout: &Layout, action: Action) -> anyhow::Result<u8> {
    match action {
        Action::Up { servers_only } => {
            let endpoints = stack::up(layout, &UpOptions { servers_only, build: true }).await?;
            print!("{}", table::of_processes(&stack::status(layout).await?));
            print!("{}", table::next_steps(layout, &endpoints));
        }
        Action::Status { output } => {
            let processes = stack::status(layout).await?;
            match output {
                Output::Text => print!("{}", table::of_processes(&processes)),
                Output::Json => println!("{}", serde_json::to_string_pretty(&processes)?),
            }
            let all_ready = processes.iter().all(|process| process.health == Health::Ready);
            return Ok(if all_ready { EXIT_READY } else { EXIT_NOT_READY });
        }
        Action::Start { name } => {
            stack::start(layout, name).await?;
            eprintln!("{name} is ready");
        }
        Action::Kill { name, signal } => {
            let ended = stack::kill(layout, name, &signal).await?;
            let how = if ended { "has ended" } else { "still runs" };
            eprintln!("{name} got {signal} and {how}");
        }
        Action::Logs { name, follow, lines } => {
            let names = name.map_or_else(|| Name::ALL.to_vec(), |name| vec![name]);
            follow::print(layout, &names, lines, follow).await?;
        }
        Action::Down { keep_data } => {
            stack::down(layout, keep_data).await?;
            eprintln!("stopped{}", if keep_data { "; the data is kept" } else { " and removed" });
        }
        Action::Hold => stack::hold(layout).await?,
        Action::Container { name } => stack::look_after(layout, name).await?,
    }
    Ok(EXIT_READY)
}
