//! A proxy to a store that stops at the client's n-th request, so that the client can be killed exactly there.
//!
//! For Postgres, a request is what the client writes at once. For ClickHouse, it is an HTTP request that may change
//! something: being killed at a query is the same as being killed after the change before it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use url::Url;

use crate::support::Ran;

/// How long a server may take to answer the request at which the client is killed. A slower answer counts as given
/// later, which is a kill in the middle of the statement.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// At which moment of a request the client is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// The server never gets the request. For the server this is the same as [`Self::BeforeTheClientHears`] of the
    /// request before.
    BeforeTheServerHears,
    /// The server works on the request, and may still do so while the next run works.
    WhileTheServerWorks,
    /// The server has carried out the request, and the client never gets the answer.
    BeforeTheClientHears,
}

/// The request at which the client is killed: the n-th, counted from 1 over all its connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KillAt {
    pub(crate) nth: usize,
    pub(crate) moment: Moment,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The run was killed at the chosen request.
    Killed,
    /// The run ended by itself, with fewer requests than that.
    Completed(Ran),
}

/// A proxy to one store, for one run of one client.
pub(crate) struct Proxy {
    url: String,
    stop: Arc<Stop>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// A proxy in front of `url`, which begins with `postgres://` or `http://`.
    pub(crate) async fn to(url: &str, at: KillAt) -> Self {
        let mut url = Url::parse(url).unwrap();
        let is_postgres = url.scheme().starts_with("postgres");
        let server =
            format!("{}:{}", url.host_str().unwrap(), url.port().unwrap_or(if is_postgres { 5432 } else { 8123 }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
        let stop = Arc::new(Stop { at, seen: AtomicUsize::new(0), reached: Notify::new() });
        let accepting = tokio::spawn(accept(listener, server, is_postgres, Arc::clone(&stop)));
        Self { url: url.into(), stop, accepting }
    }

    /// The store's URL, through this proxy.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Runs the command, which should use [`Self::url`], and kills it with SIGKILL at the chosen request. Only then
    /// closes its connections to the server.
    pub(crate) async fn run(self, mut command: Command) -> End {
        let piped = || std::process::Stdio::piped();
        let mut child = command.stdout(piped()).stderr(piped()).kill_on_drop(true).spawn().unwrap();
        let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (mut out, mut err) = (String::new(), String::new());
        let end = tokio::select! {
            biased;
            () = self.stop.reached.notified() => {
                child.kill().await.unwrap();
                End::Killed
            }
            (status, _, _) = async {
                tokio::join!(child.wait(), stdout.read_to_string(&mut out), stderr.read_to_string(&mut err))
            } => End::Completed(Ran { code: status.unwrap().code(), stdout: out, stderr: err }),
        };
        self.accepting.abort();
        _ = self.accepting.await;
        end
    }
}

/// Counts requests, and holds the one at which to kill the client.
struct Stop {
    at: KillAt,
    seen: AtomicUsize,
    reached: Notify,
}

impl Stop {
    /// Passes a request on to `ask`; or holds it, or its answer, until the client is dead.
    async fn pass<T>(&self, ask: impl Future<Output = T>) -> T {
        if self.seen.fetch_add(1, Ordering::SeqCst) + 1 != self.at.nth {
            return ask.await;
        }
        match self.at.moment {
            Moment::BeforeTheServerHears => {}
            Moment::WhileTheServerWorks => {
                self.reached.notify_one();
                drop(ask.await);
            }
            Moment::BeforeTheClientHears => drop(tokio::time::timeout(ANSWER_MAX, ask).await),
        }
        self.hold().await
    }

    async fn hold<T>(&self) -> T {
        self.reached.notify_one();
        std::future::pending().await
    }
}

async fn accept(listener: TcpListener, server: String, is_postgres: bool, stop: Arc<Stop>) {
    // All connections are dropped with this task.
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let (server, stop) = (server.clone(), Arc::clone(&stop));
        if is_postgres {
            connections.spawn(async move { drop(postgres(client, &server, &stop).await) });
        } else {
            connections.spawn(http(client, server, stop));
        }
    }
}

async fn http(client: TcpStream, server: String, stop: Arc<Stop>) {
    let upstream: Client<HttpConnector, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let service = service_fn(|request: Request<Incoming>| {
        let (upstream, server, stop) = (upstream.clone(), server.clone(), Arc::clone(&stop));
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let asks = body.trim_ascii_start().starts_with(b"SELECT");
            let forwarded = forward(upstream, &server, Request::from_parts(head, Full::new(body)));
            Ok::<_, Infallible>(if asks { forwarded.await } else { stop.pass(forwarded).await })
        }
    });
    // The client may end before it has read everything.
    _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(client), service).await;
}

/// Passes on the whole request and returns the whole answer.
async fn forward(
    upstream: Client<HttpConnector, Full<Bytes>>,
    server: &str,
    request: Request<Full<Bytes>>,
) -> Response<Full<Bytes>> {
    let (mut head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    head.uri = format!("http://{server}{path}").parse().unwrap();
    head.headers.remove("transfer-encoding");
    head.headers.remove("content-length");
    let (mut head, body) = upstream.request(Request::from_parts(head, body)).await.unwrap().into_parts();
    head.headers.remove("transfer-encoding");
    Response::from_parts(head, Full::new(body.collect().await.unwrap().to_bytes()))
}

async fn postgres(client: TcpStream, server: &str, stop: &Stop) -> std::io::Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = TcpStream::connect(server).await?.into_split();
    let mut request = vec![0; 64 << 10];
    loop {
        let read = from_client.read(&mut request).await?;
        if read == 0 {
            return Ok(());
        }
        let asked = async {
            to_server.write_all(&request[..read]).await?;
            answer(&mut from_server).await
        };
        let answer = stop.pass(asked).await?;
        to_client.write_all(&answer).await?;
        if answer.is_empty() {
            return Ok(());
        }
    }
}

/// Reads until the server waits for the client; returns nothing when the server has closed the connection.
async fn answer(server: &mut (impl AsyncReadExt + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let mut at = 0;
    loop {
        // A message is its type, its length in four bytes (which include themselves), and its content.
        while let Some(head) = answer.get(at..at + 5) {
            let end = at + 1 + u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            if answer.len() < end {
                break;
            }
            let wants_password =
                head[0] == b'R' && answer[at + 5..at + 9] != [0; 4] && answer[at + 5..at + 9] != SASL_DONE;
            if head[0] == b'Z' || wants_password {
                return Ok(answer);
            }
            at = end;
        }
        if server.read_buf(&mut answer).await? == 0 {
            return Ok(answer);
        }
    }
}

/// `AuthenticationSASLFinal`: more messages of the server follow without a request.
const SASL_DONE: [u8; 4] = [0, 0, 0, 12];
