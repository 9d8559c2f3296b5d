//! One stack: bringing it up, looking at it, breaking it on purpose, taking it down.

use std::time::Duration;

use rustix::process::Signal;
use serde::Serialize;

use crate::binaries::{Build, Show};
use crate::given::{Given, Source};
use crate::install::Programs;
use crate::lock::Lock;
use crate::process::{Launch, ProcessId, working_in};
use crate::state::State;
use crate::{
    Layout, Name, StackError, Urls, binaries, clickhouse, containers, env_file, logs, postgres, process, progress,
    redis, registry, services, wait,
};

/// Another command may be bringing the same stack up, and building for it.
const LOCK_LIMIT: Duration = Duration::from_secs(900);
/// Includes reading the data of an earlier run.
pub(crate) const READY_LIMIT: Duration = Duration::from_secs(60);
/// Includes pulling an image.
const CONTAINER_READY_LIMIT: Duration = Duration::from_secs(900);
/// A graceful stop writes buffers out; after this it is no longer worth waiting for.
const STOP_LIMIT: Duration = Duration::from_secs(20);
const LOG_LINES_SHOWN: usize = 20;

/// What to bring up.
#[derive(Clone, Copy, Debug)]
pub struct UpOptions {
    /// Only Postgres, Redis and ClickHouse, neither migrated nor with the services.
    pub servers_only: bool,
    /// Build the executables first, with cargo's progress on standard error.
    pub build: bool,
}

impl Default for UpOptions {
    fn default() -> Self {
        Self { servers_only: false, build: true }
    }
}

/// How to talk to a stack.
#[derive(Clone, Debug)]
pub struct Endpoints {
    /// `ingest-api`: OTLP over HTTP and the native batch endpoint.
    pub ingest_url: String,
    /// `ingest-api`: OTLP over gRPC.
    pub otlp_grpc_url: String,
    /// `ingest-api`: the operator's API.
    pub operator_url: String,
    /// A key of the project that was created with the stack; none before the services were started once.
    pub api_key: Option<String>,
    /// The key for `operator_url`, which is `TRACEBILITY_ADMIN_KEY` of `ingest-api`.
    pub admin_key: String,
    /// The servers behind the services.
    pub urls: Urls,
}

impl Endpoints {
    pub(crate) fn of(state: &State) -> Self {
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        Self {
            ingest_url: url(state.ports.services.ingest),
            otlp_grpc_url: url(state.ports.services.otlp_grpc),
            operator_url: url(state.ports.services.operator),
            api_key: state.api_key.clone(),
            admin_key: state.secrets.admin_key.clone(),
            urls: state.urls(),
        }
    }

    /// As environment variables, as in `stack.env`.
    pub fn variables(&self) -> Vec<(&'static str, &str)> {
        let mut variables = vec![
            ("TRACEBILITY_INGEST_URL", self.ingest_url.as_str()),
            ("TRACEBILITY_OTLP_GRPC_URL", &self.otlp_grpc_url),
            ("TRACEBILITY_OPERATOR_URL", &self.operator_url),
        ];
        variables.extend(self.api_key.as_deref().map(|key| ("TRACEBILITY_API_KEY", key)));
        variables.extend([
            ("TRACEBILITY_ADMIN_KEY", self.admin_key.as_str()),
            ("TRACEBILITY_PG_DSN", &self.urls.pg_app_dsn),
            ("TRACEBILITY_PG_OPERATOR_DSN", &self.urls.pg_operator_dsn),
            ("TRACEBILITY_PG_OWNER_DSN", &self.urls.pg_owner_dsn),
            ("TRACEBILITY_REDIS_URL", &self.urls.redis_url),
            ("TRACEBILITY_CLICKHOUSE_URL", &self.urls.clickhouse_url),
        ]);
        variables
    }
}

/// How a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// It runs and answers.
    Ready,
    /// It runs, or is somebody else's, and does not answer.
    NotReady,
    /// It does not run.
    Stopped,
}

/// One line of `stack status`.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessStatus {
    /// The name of the process, as every command of `cargo stack` takes it.
    pub name: Name,
    /// Its number; none if it does not run or is not ours.
    pub pid: Option<u32>,
    /// Host and port where it listens.
    pub address: String,
    /// Whether it runs and answers.
    pub health: Health,
    /// Why it is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Brings everything up and returns when it is ready. What already runs is only checked.
pub async fn up(layout: &Layout, options: &UpOptions) -> Result<Endpoints, StackError> {
    // Before the build, which takes minutes.
    if Source::from_env()? == Source::Containers {
        containers::check()?;
    }
    if options.build {
        let what = if options.servers_only { Build::ServersOnly } else { Build::All };
        binaries::build(what, Show::Progress).await?;
    }
    let mut stack = Stack::open(layout, true).await?;
    stack.start_servers().await?;
    if !options.servers_only {
        stack.start_services().await?;
    }
    env_file::write(layout, &stack.state)?;
    Ok(Endpoints::of(&stack.state))
}

/// How to talk to the stack in this directory.
pub fn endpoints(layout: &Layout) -> Result<Endpoints, StackError> {
    State::load(layout)?.map(|state| Endpoints::of(&state)).ok_or_else(|| no_stack(layout))
}

/// Stops everything; removes the data too, unless it is to be kept for the next `up`.
pub async fn down(layout: &Layout, keep_data: bool) -> Result<(), StackError> {
    if !layout.root().is_dir() {
        return Ok(());
    }
    let _lock = Lock::acquire(&layout.lock_file(), LOCK_LIMIT).await?;
    // A state that cannot be read must not keep anybody from cleaning up: leftovers are found without it.
    let state = State::load(layout).ok().flatten();
    for name in Name::ALL.into_iter().rev() {
        let recorded = state.as_ref().and_then(|state| state.running(name));
        stop(layout, name, recorded).await?;
        if state.as_ref().is_some_and(|state| state.is_container(name)) {
            containers::remove(layout, name, !keep_data).await?;
        }
    }
    if keep_data { Ok(()) } else { layout.remove() }
}

/// The processes and how they are.
pub async fn status(layout: &Layout) -> Result<Vec<ProcessStatus>, StackError> {
    let state = State::load(layout)?.ok_or_else(|| no_stack(layout))?;
    let mut all = Vec::new();
    for name in Name::ALL {
        let running = state.running(name);
        let (health, detail) = if running.is_none() && !state.given.has(name) {
            (Health::Stopped, None)
        } else {
            match probe(name, &state).await {
                Ok(()) => (Health::Ready, None),
                Err(e) => (Health::NotReady, Some(e.to_string())),
            }
        };
        let pid = running.map(|process| process.pid);
        all.push(ProcessStatus { name, pid, address: address(name, &state), health, detail });
    }
    Ok(all)
}

/// Starts one process that does not run, and waits until it is ready.
pub async fn start(layout: &Layout, name: Name) -> Result<(), StackError> {
    State::load(layout)?.ok_or_else(|| no_stack(layout))?;
    start_with(layout, name, Extra::default()).await
}

/// What Redis or ClickHouse gets in addition, for one start.
#[derive(Clone, Debug, Default)]
pub struct Extra {
    /// Variables to set in its environment, each with its value.
    pub environment: Vec<(String, String)>,
    /// Lines of `redis.conf`, which outdo those before.
    pub redis_conf: String,
}

/// The same, and gives it something in addition.
pub async fn start_with(layout: &Layout, name: Name, extra: Extra) -> Result<(), StackError> {
    let mut stack = Stack::open(layout, true).await?;
    stack.extra = extra;
    stack.ensure(name).await
}

/// Sends a signal to one process, and says whether it has ended. A process that was killed or asked to stop is waited
/// for.
pub async fn kill(layout: &Layout, name: Name, signal: &str) -> Result<bool, StackError> {
    let signal = process::signal_named(signal)?;
    let state = State::load(layout)?.ok_or_else(|| no_stack(layout))?;
    let Some(process) = state.running(name) else {
        return Err(StackError::Setting(format!("{name} does not run; start it with: cargo stack start {name}")));
    };
    if state.is_container(name) {
        containers::signal(layout, name, signal).await?;
    } else {
        process.signal(signal)?;
    }
    let ends_it = [Signal::KILL, Signal::TERM, Signal::INT, Signal::QUIT].contains(&signal);
    Ok(if ends_it { process.ended(STOP_LIMIT).await } else { !process.is_alive() })
}

fn no_stack(layout: &Layout) -> StackError {
    StackError::NoStack { dir: layout.root().to_owned() }
}

/// A stack that no other command changes meanwhile.
pub(crate) struct Stack {
    layout: Layout,
    pub(crate) state: State,
    on_parent_death: Option<&'static str>,
    extra: Extra,
    _lock: Lock,
}

impl Stack {
    /// Opens the stack of a directory, or decides on a new one.
    pub(crate) async fn open(layout: &Layout, durable: bool) -> Result<Self, StackError> {
        let source = Source::from_env()?;
        let given = Given::from_env(source)?;
        let wants_containers = source == Source::Containers;
        if wants_containers {
            containers::check()?;
        }
        layout.create()?;
        let lock = Lock::acquire(&layout.lock_file(), LOCK_LIMIT).await?;
        let state = match State::load(layout)? {
            Some(state) if !given.agrees_with(&state.given) || (wants_containers && !state.containers) => {
                return Err(StackError::Setting(format!(
                    "the stack in {} was started with other servers than the environment asks for now; keep it by \
                     unsetting those TRACEBILITY_* variables, or remove it with: cargo stack down",
                    layout.root().display()
                )));
            }
            Some(state) => state,
            None => State::choose(given, wants_containers, durable)?,
        };
        state.save(layout)?;
        Ok(Self { layout: layout.clone(), state, on_parent_death: None, extra: Extra::default(), _lock: lock })
    }

    /// The processes started from here on end with this one.
    pub(crate) fn die_with_us(&mut self) {
        self.on_parent_death = Some("TERM");
    }

    /// Starts what is missing of the three servers.
    pub(crate) async fn start_servers(&mut self) -> Result<(), StackError> {
        for name in Name::SERVERS {
            self.ensure(name).await?;
        }
        Ok(())
    }

    /// Migrates, creates a key if there is none, and starts what is missing of the two services.
    async fn start_services(&mut self) -> Result<(), StackError> {
        let urls = self.state.urls();
        progress::say("migrating Postgres and ClickHouse");
        services::migrate(&urls).await?;
        if self.state.api_key.is_none() {
            self.state.api_key = Some(registry::issue_key(&urls).await?);
            self.state.save(&self.layout)?;
        }
        for name in Name::SERVICES {
            self.ensure(name).await?;
        }
        Ok(())
    }

    /// Makes sure that one process runs and is ready.
    async fn ensure(&mut self, name: Name) -> Result<(), StackError> {
        if self.state.given.has(name) {
            return probe(name, &self.state).await;
        }
        let running = self.state.running(name);
        let process = match running {
            Some(process) if !(Name::SERVICES.contains(&name) && process.is_outdated()) => process,
            _ => {
                progress::say(&format!("starting {name}"));
                // Also ends what an interrupted command started and could not write down.
                stop(&self.layout, name, running).await?;
                self.spawn(name).await?
            }
        };
        self.ready(name, process).await?;
        match name {
            Name::Postgres => postgres::provision(&self.state).await,
            Name::Clickhouse => clickhouse::provision(&self.state).await,
            Name::Redis | Name::IngestApi | Name::IngestWorker => Ok(()),
        }
    }

    async fn spawn(&mut self, name: Name) -> Result<ProcessId, StackError> {
        if self.state.is_container(name) {
            return self.spawn_container(name).await;
        }
        let programs = Programs::ensure(&[name]).await?;
        if name == Name::Postgres && !postgres::has_data(&self.layout)? {
            // The key's hash was in the data that is gone.
            self.state.api_key = None;
        }
        // Before the start: ports and passwords go into the server's own files.
        self.state.save(&self.layout)?;
        let (layout, state, end) = (&self.layout, &self.state, self.on_parent_death);
        let process = match name {
            Name::Postgres => postgres::start(layout, state, &programs, end).await?,
            Name::Redis => redis::start(layout, state, &programs, end, &self.extra)?,
            Name::Clickhouse => clickhouse::start(layout, state, &programs, end, &self.extra)?,
            Name::IngestApi | Name::IngestWorker => {
                let (urls, ports) = (state.urls(), &state.ports.services);
                let settings = services::settings(name, &urls, ports, &state.secrets.admin_key)?;
                services::start(layout, name, settings, end)?
            }
        };
        self.state.processes.insert(name, process);
        self.state.save(&self.layout)?;
        Ok(process)
    }

    /// Starts the process that looks after a container.
    async fn spawn_container(&mut self, name: Name) -> Result<ProcessId, StackError> {
        // One that lost its process still answers, and must not be taken for the new one.
        containers::remove(&self.layout, name, false).await?;
        let home = self.layout.home(name);
        std::fs::create_dir_all(&home).map_err(StackError::file("create directory", &home))?;
        let root = self.layout.root().as_os_str().to_owned();
        let mut launch = Launch::new(binaries::stack()?, &home, &self.layout.log(name)).args([
            "container".into(),
            name.as_str().into(),
            "--dir".into(),
            root,
        ]);
        launch.on_parent_death = self.on_parent_death;
        let process = launch.keep_env().spawn()?;
        self.state.processes.insert(name, process);
        self.state.save(&self.layout)?;
        Ok(process)
    }

    async fn ready(&self, name: Name, process: ProcessId) -> Result<(), StackError> {
        let limit = if self.state.is_container(name) { CONTAINER_READY_LIMIT } else { READY_LIMIT };
        ready(name, process, &self.layout, limit, async || probe(name, &self.state).await).await
    }
}

/// Waits until a process answers; says why if it does not.
pub(crate) async fn ready(
    name: Name,
    process: ProcessId,
    layout: &Layout,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> Result<(), StackError>,
) -> Result<(), StackError> {
    let mut problem = String::new();
    let answered = wait::until(limit, async || {
        if !process.is_alive() {
            return Some(Err("ended while starting".to_owned()));
        }
        match probe().await {
            Ok(()) => Some(Ok(())),
            Err(e) => {
                problem = e.to_string();
                None
            }
        }
    })
    .await;
    let problem = match answered {
        Some(Ok(())) => return Ok(()),
        Some(Err(problem)) => problem,
        None => format!("is not ready after {} s ({problem})", limit.as_secs()),
    };
    let log = layout.log(name);
    Err(StackError::NotReady { name: name.to_string(), problem, tail: logs::tail(&log, LOG_LINES_SHOWN), log })
}

async fn probe(name: Name, state: &State) -> Result<(), StackError> {
    match name {
        Name::Postgres => postgres::probe(state).await,
        Name::Redis => redis::probe(state).await,
        Name::Clickhouse => clickhouse::probe(state).await,
        Name::IngestApi | Name::IngestWorker => services::probe(name, &state.ports.services).await,
    }
}

/// Stops one process and whatever else works on its data.
async fn stop(layout: &Layout, name: Name, recorded: Option<ProcessId>) -> Result<(), StackError> {
    if let Some(process) = recorded {
        process.stop(name.stop_signal(), STOP_LIMIT).await?;
    }
    let home = if name == Name::Postgres { postgres::home(layout)?.join("data") } else { layout.home(name) };
    for leftover in working_in(&home, name) {
        leftover.kill().await?;
    }
    Ok(())
}

fn address(name: Name, state: &State) -> String {
    let ports = &state.ports.services;
    let given = |url: &str| {
        let url = url::Url::parse(url).ok();
        let part = url.and_then(|url| Some((url.host_str()?.to_owned(), url.port_or_known_default())));
        part.map_or_else(String::new, |(host, port)| port.map_or_else(|| host.clone(), |port| format!("{host}:{port}")))
    };
    let urls = state.urls();
    match name {
        Name::Postgres => given(&urls.pg_app_dsn),
        Name::Redis => given(&urls.redis_url),
        Name::Clickhouse => given(&urls.clickhouse_url),
        Name::IngestApi => format!("127.0.0.1:{}", ports.ingest),
        Name::IngestWorker => format!("127.0.0.1:{}", ports.worker),
    }
}
