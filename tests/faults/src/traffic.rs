//! The load: several SDKs' worth of small requests, and what each of them was promised.
//!
//! Nothing is sent twice. A request without a 2xx is no obligation, but it may have been stored, once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use load::client::Http;
use load::corpus::{Corpus, text};
use load::prost::Message;
use model::ids::OrgId;
use model::trace::{RunOp, span_uuid};
use serde_json::json;
use tests::{Org, now};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::watch;
use tokio::task::JoinSet;
use uuid::Uuid;

/// Connections that send at the same time.
const SENDERS: usize = 6;
/// Spans of an OTLP request. A whole number of the corpus' traces, so that each trace is in one request.
const SPANS: usize = 10;
/// Runs of a LangSmith request.
const RUNS: usize = 4;
/// Between two requests of a sender.
const PAUSE: Duration = Duration::from_millis(25);
/// After a request that was not accepted.
const PAUSE_REFUSED: Duration = Duration::from_millis(100);
/// The name of a span that a scenario has ClickHouse refuse.
pub const POISON: &str = "poison";
/// Bytes of the text of a large span: a thousand times the size of the other requests.
pub const LARGE_BYTES: usize = 4 << 20;

/// A row that a request makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Row {
    Span(Uuid),
    /// One write of a run.
    Run(Uuid, u8),
}

/// A request that was sent, and what has to be found of it.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Sent {
    pub org: OrgId,
    pub rows: Vec<Row>,
    /// As they are billed.
    pub items: u64,
    /// When it was sent.
    pub at: Instant,
    /// Answered with a 2xx.
    pub acked: bool,
    /// ClickHouse is to refuse its spans.
    pub poison: bool,
}

/// What senders and scenario tell each other.
#[derive(Debug, Default)]
pub struct Dials {
    acked: AtomicU64,
    poison: AtomicU64,
    large: AtomicU64,
    slower: AtomicU64,
}

impl Dials {
    /// Requests that were answered with a 2xx so far.
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    /// So many of the next OTLP requests have a span that is refused.
    pub fn poison(&self, requests: u64) {
        self.poison.store(requests, Ordering::Relaxed);
    }

    /// How many that are still to be sent.
    pub fn poison_left(&self) -> u64 {
        self.poison.load(Ordering::Relaxed)
    }

    /// So many of the next OTLP requests have a span with [`LARGE_BYTES`] of text.
    pub fn large(&self, requests: u64) {
        self.large.store(requests, Ordering::Relaxed);
    }

    /// How many that are still to be sent.
    pub fn large_left(&self) -> u64 {
        self.large.load(Ordering::Relaxed)
    }

    /// Pauses between requests are this many times longer.
    pub fn slower(&self, times: u64) {
        self.slower.store(times.saturating_sub(1), Ordering::Relaxed);
    }

    fn take(left: &AtomicU64) -> bool {
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

/// A load that is going on.
#[derive(Debug)]
pub struct Traffic {
    /// To see and to change it.
    pub dials: Arc<Dials>,
    stop: watch::Sender<bool>,
    senders: JoinSet<Vec<Sent>>,
}

impl Traffic {
    /// Begins to send to that API, for each org in turn.
    pub fn begin(http: &Http, api_url: &str, orgs: &[Org], seed: u64) -> Self {
        let (stop, stopping) = watch::channel(false);
        let (dials, mut senders) = (Arc::<Dials>::default(), JoinSet::new());
        for n in 0..SENDERS {
            let mut sender = Sender::new(http, api_url, orgs, seed.wrapping_mul(1_000).wrapping_add(n as u64));
            sender.dials = Arc::clone(&dials);
            senders.spawn(sender.run(n, stopping.clone()));
        }
        Self { dials, stop, senders }
    }

    /// Ends it, when the last answers are there, and tells what was sent.
    pub async fn end(&mut self) -> Vec<Sent> {
        self.stop.send_replace(true);
        std::mem::take(&mut self.senders).join_all().await.into_iter().flatten().collect()
    }
}

/// Sends requests of so many spans to these orgs, by several senders, as fast as they are answered, until all are sent
/// or the time is over.
pub async fn send_all(
    http: &Http,
    api_url: &str,
    requests: &[(Org, usize)],
    senders: usize,
    within: Duration,
) -> Vec<Sent> {
    let begun = Instant::now();
    let mut sending = JoinSet::new();
    for n in 0..senders {
        let mine: Vec<_> = requests.iter().skip(n).step_by(senders).cloned().collect();
        let mut sender = Sender::new(http, api_url, &[], rand::random());
        sending.spawn(async move {
            for (org, spans) in mine {
                if begun.elapsed() > within {
                    break;
                }
                let body = sender.spans(&org, spans);
                sender.post(&org, "/v1/traces", "application/x-protobuf", body).await;
            }
            sender.sent
        });
    }
    sending.join_all().await.into_iter().flatten().collect()
}

struct Sender {
    http: Http,
    api_url: String,
    orgs: Vec<Org>,
    corpus: Corpus,
    /// The runs that were posted last, to be patched next.
    open: Vec<Uuid>,
    dials: Arc<Dials>,
    sent: Vec<Sent>,
}

impl Sender {
    fn new(http: &Http, api_url: &str, orgs: &[Org], seed: u64) -> Self {
        Self {
            http: http.clone(),
            api_url: api_url.to_owned(),
            orgs: orgs.to_vec(),
            corpus: Corpus::new(seed),
            open: Vec::new(),
            dials: Arc::default(),
            sent: Vec::new(),
        }
    }

    async fn run(mut self, first: usize, stop: watch::Receiver<bool>) -> Vec<Sent> {
        for turn in first.. {
            if *stop.borrow() {
                break;
            }
            let org = self.orgs[(turn / 4) % self.orgs.len()].clone();
            let (path, content_type, body) = match turn % 4 {
                0 => ("/v1/traces", "application/x-protobuf", self.spans(&org, SPANS)),
                1 => ("/v1/runs", "application/json", self.runs_with_spans(&org)),
                2 => ("/runs/batch", "application/json", self.posts(&org)),
                _ => ("/runs/batch", "application/json", self.patches(&org)),
            };
            let acked = self.post(&org, path, content_type, body).await;
            self.dials.acked.fetch_add(u64::from(acked), Ordering::Relaxed);
            let pause = PAUSE.mul_f64(1.0 + self.dials.slower.load(Ordering::Relaxed) as f64);
            tokio::time::sleep(if acked { pause } else { pause.max(PAUSE_REFUSED) }).await;
        }
        self.sent
    }

    /// Sends what was noted last, and notes whether it was accepted.
    async fn post(&mut self, org: &Org, path: &str, content_type: &str, body: Vec<u8>) -> bool {
        let answer = self.http.post(&format!("{}{path}", self.api_url), &org.key, content_type, body).await;
        // No answer, or a refusal: nothing was promised.
        let acked = answer.is_ok_and(|answer| answer.status.is_success());
        if let Some(sent) = self.sent.last_mut() {
            sent.acked = acked;
        }
        acked
    }

    fn note(&mut self, org: &Org, rows: Vec<Row>, items: usize, poison: bool) {
        self.sent.push(Sent { org: org.org_id, rows, items: items as u64, at: Instant::now(), acked: false, poison });
    }

    fn spans(&mut self, org: &Org, spans: usize) -> Vec<u8> {
        let mut message = self.corpus.message(spans, now());
        let mut rows = Vec::new();
        let (poison, large) = (Dials::take(&self.dials.poison), Dials::take(&self.dials.large));
        for (n, span) in message.resource_spans[0].scope_spans[0].spans.iter_mut().enumerate() {
            if poison && n == 0 {
                span.name = POISON.to_owned();
            }
            if large && n == 0 {
                span.attributes.push(text("filler", "x".repeat(LARGE_BYTES)));
            }
            rows.push(Row::Span(span_uuid(span.span_id.as_slice().try_into().unwrap_or_default())));
        }
        self.note(org, rows, spans, poison);
        message.encode_to_vec()
    }

    /// A request whose rows are in several tables.
    fn runs_with_spans(&mut self, org: &Org) -> Vec<u8> {
        let at = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        let item =
            |id: (&str, Uuid)| json!({id.0: id.1, "name": "n", "kind": "chain", "start_time": at, "end_time": at});
        let (mut rows, mut runs) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            let (run_id, span_id) = (Uuid::now_v7(), Uuid::now_v7());
            rows.extend([Row::Run(run_id, RunOp::Complete as u8), Row::Span(span_id)]);
            let mut run = item(("run_id", run_id));
            run["spans"] = json!([item(("span_id", span_id))]);
            runs.push(run);
        }
        self.note(org, rows, 2 * RUNS, false);
        json!({"schema_version": 1, "sdk": "faults", "runs": runs}).to_string().into_bytes()
    }

    fn posts(&mut self, org: &Org) -> Vec<u8> {
        self.open = (0..RUNS).map(|_| Uuid::now_v7()).collect();
        let rows = self.open.iter().map(|id| Row::Run(*id, RunOp::Post as u8)).collect();
        let begun = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        let posts: Vec<_> = self
            .open
            .iter()
            .map(|id| {
                json!({"id": id, "name": "ChatOpenAI", "run_type": "llm", "start_time": begun, "session_name": "faults",
                    "inputs": {"messages": [{"role": "user", "content": format!("What of {id}?")}]}})
            })
            .collect();
        self.note(org, rows, RUNS, false);
        json!({"post": posts, "patch": []}).to_string().into_bytes()
    }

    fn patches(&mut self, org: &Org) -> Vec<u8> {
        // A sender whose first turn this is has nothing open: a patch may come before its post.
        if self.open.is_empty() {
            self.open = (0..RUNS).map(|_| Uuid::now_v7()).collect();
        }
        let open = std::mem::take(&mut self.open);
        let ended = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        let patches: Vec<_> =
            open.iter().map(|id| json!({"id": id, "end_time": ended, "outputs": {"answer": "Nothing."}})).collect();
        let rows = open.iter().map(|id| Row::Run(*id, RunOp::Patch as u8)).collect();
        self.note(org, rows, RUNS, false);
        json!({"post": [], "patch": patches}).to_string().into_bytes()
    }
}
