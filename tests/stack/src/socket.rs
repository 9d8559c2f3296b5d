//! The unix socket between the holder of a test run's servers and the test processes.
//!
//! A connection asks one thing, in one JSON line, and gets one JSON line back. As long as it stays open, what it got is
//! kept; when it closes, also by a kill -9, what it got is freed. So nothing has to be handed back.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::{StackError, Urls};

/// A request creates a database at most.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
const LINE_BYTES_MAX: u64 = 64 * 1024;
/// Its file in the directory of the stack.
pub(crate) const SOCKET: &str = "hold.sock";

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Keep the servers running.
    Join,
    /// Databases that nobody else uses.
    FreshDatabase,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Urls(Urls),
    Refused(String),
}

/// The directory by its descriptor: a socket's path must be shorter than 108 bytes, a checkout's need not be.
fn with_short_path<T>(dir: &Path, use_path: impl FnOnce(&Path) -> std::io::Result<T>) -> std::io::Result<T> {
    let dir = File::open(dir)?;
    use_path(Path::new(&format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd())))
}

pub(crate) fn listen(dir: &Path) -> Result<UnixListener, StackError> {
    with_short_path(dir, |path| UnixListener::bind(path)).map_err(StackError::file("listen in", dir))
}

/// Asks the holder; none if nobody listens. The stream keeps the answer valid until it is dropped, in whatever runtime.
pub(crate) async fn ask(
    dir: &Path,
    request: Request,
) -> Result<Option<(Urls, std::os::unix::net::UnixStream)>, StackError> {
    let connected = with_short_path(dir, |path| std::os::unix::net::UnixStream::connect(path));
    let Ok(stream) = connected else { return Ok(None) };
    let fail = |e: std::io::Error| StackError::file("talk to the holder in", dir)(e);
    stream.set_nonblocking(true).map_err(fail)?;
    let mut stream = UnixStream::from_std(stream).map_err(fail)?;
    let exchange = async {
        write_line(&mut stream, &request).await?;
        read_line(&mut stream).await
    };
    let answered = tokio::time::timeout(ANSWER_LIMIT, exchange).await;
    let timeout = |_| StackError::Timeout { what: "the holder of the test servers".into(), limit: ANSWER_LIMIT };
    match answered.map_err(timeout)?.map_err(fail)? {
        Some(Reply::Urls(urls)) => Ok(Some((urls, stream.into_std().map_err(fail)?))),
        Some(Reply::Refused(why)) => Err(StackError::Setting(why)),
        // It ended while we asked.
        None => Ok(None),
    }
}

pub(crate) async fn write_line(stream: &mut UnixStream, message: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line).await
}

/// The next line; none if the other side has closed.
pub(crate) async fn read_line<T: for<'de> Deserialize<'de>>(stream: &mut UnixStream) -> std::io::Result<Option<T>> {
    let mut line = String::new();
    // Nothing is sent after the one line, so that the buffer never swallows anything.
    BufReader::new(stream).take(LINE_BYTES_MAX).read_line(&mut line).await?;
    if line.is_empty() { Ok(None) } else { Ok(Some(serde_json::from_str(&line)?)) }
}
