//! `ingest-api` and `ingest-worker` as a test runs them: started, broken and restarted at will.

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::binaries::{Build, Show};
use crate::lock::Lock;
use crate::process::{ProcessId, signal_named};
use crate::services::ServicePorts;
use crate::stack::{READY_LIMIT, ready};
use crate::{Layout, Name, StackError, Urls, binaries, logs, ports, services};

/// Another test program may be building the same thing.
const BUILD_LOCK_LIMIT: Duration = Duration::from_secs(3600);
/// Longer than any drain a service promises.
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// A port can be taken between choosing it and using it.
const START_ATTEMPTS_MAX: usize = 3;
const LOG_LINES_SHOWN: usize = 60;

/// One service process. It is killed when dropped, and when the test process ends in any other way.
#[derive(Debug)]
pub struct Service {
    name: Name,
    urls: Urls,
    env: Vec<(String, String)>,
    admin_key: String,
    ports: ServicePorts,
    process: Option<ProcessId>,
    layout: Layout,
    _dir: TempDir,
}

/// Both services on the same stores.
#[derive(Debug)]
pub struct Services {
    /// `ingest-api`, which was ready when this was returned.
    pub api: Service,
    /// `ingest-worker`, which was ready when this was returned.
    pub worker: Service,
}

impl Services {
    /// Starts both and waits until they are ready. The stores must have been migrated.
    pub async fn start(urls: &Urls) -> Result<Self, StackError> {
        Ok(Self { worker: Service::ingest_worker(urls, &[]).await?, api: Service::ingest_api(urls, &[]).await? })
    }
}

impl Service {
    /// Starts `ingest-api` with additional settings and waits until it is ready.
    pub async fn ingest_api(urls: &Urls, env: &[(&str, &str)]) -> Result<Self, StackError> {
        Self::begin(Name::IngestApi, urls, env).await
    }

    /// Starts `ingest-worker` with additional settings and waits until it is ready.
    pub async fn ingest_worker(urls: &Urls, env: &[(&str, &str)]) -> Result<Self, StackError> {
        Self::begin(Name::IngestWorker, urls, env).await
    }

    async fn begin(name: Name, urls: &Urls, env: &[(&str, &str)]) -> Result<Self, StackError> {
        build().await?;
        let dir = TempDir::with_prefix(format!("tracebility-{name}-"));
        let dir = dir.map_err(StackError::file("create a directory in", &std::env::temp_dir()))?;
        let layout = Layout::new(dir.path());
        layout.create()?;
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut service = Self {
            name,
            urls: urls.clone(),
            env,
            admin_key: "test-admin-key-of-at-least-32-characters".into(),
            ports: choose_ports()?,
            process: None,
            layout,
            _dir: dir,
        };
        for attempt in 1.. {
            match service.start().await {
                Err(StackError::NotReady { tail, .. })
                    if attempt < START_ATTEMPTS_MAX && tail.to_lowercase().contains("address already in use") =>
                {
                    service.ports = choose_ports()?;
                }
                other => return other.map(|()| service),
            }
        }
        Ok(service)
    }

    /// The main listener: the ingest API, or the worker's health and metrics.
    pub fn url(&self) -> String {
        let port = if self.name == Name::IngestApi { self.ports.ingest } else { self.ports.worker };
        format!("http://127.0.0.1:{port}")
    }

    /// OTLP over gRPC, of `ingest-api`.
    pub fn otlp_grpc_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.otlp_grpc)
    }

    /// The operator's API, of `ingest-api`.
    pub fn operator_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.operator)
    }

    /// The key of the operator's API.
    pub fn admin_key(&self) -> &str {
        &self.admin_key
    }

    /// Its process, as long as it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.filter(|process| process.is_alive()).map(|process| process.pid)
    }

    /// Changes a setting for the next start.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.env.retain(|(old, _)| old != name);
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// Leaves a setting to its default from the next start on.
    pub fn unset_env(&mut self, name: &str) {
        self.env.retain(|(old, _)| old != name);
    }

    /// Starts it again after `kill` or `stop`, where it was before, and waits until it is ready.
    pub async fn start(&mut self) -> Result<(), StackError> {
        self.start_without_waiting().await?;
        self.ready().await
    }

    /// Starts it without waiting: for a service that is expected not to become ready.
    pub async fn start_without_waiting(&mut self) -> Result<(), StackError> {
        if let Some(process) = self.process.take() {
            process.kill().await?;
        }
        let mut settings = services::settings(self.name, &self.urls, &self.ports, &self.admin_key)?;
        settings.extend(self.env.iter().cloned());
        self.process = Some(services::start(&self.layout, self.name, settings, Some("KILL"))?);
        Ok(())
    }

    /// Waits until it is ready.
    pub async fn ready(&self) -> Result<(), StackError> {
        let Some(process) = self.process else {
            return Err(StackError::Setting(format!("{} was not started", self.name)));
        };
        ready(self.name, process, &self.layout, READY_LIMIT, async || services::probe(self.name, &self.ports).await)
            .await
    }

    /// Sends any signal, by name, and returns at once.
    pub fn signal(&self, signal: &str) -> Result<(), StackError> {
        let signal = signal_named(signal)?;
        if let Some(process) = self.process {
            process.signal(signal)?;
        }
        Ok(())
    }

    /// Kills it as a crash would, and waits until it is gone.
    pub async fn kill(&mut self) -> Result<(), StackError> {
        match self.process.take() {
            Some(process) => process.kill().await,
            None => Ok(()),
        }
    }

    /// Asks it to drain and waits until it has ended by itself; killing it is the caller's decision.
    pub async fn stop(&mut self) -> Result<(), StackError> {
        let Some(process) = self.process else { return Ok(()) };
        if process.signal(Signal::TERM)? && !process.ended(STOP_LIMIT).await {
            let what = format!("the graceful stop of {}; its log ends with:\n{}\nit", self.name, self.log());
            return Err(StackError::Timeout { what, limit: STOP_LIMIT });
        }
        self.process = None;
        Ok(())
    }

    /// Stops it gracefully and starts it again.
    pub async fn restart(&mut self) -> Result<(), StackError> {
        self.stop().await?;
        self.start().await
    }

    /// The last lines it wrote, over all its starts.
    pub fn log(&self) -> String {
        logs::tail(&self.layout.log(self.name), LOG_LINES_SHOWN)
    }

    /// The file it writes to.
    pub fn log_file(&self) -> impl AsRef<Path> + use<> {
        self.layout.log(self.name)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(process) = self.process {
            // Best effort: it dies with this process at the latest.
            _ = process.signal(Signal::KILL);
        }
        if std::thread::panicking() {
            eprintln!("the log of {} ends with:\n{}", self.name, self.log());
        }
    }
}

fn choose_ports() -> Result<ServicePorts, StackError> {
    Ok(ServicePorts {
        ingest: ports::free()?,
        otlp_grpc: ports::free()?,
        operator: ports::free()?,
        worker: ports::free()?,
    })
}

/// Brings both stores to the schema of this checkout.
pub async fn migrate(urls: &Urls) -> Result<(), StackError> {
    build().await?;
    services::migrate(urls).await
}

/// Builds the executables once per test process: `cargo test` builds none of other packages, so what is there may be
/// old. When nothing has changed this takes a fraction of a second.
async fn build() -> Result<(), StackError> {
    static BUILT: OnceCell<()> = OnceCell::const_new();
    let built = BUILT.get_or_try_init(|| async {
        let lock = binaries::target_dir().join("stack-build.lock");
        let _lock = Lock::acquire(&lock, BUILD_LOCK_LIMIT).await?;
        binaries::build(Build::All, Show::FailureOnly).await
    });
    built.await.copied()
}
