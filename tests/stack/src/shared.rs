//! One set of servers for all test processes of a checkout.

use std::ops::Deref;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use tokio::sync::OnceCell;

use crate::binaries::{Build, Show};
use crate::lock::Lock;
use crate::process::{Launch, ProcessId};
use crate::socket::{Request, ask};
use crate::{Layout, StackError, Urls, binaries, hold, layout, logs, wait};

/// The first test process may have to install Postgres and Redis and to download ClickHouse; the others wait for it.
const START_LIMIT: Duration = Duration::from_secs(3600);
const LOG_LINES_SHOWN: usize = 40;

/// Postgres, Redis and ClickHouse, running for as long as this process does.
#[derive(Debug)]
pub struct Shared {
    urls: Urls,
    layout: Layout,
    /// Keeps the servers running.
    _joined: UnixStream,
}

/// Databases that nobody else uses: one in Postgres, owned by `tracebility_owner` and empty, one in ClickHouse, and a
/// logical one in Redis. They are dropped with this value.
#[derive(Debug)]
pub struct TestDb {
    urls: Urls,
    _lease: UnixStream,
}

/// The servers of this test run; the first call starts them.
///
/// ```no_run
/// # async fn example() -> Result<(), stack::StackError> {
/// let db = stack::shared().await?.fresh_database().await?;
/// stack::migrate(&db).await?;
/// println!("{}", db.pg_app_dsn);
/// # Ok(())
/// # }
/// ```
pub async fn shared() -> Result<&'static Shared, StackError> {
    static SHARED: OnceCell<Shared> = OnceCell::const_new();
    SHARED.get_or_try_init(|| Shared::join(test_layout())).await
}

/// Where the servers of a test run live: with the build, so that `cargo clean` removes what nothing else did.
fn test_layout() -> Layout {
    Layout::new(binaries::target_dir().join("stack-tests"))
}

impl Shared {
    /// Databases for one test.
    pub async fn fresh_database(&self) -> Result<TestDb, StackError> {
        let asked = ask(self.layout.root(), Request::FreshDatabase).await?;
        let (urls, lease) = asked.ok_or_else(|| {
            StackError::Setting("the test servers were stopped while this test ran; run the tests again".into())
        })?;
        Ok(TestDb { urls, _lease: lease })
    }

    async fn join(layout: Layout) -> Result<Self, StackError> {
        if let Some(parent) = layout.root().parent() {
            std::fs::create_dir_all(parent).map_err(StackError::file("create directory", parent))?;
        }
        // Held until connected: the holder does not end while anybody has it.
        let _lock = Lock::acquire(&hold::run_lock(&layout), START_LIMIT).await?;
        if let Some((urls, joined)) = ask(layout.root(), Request::Join).await? {
            return Ok(Self { urls, layout, _joined: joined });
        }
        binaries::build(Build::ServersOnly, Show::FailureOnly).await?;
        let log = layout.root().with_extension("log");
        // Of the last run, which may have been long ago.
        layout::remove_file(&log)?;
        let launch = Launch::new(binaries::path("stack")?, &layout::workspace(), &log);
        let holder =
            launch.args(["hold".into(), "--dir".into(), layout.root().as_os_str().to_owned()]).keep_env().spawn()?;
        let answered = wait::until(START_LIMIT, async || first_answer(&layout, holder).await.transpose()).await;
        match answered {
            Some(Ok((urls, joined))) => Ok(Self { urls, layout, _joined: joined }),
            Some(Err(StackError::NotReady { name, problem, .. })) => {
                Err(StackError::NotReady { name, problem, tail: logs::tail(&log, LOG_LINES_SHOWN), log })
            }
            Some(Err(e)) => Err(e),
            None => Err(StackError::Timeout { what: "starting the test servers".into(), limit: START_LIMIT }),
        }
    }
}

/// The holder's first answer; none as long as it is still starting the servers.
async fn first_answer(layout: &Layout, holder: ProcessId) -> Result<Option<(Urls, UnixStream)>, StackError> {
    let alive = holder.is_alive();
    let answer = ask(layout.root(), Request::Join).await?;
    if answer.is_none() && !alive {
        return Err(StackError::NotReady {
            name: "the holder of the test servers".into(),
            problem: "ended while starting".into(),
            log: layout.root().to_owned(),
            tail: String::new(),
        });
    }
    Ok(answer)
}

impl Deref for Shared {
    type Target = Urls;

    fn deref(&self) -> &Urls {
        &self.urls
    }
}

impl Deref for TestDb {
    type Target = Urls;

    fn deref(&self) -> &Urls {
        &self.urls
    }
}
