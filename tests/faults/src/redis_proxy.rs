//! Between a worker and Redis: passes bytes on, and can hold, cut and delay them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use bytes::BytesMut;
use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use url::Url;

use crate::clickhouse_proxy::{chance, pause};
use crate::gate::Gate;
use crate::hold::{Held, Hold, When};

/// Bytes that are passed on at a time.
const READ_BYTES: usize = 64 << 10;

/// A command of the worker, told by the keys it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Writes a batch down.
    Announce,
    /// Is done with a batch.
    Commit,
}

impl Command {
    fn is_in(self, bytes: &[u8]) -> bool {
        let has = |part: &[u8]| memmem::find(bytes, part).is_some();
        match self {
            Self::Announce => has(b"EVALSHA") && has(b"}:intent") && !has(b"}:dlq"),
            Self::Commit => has(b"}:intent") && has(b"}:dlq:bytes"),
        }
    }
}

/// What happens to what no [`Hold`] waits for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Whatever is sent, in either direction, waits for up to this long.
    pub delay_max: Duration,
    /// This share, of 1, ends in the middle, and its connection with it.
    pub cut: f64,
    /// So many bytes a second go through each connection in each direction; 0 for as many as come.
    pub bytes_per_second: usize,
}

/// One worker's way to Redis.
#[derive(Debug)]
pub struct RedisProxy {
    /// Whether there is a way at all.
    pub gate: Gate,
    url: Url,
    plan: Arc<Plan>,
}

#[derive(Debug)]
struct Plan {
    target: (String, u16),
    state: Mutex<State>,
    /// Bytes of the largest reply to a read of a shard.
    largest_read: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    held: Vec<(Command, Held)>,
    weather: Weather,
}

impl RedisProxy {
    /// A way to that server, open.
    pub async fn start(redis_url: &str) -> anyhow::Result<Self> {
        let url = Url::parse(redis_url)?;
        let host = url.host_str().context("the URL of Redis has no host")?.to_owned();
        let target = (host, url.port().context("the URL of Redis has no port")?);
        let plan = Arc::new(Plan { target, state: Mutex::default(), largest_read: AtomicUsize::new(0) });
        let passing = Arc::clone(&plan);
        let gate = Gate::open(move |connection| {
            let plan = Arc::clone(&passing);
            // Which of the two ends it does not matter: both are cut.
            async move { drop(plan.pass(connection).await) }
        })
        .await?;
        Ok(Self { url: gate.in_front_of(url)?, gate, plan })
    }

    /// What a worker is told as Redis' URL.
    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    /// Holds the next command of that kind, and whatever follows it on its connection.
    pub fn hold(&self, when: When, command: Command) -> Hold {
        let (hold, held) = Hold::new(when);
        self.plan.state().held.push((command, held));
        hold
    }

    /// Bytes of the largest reply to a read of a shard so far.
    pub fn largest_read(&self) -> usize {
        self.plan.largest_read.load(Ordering::Relaxed)
    }

    /// From now on this happens to whatever is sent.
    pub fn weather(&self, weather: Weather) {
        self.plan.state().weather = weather;
    }
}

impl Plan {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn pass(&self, mut client: TcpStream) -> std::io::Result<()> {
        let (host, port) = &self.target;
        let mut server = TcpStream::connect((host.as_str(), *port)).await?;
        server.set_nodelay(true)?;
        let (mut up, mut down) = (BytesMut::new(), BytesMut::new());
        // What reads a shard has a connection of its own, on which it waits, and sends one command at a time.
        let (mut is_reader, mut reply) = (false, 0);
        loop {
            up.reserve(READ_BYTES);
            down.reserve(READ_BYTES);
            tokio::select! {
                read = client.read_buf(&mut up) => if read? == 0 { return Ok(()) },
                read = server.read_buf(&mut down) => if read? == 0 { return Ok(()) },
            }
            if !up.is_empty() {
                let sent = up.split();
                is_reader |= memmem::find(&sent, b"XREAD").is_some();
                reply = 0;
                // A command whose keys are cut in two is passed on; the next one is held.
                let mut held = self.held(&sent);
                if let Some(held) = held.take_if(|held| held.when == When::Before)
                    && !held.wait().await
                {
                    return Ok(());
                }
                self.send(&mut server, &sent).await?;
                if let Some(held) = held
                    && (server.read_buf(&mut down).await? == 0 || !held.wait().await)
                {
                    return Ok(());
                }
            }
            if !down.is_empty() {
                let replied = down.split();
                reply += replied.len();
                if is_reader {
                    self.largest_read.fetch_max(reply, Ordering::Relaxed);
                }
                self.send(&mut client, &replied).await?;
            }
        }
    }

    fn held(&self, seen: &[u8]) -> Option<Held> {
        let mut state = self.state();
        let at = state.held.iter().position(|(command, _)| command.is_in(seen))?;
        Some(state.held.swap_remove(at).1)
    }

    async fn send(&self, to: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
        let weather = self.state().weather;
        pause(weather.delay_max).await;
        if weather.bytes_per_second > 0 {
            tokio::time::sleep(Duration::from_secs_f64(bytes.len() as f64 / weather.bytes_per_second as f64)).await;
        }
        if chance(weather.cut) {
            to.write_all(&bytes[..bytes.len() / 2]).await?;
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        }
        to.write_all(bytes).await
    }
}
