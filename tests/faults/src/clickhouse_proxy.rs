//! Between a worker and ClickHouse: passes whole requests on, and can hold, cut, delay and lose them.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rand::Rng;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use url::Url;

use crate::gate::Gate;
use crate::hold::{Held, Hold, When};

/// What happens to inserts that no [`Hold`] waits for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Each waits for up to this long, on its way there and on its way back.
    pub delay_max: Duration,
    /// This share, of 1, ends in the middle of its body.
    pub cut: f64,
    /// Of this share the reply is lost.
    pub lost_replies: f64,
    /// Settings that ClickHouse is told besides, such as `readonly=1`.
    pub settings: &'static str,
}

/// One worker's way to ClickHouse.
#[derive(Debug)]
pub struct ClickHouseProxy {
    /// Whether there is a way at all.
    pub gate: Gate,
    url: Url,
    plan: Arc<Plan>,
}

#[derive(Debug)]
struct Plan {
    target: (String, u16),
    client: Client<HttpConnector, Full<Bytes>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    held: Vec<(&'static str, Held)>,
    weather: Weather,
}

impl ClickHouseProxy {
    /// A way to that server, open.
    pub async fn start(clickhouse_url: &str) -> anyhow::Result<Self> {
        let url = Url::parse(clickhouse_url)?;
        let host = url.host_str().context("the URL of ClickHouse has no host")?.to_owned();
        let target = (host, url.port().context("the URL of ClickHouse has no port")?);
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        let plan = Arc::new(Plan { target, client, state: Mutex::default() });
        let serving = Arc::clone(&plan);
        let gate = Gate::open(move |connection| serve(Arc::clone(&serving), connection)).await?;
        Ok(Self { url: gate.in_front_of(url)?, gate, plan })
    }

    /// What a worker is told as ClickHouse's URL.
    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    /// Holds the next insert into a table.
    pub fn hold(&self, when: When, table: &'static str) -> Hold {
        let (hold, held) = Hold::new(when);
        self.plan.state().held.push((table, held));
        hold
    }

    /// From now on this happens to all inserts.
    pub fn weather(&self, weather: Weather) {
        self.plan.state().weather = weather;
    }
}

impl Plan {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happens to this request.
    fn fate(&self, uri: &Uri) -> (Option<Held>, Weather) {
        let Some(query) = uri.query().filter(|query| query.contains("INSERT+INTO")) else {
            return (None, Weather::default());
        };
        let mut state = self.state();
        let weather = state.weather;
        let place = state.held.iter().position(|(table, _)| query.contains(&format!("INTO+%60{table}%60")));
        (place.map(|at| state.held.swap_remove(at).1), weather)
    }

    async fn pass(self: Arc<Self>, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
        let (mut head, body) = request.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let (mut held, weather) = self.fate(&head.uri);
        let lost = || io::Error::from(io::ErrorKind::ConnectionAborted);
        if let Some(held) = held.take_if(|held| held.when == When::Before)
            && !held.wait().await
        {
            return Err(lost());
        }
        pause(weather.delay_max).await;
        let settings = if weather.settings.is_empty() { String::new() } else { format!("&{}", weather.settings) };
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let path = format!("{path}{settings}");
        for hop in [TRANSFER_ENCODING, CONNECTION, CONTENT_LENGTH] {
            head.headers.remove(hop);
        }
        if chance(weather.cut) {
            self.cut_short(&head, &path, &body).await?;
            return Err(lost());
        }
        let (host, port) = &self.target;
        head.uri = format!("http://{host}:{port}{path}").parse().map_err(io::Error::other)?;
        let answer = self.client.request(Request::from_parts(head, Full::new(body))).await.map_err(io::Error::other)?;
        let (mut head, body) = answer.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        pause(weather.delay_max).await;
        let goes_on = match held {
            Some(held) => held.wait().await,
            None => !chance(weather.lost_replies),
        };
        if !goes_on {
            return Err(lost());
        }
        for hop in [TRANSFER_ENCODING, CONNECTION, CONTENT_LENGTH] {
            head.headers.remove(hop);
        }
        Ok(Response::from_parts(head, Full::new(body)))
    }

    /// Sends the head and half of the body, and goes away.
    async fn cut_short(&self, head: &http::request::Parts, path: &str, body: &[u8]) -> io::Result<()> {
        let (host, port) = &self.target;
        let mut server = TcpStream::connect((host.as_str(), *port)).await?;
        let mut start = format!("{} {path} HTTP/1.1\r\n", head.method).into_bytes();
        for (name, value) in &head.headers {
            start.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        start.extend(format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n", body.len()).into_bytes());
        start.extend(&body[..body.len() / 2]);
        server.write_all(&start).await?;
        server.shutdown().await
    }
}

async fn serve(plan: Arc<Plan>, connection: TcpStream) {
    let service = hyper::service::service_fn(|request| {
        // By itself, so that what is held goes on its way although its sender has gone.
        let passing = tokio::spawn(Arc::clone(&plan).pass(request));
        async { passing.await.map_err(io::Error::other)? }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(connection), service);
    // A failed request ends its connection, which is what its sender is to see.
    drop(served.await);
}

pub(crate) async fn pause(delay_max: Duration) {
    if !delay_max.is_zero() {
        let delay = delay_max.mul_f64(rand::rng().random());
        tokio::time::sleep(delay).await;
    }
}

pub(crate) fn chance(share: f64) -> bool {
    share > 0.0 && rand::rng().random_bool(share)
}
