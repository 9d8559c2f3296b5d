//! The holder: one process that owns the servers of a test run, as long as any test process is connected to it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use rand::Rng;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::Instant;

use crate::lock::Lock;
use crate::socket::{Reply, Request};
use crate::stack::Stack;
use crate::state::State;
use crate::{Given, Layout, StackError, Urls, clickhouse, down, http, postgres, progress, redis, socket};

/// Test programs of one `cargo test` run one after the other, with pauses in between.
const IDLE_LIMIT: Duration = Duration::from_secs(10);
/// The one who started us connects first, or has been killed.
const FIRST_LIMIT: Duration = Duration::from_secs(60);
/// How often to look whether anybody is left.
const POLL_EVERY: Duration = Duration::from_millis(200);
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// The file that test processes lock while they look for a holder. It stays: removing a lock while others wait for it
/// would let two of them in.
pub(crate) fn run_lock(layout: &Layout) -> PathBuf {
    layout.root().with_extension("lock")
}

/// Starts the servers, serves them, and removes everything once the last connection has been gone for a while.
pub async fn hold(layout: &Layout) -> Result<(), StackError> {
    // What a holder left behind that was killed.
    down(layout, false).await?;
    let served = LocalSet::new().run_until(serve(layout)).await;
    let removed = down(layout, false).await;
    // Released last: a test process that waits for it starts the next holder.
    let _run_lock = served?;
    removed
}

async fn serve(layout: &Layout) -> Result<Option<Lock>, StackError> {
    let mut stack = Stack::open(layout, false).await?;
    stack.die_with_us();
    stack.start_servers().await?;
    let databases = Rc::new(Databases::of(&stack.state).await?);
    // Not needed any more, and `down` wants the lock in it.
    drop(stack);
    let fail = StackError::file("listen in", layout.root());
    let listener = socket::listen(layout.root())?;
    let mut terminated = signal(SignalKind::terminate()).map_err(fail)?;
    let mut connections = JoinSet::new();
    let mut idle_since = Instant::now();
    let mut idle_limit = FIRST_LIMIT;
    progress::say("serving");
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    idle_limit = IDLE_LIMIT;
                    connections.spawn_local(connection(stream, Rc::clone(&databases)));
                }
            }
            _ = terminated.recv() => return Ok(None),
            () = tokio::time::sleep(POLL_EVERY) => {}
        }
        while connections.try_join_next().is_some() {}
        if !connections.is_empty() {
            idle_since = Instant::now();
        } else if idle_since.elapsed() >= idle_limit {
            // Whoever has the lock is about to connect.
            if let Some(lock) = Lock::try_acquire(&run_lock(layout))? {
                databases.drop_the_rest().await;
                return Ok(Some(lock));
            }
        }
    }
}

/// Answers one request and keeps what it handed out until the connection closes.
async fn connection(mut stream: UnixStream, databases: Rc<Databases>) {
    let asked = tokio::time::timeout(REQUEST_LIMIT, socket::read_line(&mut stream)).await;
    let Ok(Ok(Some(request))) = asked else { return };
    let (reply, taken) = match request {
        Request::Join => (Reply::Urls(databases.shared.clone()), None),
        Request::FreshDatabase => match databases.take().await {
            Ok((urls, taken)) => (Reply::Urls(urls), Some(taken)),
            Err(e) => (Reply::Refused(e.to_string()), None),
        },
    };
    if socket::write_line(&mut stream, &reply).await.is_ok() {
        // Ends when the other side closes; nothing else is ever sent.
        _ = stream.read(&mut [0]).await;
    }
    if let Some(taken) = taken {
        databases.give_back(taken).await;
    }
}

/// Databases for tests that must not see each other.
struct Databases {
    shared: Urls,
    /// May drop a database that somebody is still connected to.
    pg_admin_dsn: String,
    /// Somebody else's server: what is in it is not ours to flush.
    redis_is_given: bool,
    /// Nobody else makes databases there.
    all_ours: bool,
    redis_count: u16,
    redis_taken: RefCell<BTreeSet<u16>>,
    /// What could not be dropped because somebody was still connected; tried again at the end.
    undropped: RefCell<Vec<Taken>>,
}

struct Taken {
    name: String,
    redis_number: u16,
}

impl Databases {
    async fn of(state: &State) -> Result<Self, StackError> {
        let shared = state.urls();
        let redis_is_given = state.given.redis.is_some();
        let redis_count = if redis_is_given {
            let mut ask = ::redis::cmd("CONFIG");
            ask.arg("GET").arg("databases");
            let answer: Vec<String> = redis::command(&shared.redis_url, ask).await?;
            answer.get(1).and_then(|count| count.parse().ok()).unwrap_or(1)
        } else {
            redis::DATABASES
        };
        let pg_admin_dsn = postgres::admin_dsn(state);
        Ok(Self {
            shared,
            pg_admin_dsn,
            redis_is_given,
            all_ours: state.given == Given::default(),
            redis_count,
            redis_taken: RefCell::default(),
            undropped: RefCell::default(),
        })
    }

    async fn take(&self) -> Result<(Urls, Taken), StackError> {
        let redis_number = self.take_redis().await?;
        let name = if self.all_ours {
            clickhouse::database(redis_number)
        } else {
            format!("test_{:016x}", rand::rng().random::<u64>())
        };
        let taken = Taken { name, redis_number };
        match self.create(&taken).await {
            Ok(urls) => Ok((urls, taken)),
            Err(e) => {
                self.give_back(taken).await;
                Err(e)
            }
        }
    }

    async fn create(&self, taken: &Taken) -> Result<Urls, StackError> {
        let (name, on_cluster) = (&taken.name, self.shared.on_cluster());
        let owner = &self.shared.pg_owner_dsn;
        postgres::query(owner, &[&format!("CREATE DATABASE {name}")]).await?;
        http::clickhouse(&self.shared.clickhouse_url, &format!("CREATE DATABASE {name}{on_cluster}")).await?;
        Ok(Urls {
            pg_owner_dsn: postgres::with_database(owner, name)?,
            pg_app_dsn: postgres::with_database(&self.shared.pg_app_dsn, name)?,
            pg_operator_dsn: postgres::with_database(&self.shared.pg_operator_dsn, name)?,
            redis_url: redis::with_database(&self.shared.redis_url, taken.redis_number)?,
            clickhouse_url: clickhouse::with_database(&self.shared.clickhouse_url, name)?,
            clickhouse_cluster: self.shared.clickhouse_cluster.clone(),
            users: self.shared.users.clone(),
        })
    }

    /// A logical database of Redis that is empty: one of ours is emptied, another's is passed over.
    async fn take_redis(&self) -> Result<u16, StackError> {
        for number in 1..self.redis_count {
            if !self.redis_taken.borrow_mut().insert(number) {
                continue;
            }
            let url = redis::with_database(&self.shared.redis_url, number)?;
            if self.redis_is_given {
                if redis::command::<u64>(&url, ::redis::cmd("DBSIZE")).await? == 0 {
                    return Ok(number);
                }
                self.redis_taken.borrow_mut().remove(&number);
            } else {
                redis::command::<()>(&url, ::redis::cmd("FLUSHDB")).await?;
                return Ok(number);
            }
        }
        Err(StackError::Setting(format!(
            "all {} logical databases of Redis are in use; drop a TestDb before making more",
            self.redis_count
        )))
    }

    async fn give_back(&self, taken: Taken) {
        if self.drop_all(&taken).await.is_err() {
            self.undropped.borrow_mut().push(taken);
        }
    }

    /// Best effort: on servers of ours everything goes with them.
    async fn drop_the_rest(&self) {
        for taken in self.undropped.take() {
            if let Err(e) = self.drop_all(&taken).await {
                progress::say(&format!("{} stays behind: {e}", taken.name));
            }
        }
    }

    async fn drop_all(&self, taken: &Taken) -> Result<(), StackError> {
        let (name, on_cluster) = (&taken.name, self.shared.on_cluster());
        let redis_url = redis::with_database(&self.shared.redis_url, taken.redis_number)?;
        redis::command::<()>(&redis_url, ::redis::cmd("FLUSHDB")).await?;
        http::clickhouse(&self.shared.clickhouse_url, &format!("DROP DATABASE IF EXISTS {name}{on_cluster}")).await?;
        postgres::query(&self.pg_admin_dsn, &[&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")]).await?;
        // Its number names the others.
        self.redis_taken.borrow_mut().remove(&taken.redis_number);
        Ok(())
    }
}
