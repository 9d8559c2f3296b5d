//! Writes that are confirmed by a disk or by replicas before anybody is told of them.
//!
//! `WAIT` and `WAITAOF` wait for what was written before them *on their own connection*, and block it. So a write and
//! its wait go together, on one of a few connections that nothing else uses. Writes that come while those are busy
//! gather, and go out together: one transaction, and one wait for all of them. Nothing else proves it: after a
//! failover, a wait on a new connection would be answered by a server that has never seen the write.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::counter;
use redis::aio::ConnectionLike;
use redis::{Cmd, Pipeline, RedisError, RedisFuture, Value};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::ack::{AckClass, Wait};
use super::readiness::{ConnectError, Readiness};
use super::{Redis, connect_waiting};
use crate::secret::SecretUrl;
use model::shard::{SHARDS, Shard};

/// Connections that wait, for whoever appends: so many waits are under way at the same time.
pub const APPENDING: usize = 4;
/// The same for a worker, of which every shard may write a batch down.
pub const ANNOUNCING: usize = SHARDS as usize;
/// Writes that share one wait.
pub const ROUND_WRITES_MAX: usize = 256;
/// Bytes of them, unless one alone has more.
pub const ROUND_BYTES_MAX: usize = 8 << 20;
/// Writes that wait at the same time. Further ones are refused.
pub const WAITING_MAX: usize = 8_192;

/// Why a write is not confirmed.
#[derive(Debug, thiserror::Error)]
pub enum ConfirmError {
    /// Redis refused it, or did not answer. After an answer that was lost it may be there.
    #[error("redis: {0}")]
    Redis(#[from] RedisError),
    /// It is there, and the wait for disks or replicas was not met: a crash may lose it.
    #[error("written, but not confirmed: {0}")]
    Unconfirmed(String),
    /// Too many wait already. Nothing was written.
    #[error("{WAITING_MAX} writes wait for their confirmation already")]
    Busy,
}

/// Writes confirmed by the class that the operator asks for. Cheap to clone; clones share the connections.
#[derive(Clone)]
pub struct Confirmer {
    readiness: Readiness,
    /// `None` where no class ever waits.
    waiting: Option<Arc<Waiting>>,
}

impl fmt::Debug for Confirmer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Confirmer").field("policy", &self.readiness.policy()).finish()
    }
}

struct Waiting {
    timeout: Duration,
    /// Writes of one group may go out together.
    groups: Vec<Mutex<Group>>,
    idle: Mutex<Vec<Redis>>,
    /// One permit per idle connection.
    is_idle: Arc<Semaphore>,
    /// One permit per write.
    room: Arc<Semaphore>,
}

#[derive(Default)]
struct Group {
    writes: VecDeque<Write>,
    /// Somebody waits for a connection to send them on.
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
    /// Confirms by what `readiness` asks for, on so many connections. No I/O happens here. To be called within a tokio
    /// runtime.
    pub fn new(url: &SecretUrl, readiness: Readiness, connections: usize) -> Result<Self, ConnectError> {
        let policy = readiness.policy();
        if policy.class == AckClass::Queued {
            return Ok(Self { readiness, waiting: None });
        }
        let idle = (0..connections).map(|_| connect_waiting(url, policy.timeout)).collect::<Result<Vec<_>, _>>()?;
        // On a cluster a transaction is of one slot.
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

    /// The class that a write is acknowledged with.
    pub fn class(&self) -> AckClass {
        self.readiness.policy().class
    }

    /// What a write has to wait for; `None` if its reply says enough. An error if nothing may be acknowledged.
    pub async fn wait(&self) -> Result<Option<Wait>, Arc<ConnectError>> {
        self.readiness.wait().await
    }

    /// Sends commands of so many bytes, whose keys are in the slot of that shard, as part of a transaction, and waits.
    /// Their replies, of which each may be an error.
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

    /// Sends one command that may be repeated, and waits. It is in no transaction: a full Redis refuses those.
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
    /// Confirms by what the confirmer says; where the reply says enough, the command goes over `redis`.
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

    /// Refused: nobody needs pipelines that are confirmed.
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

/// `tracebility_ack_unconfirmed_total`: waits that were not met in time.
fn unconfirmed(why: String) -> ConfirmError {
    counter!("tracebility_ack_unconfirmed_total").increment(1);
    ConfirmError::Unconfirmed(why)
}

fn unexpected() -> RedisError {
    RedisError::from((redis::ErrorKind::UnexpectedReturnType, "not the replies of a transaction"))
}

/// A connection that is given back when this is dropped.
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

    /// Waits for an idle connection, sends what has gathered in a group by then, and leaves the rest to the next.
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

/// The replies to a transaction and to the wait behind it.
struct Replies {
    /// To each command of the transaction.
    executed: Vec<Value>,
    confirmed: Value,
}

impl Replies {
    /// Takes them apart. An error if the transaction was not executed: nothing of it was then.
    fn of(mut replies: Vec<Value>) -> Result<Self, RedisError> {
        let (confirmed, executed) = (replies.pop(), replies.pop());
        match (executed, confirmed) {
            (Some(Value::Array(executed)), Some(confirmed)) => Ok(Self { executed, confirmed }),
            (executed, _) => {
                // Why a command was not queued says more than that EXEC was refused.
                let refused = replies.into_iter().chain(executed).find_map(|reply| reply.extract_error().err());
                Err(refused.unwrap_or_else(unexpected))
            }
        }
    }
}

/// Takes the writes that go out together: as many as fit, all of which wait for the same.
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
    // Whoever asked may be gone.
    drop(done.send(result));
}
