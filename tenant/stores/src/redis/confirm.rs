//! Writes that are confirmed by a disk or by replicas before the caller gets a reply.
//!
//! `WAIT` and `WAITAOF` wait for what was written before them *on their own connection*, and block it. So a write and
//! its wait use the same connection, one of a few that nothing else uses. Writes that arrive while those are busy are
//! collected and sent together: one transaction, and one wait for all of them. A wait on another connection would prove
//! nothing: after a failover, a server that has never seen the write would answer it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::counter;
use model::shard::{SHARDS, Shard};
use redis::aio::ConnectionLike;
use redis::{Cmd, Pipeline, RedisError, RedisFuture, Value};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::ack::{AckClass, Wait};
use super::readiness::{ConnectError, Readiness};
use super::{Redis, connect_waiting};
use crate::secret::SecretUrl;

/// Connections that block in a wait, for a process that appends. So many waits can run at the same time.
pub const APPENDING: usize = 4;
/// The same for a worker: every shard may write an intent at the same time.
pub const ANNOUNCING: usize = SHARDS as usize;
/// The most writes that share one wait.
pub const ROUND_WRITES_MAX: usize = 256;
/// The most bytes of the writes that share one wait, unless a single write is larger.
pub const ROUND_BYTES_MAX: usize = 8 << 20;
/// Writes that wait at the same time. Further ones fail with [`ConfirmError::Busy`].
pub const WAITING_MAX: usize = 8_192;

/// Why a write is not confirmed.
#[derive(Debug, thiserror::Error)]
pub enum ConfirmError {
    /// Redis refused the write or did not answer. If the reply was lost, the write may have happened.
    #[error("redis: {0}")]
    Redis(#[from] RedisError),
    /// The write happened, but the disks or replicas did not confirm it in time: a crash may lose it.
    #[error("written, but not confirmed: {0}")]
    Unconfirmed(String),
    /// [`WAITING_MAX`] writes wait already. Nothing was written.
    #[error("{WAITING_MAX} writes wait for their confirmation already")]
    Busy,
}

/// Confirms writes by the configured ack class. Cheap to clone; clones share the connections.
#[derive(Clone)]
pub struct Confirmer {
    readiness: Readiness,
    /// `None` where no ack class needs a wait.
    waiting: Option<Arc<Waiting>>,
}

impl fmt::Debug for Confirmer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Confirmer").field("policy", &self.readiness.policy()).finish()
    }
}

struct Waiting {
    timeout: Duration,
    /// Writes of one group may share a transaction: on a cluster there is one group per shard.
    groups: Vec<Mutex<Group>>,
    idle: Mutex<Vec<Redis>>,
    /// One permit per idle connection.
    is_idle: Arc<Semaphore>,
    /// One permit per waiting write, [`WAITING_MAX`] in all.
    room: Arc<Semaphore>,
}

#[derive(Default)]
struct Group {
    writes: VecDeque<Write>,
    /// A task waits for a connection to send these writes.
    is_led: bool,
}

struct Write {
    commands: Vec<Cmd>,
    bytes: usize,
    wait: Wait,
    done: Done,
    _room: OwnedSemaphorePermit,
}

type Done = oneshot::Sender<Result<Vec<Value>, ConfirmError>>;

impl Confirmer {
    /// Confirms by the policy of `readiness`, on so many connections. No I/O happens here. Must be called within a
    /// tokio runtime.
    pub fn new(url: &SecretUrl, readiness: Readiness, connections: usize) -> Result<Self, ConnectError> {
        let policy = readiness.policy();
        if policy.class == AckClass::Queued {
            return Ok(Self { readiness, waiting: None });
        }
        let idle = (0..connections).map(|_| connect_waiting(url, policy.timeout)).collect::<Result<Vec<_>, _>>()?;
        // On a cluster, all keys of a transaction must be in one slot.
        let groups = if idle.iter().any(Redis::is_cluster) { usize::from(SHARDS) } else { 1 };
        let waiting = Waiting {
            timeout: policy.timeout,
            groups: (0..groups).map(|_| Mutex::default()).collect(),
            idle: Mutex::new(idle),
            is_idle: Arc::new(Semaphore::new(connections)),
            room: Arc::new(Semaphore::new(WAITING_MAX)),
        };
        Ok(Self { readiness, waiting: Some(Arc::new(waiting)) })
    }

    /// The ack class of a confirmed write.
    pub fn class(&self) -> AckClass {
        self.readiness.policy().class
    }

    /// What a write has to wait for; `None` if its reply is enough. An error if no request may be acknowledged.
    pub async fn wait(&self) -> Result<Option<Wait>, Arc<ConnectError>> {
        self.readiness.wait().await
    }

    /// Sends commands as part of a transaction, and waits. All their keys must be in the slot of `shard`; `bytes` is
    /// their size. Returns their replies, each of which may be an error.
    pub async fn write(
        &self,
        shard: Shard,
        wait: Wait,
        commands: Vec<Cmd>,
        bytes: usize,
    ) -> Result<Vec<Value>, ConfirmError> {
        let waiting = self.waiting()?;
        let room = Arc::clone(&waiting.room).try_acquire_owned().map_err(|_full| ConfirmError::Busy)?;
        let (done, is_done) = oneshot::channel();
        let number = shard.index() % waiting.groups.len();
        {
            let mut group = waiting.group(number);
            group.writes.push_back(Write { commands, bytes, wait, done, _room: room });
            if !std::mem::replace(&mut group.is_led, true) {
                Arc::clone(waiting).begin(number);
            }
        }
        is_done.await.unwrap_or(Err(ConfirmError::Unconfirmed("the process is ending".to_owned())))
    }

    /// Sends one idempotent command, and waits. It uses no transaction, because a full Redis refuses those.
    pub async fn write_alone(&self, wait: Wait, command: Cmd) -> Result<Value, ConfirmError> {
        let waiting = self.waiting()?;
        let mut leased = waiting.connection().await?;
        let mut pipe = redis::pipe();
        pipe.add_command(command).add_command(wait.command(waiting.timeout));
        match <[Value; 2]>::try_from(leased.redis.req_packed_commands(&pipe, 0, 2).await?) {
            Ok([reply, confirmed]) => {
                let reply = reply.extract_error()?;
                wait.check(&confirmed).map_err(unconfirmed)?;
                Ok(reply)
            }
            Err(_) => Err(ConfirmError::Redis(unexpected())),
        }
    }

    fn waiting(&self) -> Result<&Arc<Waiting>, ConfirmError> {
        self.waiting.as_ref().ok_or_else(|| ConfirmError::Unconfirmed("class queued waits for nothing".to_owned()))
    }
}

/// A connection on which every command is confirmed before it is answered, for scripts that may be repeated. Cheap to
/// clone.
#[derive(Clone, Debug)]
pub struct ConfirmedConnection {
    redis: Redis,
    confirmer: Confirmer,
}

impl ConfirmedConnection {
    /// Confirms as `confirmer` requires; where the reply is enough, the command goes over `redis`.
    pub const fn new(redis: Redis, confirmer: Confirmer) -> Self {
        Self { redis, confirmer }
    }

    async fn confirmed(&mut self, command: &Cmd) -> Result<Value, RedisError> {
        let failed = |why: String| RedisError::from((redis::ErrorKind::Io, "not confirmed", why));
        match self.confirmer.wait().await.map_err(|error| failed(error.to_string()))? {
            None => self.redis.req_packed_command(command).await,
            Some(wait) => self.confirmer.write_alone(wait, command.clone()).await.map_err(|error| match error {
                ConfirmError::Redis(error) => error,
                other => failed(other.to_string()),
            }),
        }
    }
}

impl ConnectionLike for ConfirmedConnection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(self.confirmed(command))
    }

    /// Always fails: no caller needs confirmed pipelines.
    fn req_packed_commands<'a>(
        &'a mut self,
        _pipeline: &'a Pipeline,
        _offset: usize,
        _count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        let refused = RedisError::from((redis::ErrorKind::Client, "a pipeline cannot be confirmed; send a script"));
        Box::pin(std::future::ready(Err(refused)))
    }

    fn get_db(&self) -> i64 {
        self.redis.get_db()
    }
}

/// `tracebility_ack_unconfirmed_total`: waits that failed or timed out.
fn unconfirmed(why: String) -> ConfirmError {
    counter!("tracebility_ack_unconfirmed_total").increment(1);
    ConfirmError::Unconfirmed(why)
}

fn unexpected() -> RedisError {
    RedisError::from((redis::ErrorKind::UnexpectedReturnType, "not the replies of a transaction"))
}

/// A connection that returns to the idle ones when this is dropped.
struct Leased<'a> {
    redis: Redis,
    of: &'a Waiting,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Leased<'_> {
    fn drop(&mut self) {
        self.of.idle().push(self.redis.clone());
    }
}

impl Waiting {
    fn group(&self, number: usize) -> MutexGuard<'_, Group> {
        self.groups[number].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Redis>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connection(&self) -> Result<Leased<'_>, ConfirmError> {
        let permit = Arc::clone(&self.is_idle).acquire_owned().await.map_err(|_closed| ConfirmError::Busy)?;
        // A connection is given back before its permit, so there is one.
        let redis = self.idle().pop().ok_or(ConfirmError::Busy)?;
        Ok(Leased { redis, of: self, _permit: permit })
    }

    fn begin(self: Arc<Self>, number: usize) {
        tokio::spawn(self.lead(number));
    }

    /// Waits for an idle connection, sends the writes collected in a group by then, and leaves the rest to the next
    /// round.
    async fn lead(self: Arc<Self>, number: usize) {
        let leased = self.connection().await;
        let round = {
            let mut group = self.group(number);
            let round = next_round(&mut group.writes);
            group.is_led = !group.writes.is_empty();
            if group.is_led {
                Arc::clone(&self).begin(number);
            }
            round
        };
        match leased {
            Ok(mut leased) => self.send(&mut leased.redis, round).await,
            Err(_) => round.into_iter().for_each(|write| tell(write.done, Err(ConfirmError::Busy))),
        }
    }

    async fn send(&self, redis: &mut Redis, round: Vec<Write>) {
        let Some(wait) = round.first().map(|write| write.wait) else { return };
        counter!("tracebility_ack_rounds_total").increment(1);
        counter!("tracebility_ack_writes_total").increment(round.len() as u64);
        let mut pipe = redis::pipe();
        pipe.cmd("MULTI");
        let mut waiting = Vec::with_capacity(round.len());
        for Write { commands, done, _room, .. } in round {
            waiting.push((commands.len(), done, _room));
            for command in commands {
                pipe.add_command(command);
            }
        }
        pipe.cmd("EXEC").add_command(wait.command(self.timeout));
        let sent = redis.req_packed_commands(&pipe, 0, pipe.len()).await;
        let done = match sent.map(Replies::of) {
            Err(error) => Err(error),
            Ok(Err(error)) => Err(error),
            Ok(Ok(replies)) => Ok(replies),
        };
        let Replies { mut executed, confirmed } = match done {
            Ok(replies) => replies,
            Err(error) => {
                return waiting
                    .into_iter()
                    .for_each(|(_, done, _)| tell(done, Err(ConfirmError::Redis(error.clone()))));
            }
        };
        let met = wait.check(&confirmed);
        for (commands, done, _room) in waiting {
            let replies = executed.drain(..commands.min(executed.len())).collect();
            tell(done, met.clone().map(|()| replies).map_err(unconfirmed));
        }
    }
}

/// The replies to a transaction and to the wait after it.
struct Replies {
    /// One reply per command of the transaction.
    executed: Vec<Value>,
    confirmed: Value,
}

impl Replies {
    /// Splits the replies. An error if the transaction was not executed; then none of its commands was.
    fn of(mut replies: Vec<Value>) -> Result<Self, RedisError> {
        let (confirmed, executed) = (replies.pop(), replies.pop());
        match (executed, confirmed) {
            (Some(Value::Array(executed)), Some(confirmed)) => Ok(Self { executed, confirmed }),
            (executed, _) => {
                // The error of the command that was not queued says more than the error of EXEC.
                let refused = replies.into_iter().chain(executed).find_map(|reply| reply.extract_error().err());
                Err(refused.unwrap_or_else(unexpected))
            }
        }
    }
}

/// Takes the writes of the next round: as many as fit, all with the same wait.
fn next_round(writes: &mut VecDeque<Write>) -> Vec<Write> {
    let Some(wait) = writes.front().map(|write| write.wait) else { return Vec::new() };
    let mut bytes = 0;
    let fits = |write: &&Write| {
        bytes += write.bytes;
        write.wait == wait && bytes <= ROUND_BYTES_MAX
    };
    let count = writes.iter().take(ROUND_WRITES_MAX).take_while(fits).count();
    writes.drain(..count.max(1)).collect()
}

fn tell(done: Done, result: Result<Vec<Value>, ConfirmError>) {
    // The caller may have given up; then the result is dropped.
    drop(done.send(result));
}
