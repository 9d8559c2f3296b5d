//! What `cargo demo` sends and shows.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use model::trace::RunOp;
use serde_json::{Value, json};
use stack::{Endpoints, Layout};
use uuid::Uuid;

use crate::client::{ClickHouse, Http};
use crate::corpus::Corpus;
use crate::table::Table;

const OTLP_REQUESTS: usize = 20;
const SPANS_PER_REQUEST: usize = 50;
const NATIVE_REQUESTS: usize = 5;
const LANGSMITH_TRACES: usize = 5;
/// How long what was sent may take to be queryable before the demo has failed.
const QUERYABLE_WITHIN: Duration = Duration::from_secs(30);
const POLL_EVERY: Duration = Duration::from_millis(10);

/// One request that was answered with a 2xx: one of its rows, to look for, and when the answer came.
struct Sent {
    protocol: &'static str,
    items: usize,
    row: String,
    took: Duration,
    acked: Instant,
}

/// Every row that a request can be looked for by, of the last minutes: a span, or one write of a LangSmith run.
const ROWS: &str = "SELECT toString(span_id) FROM span WHERE received_at > now() - 300
    UNION ALL SELECT concat(toString(run_id), ' ', toString(op)) FROM run WHERE received_at > now() - 300 AND source = 'langsmith'";

/// Sends OTLP, native batches and LangSmith's writes, waits until they can be queried, and describes what arrived.
pub async fn send_and_look(endpoints: &Endpoints) -> anyhow::Result<String> {
    let http = Http::new();
    let key = endpoints.api_key.as_deref().context("the stack has no API key; try: cargo stack down")?;
    let clickhouse = ClickHouse::new(http.clone(), &endpoints.urls.clickhouse_url)?;
    eprintln!(
        "demo: sending {OTLP_REQUESTS} OTLP requests, {NATIVE_REQUESTS} native batches and {LANGSMITH_TRACES} LangSmith traces"
    );
    let (looker, looking) = (clickhouse.clone(), std::sync::Arc::new(tokio::sync::Mutex::new(HashMap::new())));
    let seen = std::sync::Arc::clone(&looking);
    let watcher = tokio::spawn(async move { watch(&looker, &seen).await });
    let mut sent = Vec::new();
    let mut corpus = Corpus::new(now_nanos());
    for _ in 0..OTLP_REQUESTS {
        sent.push(send_otlp(&http, &endpoints.ingest_url, key, &mut corpus).await?);
    }
    for n in 0..NATIVE_REQUESTS {
        sent.push(send_native(&http, &endpoints.ingest_url, key, n).await?);
    }
    for n in 0..LANGSMITH_TRACES {
        sent.extend(send_langsmith(&http, &endpoints.ingest_url, key, n).await?);
    }
    let queryable = until_queryable(&sent, &looking).await;
    watcher.abort();
    let queryable = queryable?;
    until_billed(&clickhouse, sent.len()).await?;
    let mut report = String::new();
    writeln!(report, "\nAnswered, and queryable:\n\n{}", latencies(&sent, &queryable))?;
    writeln!(report, "What arrived (the newest runs):\n\n{}", newest_runs(&clickhouse).await?)?;
    writeln!(report, "In ClickHouse:\n\n{}", table_sizes(&clickhouse).await?)?;
    Ok(report)
}

/// How to go on from here.
pub fn what_next(layout: &Layout, endpoints: &Endpoints, running: bool) -> String {
    let env = layout.env_file();
    let again = if running { "It is running. Try:" } else { "Try it yourself: `cargo stack up`, then:" };
    format!(
        "Where the data lives: {root}
  accepted, not yet inserted   Redis       16 streams tracebility:ingest:v1:<shard>   {redis}
  runs, spans, billing         ClickHouse  tables run, span, billing_meter            {clickhouse}
  orgs, projects, keys         Postgres    tables tenants, tenant_projects, api_keys  {postgres}

{again}

  . {env}

  # a run, by hand
  curl -s $TRACEBILITY_INGEST_URL/v1/runs -H \"x-api-key: $TRACEBILITY_API_KEY\" -H 'content-type: application/json' \\
    -d '{{\"runs\":[{{\"run_id\":\"'$(cat /proc/sys/kernel/random/uuid)'\",\"name\":\"hello\",\"kind\":\"llm\",\"start_time\":\"2026-11-21T08:00:00Z\"}}]}}'

  # LangSmith's SDKs, and LangChain
  export LANGSMITH_TRACING=true LANGSMITH_ENDPOINT=$TRACEBILITY_INGEST_URL LANGSMITH_API_KEY=$TRACEBILITY_API_KEY

  # any OpenTelemetry SDK
  export OTEL_EXPORTER_OTLP_ENDPOINT=$TRACEBILITY_INGEST_URL OTEL_EXPORTER_OTLP_HEADERS=\"x-api-key=$TRACEBILITY_API_KEY\"

  # look (the URL's path is the database)
  curl -s \"${{TRACEBILITY_CLICKHOUSE_URL%/*}}/?database=${{TRACEBILITY_CLICKHOUSE_URL##*/}}\" -d 'SELECT name, kind, model FROM span LIMIT 5'

  cargo stack status               how each process is
  cargo stack kill ingest-worker   rehearse a failure; `cargo stack start ingest-worker` repairs it
  cargo stack down                 stop everything and remove its data",
        root = layout.root().display(),
        redis = place(&endpoints.urls.redis_url),
        clickhouse = place(&endpoints.urls.clickhouse_url),
        postgres = place(&endpoints.urls.pg_app_dsn),
        env = env.display(),
    )
}

/// Host and port of a URL that holds credentials.
fn place(url: &str) -> String {
    let parsed = url::Url::parse(url).ok();
    let parts = parsed.as_ref().and_then(|u| Some((u.host_str()?, u.port()?)));
    parts.map_or_else(String::new, |(host, port)| format!("{host}:{port}"))
}

async fn send_otlp(http: &Http, ingest_url: &str, key: &str, corpus: &mut Corpus) -> anyhow::Result<Sent> {
    let request = corpus.request(SPANS_PER_REQUEST, now_nanos());
    let last = request.span_ids.last().copied().unwrap_or_default();
    let begun = Instant::now();
    let answer = http.post(&format!("{ingest_url}/v1/traces"), key, "application/x-protobuf", request.body).await?;
    if !answer.status.is_success() {
        bail!("the API answered {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
    }
    let (items, row) = (request.span_ids.len(), model::trace::span_uuid(last).to_string());
    Ok(Sent { protocol: "OTLP protobuf", items, row, took: begun.elapsed(), acked: Instant::now() })
}

/// A batch as LangSmith would say it: a chain with a model call and a tool call in it.
async fn send_native(http: &Http, ingest_url: &str, key: &str, n: usize) -> anyhow::Result<Sent> {
    let (run_id, llm, tool) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
    let at = |offset_ms: u64| rfc3339(now_nanos() / 1_000_000 - 2_000 + offset_ms);
    let body = json!({
        "schema_version": 1, "sdk": "demo", "sdk_version": env!("CARGO_PKG_VERSION"),
        "runs": [{
            "run_id": run_id, "name": "RunnableSequence", "kind": "chain",
            "start_time": at(0), "end_time": at(1_800),
            "inputs": {"question": format!("How is the weather in city {n}?")}, "outputs": {"answer": "Mild, with a chance of rain."},
            "session_id": format!("thread-{n}"), "user_id": "demo", "tags": ["demo"], "metadata": {"attempt": n},
            "spans": [
                {"span_id": llm, "name": "ChatOpenAI", "kind": "llm", "model": "gpt-4o-mini", "start_time": at(100),
                 "end_time": at(900), "prompt_tokens": 180 + n, "completion_tokens": 42, "cost_usd": 0.000_052,
                 "inputs": [{"role": "user", "content": "weather?"}], "outputs": {"tool_call": "get_weather"}},
                {"span_id": tool, "parent_span_id": llm, "name": "get_weather", "kind": "tool", "start_time": at(950),
                 "end_time": at(1_700), "inputs": {"city": n}, "outputs": {"temperature": 17}},
            ],
        }],
    });
    let begun = Instant::now();
    let answer = http.post(&format!("{ingest_url}/v1/runs"), key, "application/json", body.to_string()).await?;
    if !answer.status.is_success() {
        bail!("the API answered {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
    }
    Ok(Sent { protocol: "native JSON", items: 3, row: tool.to_string(), took: begun.elapsed(), acked: Instant::now() })
}

/// A trace as LangSmith's SDKs send it: what opens its two runs when they begin, what completes them when they have
/// ended.
async fn send_langsmith(http: &Http, ingest_url: &str, key: &str, n: usize) -> anyhow::Result<[Sent; 2]> {
    let (chain, llm) = (Uuid::now_v7(), Uuid::now_v7());
    let now = now_nanos() / 1_000_000;
    let (begun, ended) = (now - 1_500, now - 100);
    let root = dotted(begun, chain);
    let run = |id: Uuid, name: &str, kind: &str, order: &str| {
        json!({"id": id, "trace_id": chain, "dotted_order": order, "name": name, "run_type": kind, "start_time": rfc3339(begun),
               "session_name": "demo"})
    };
    let mut answer = run(chain, "answer", "chain", &root);
    answer["extra"] = json!({"metadata": {"thread_id": format!("thread-{n}"), "user_id": "demo"}});
    let mut call = run(llm, "ChatOpenAI", "llm", &format!("{root}.{}", dotted(begun, llm)));
    call["parent_run_id"] = json!(chain);
    call["extra"] =
        json!({"metadata": {"ls_provider": "openai", "ls_model_name": "gpt-4o-mini", "ls_temperature": 0.5}});
    let posts = [
        (format!("post.{chain}"), answer.clone()),
        (format!("post.{chain}.inputs"), json!({"question": format!("How is the weather in city {n}?")})),
        (format!("post.{llm}"), call.clone()),
        (format!("post.{llm}.inputs"), json!({"messages": [{"role": "user", "content": "weather?"}]})),
    ];
    answer["end_time"] = json!(rfc3339(ended));
    call["end_time"] = json!(rfc3339(ended));
    let usage = json!({"input_tokens": 180 + n, "output_tokens": 42, "total_tokens": 222 + n});
    let patches = [
        (format!("patch.{chain}"), answer),
        (format!("patch.{chain}.outputs"), json!({"answer": "Mild, with a chance of rain."})),
        (format!("patch.{llm}"), call),
        (format!("patch.{llm}.outputs"), json!({"role": "assistant", "content": "Mild.", "usage_metadata": usage})),
    ];
    let row = |op: RunOp| format!("{chain} {}", op as u8);
    let post = send_multipart(http, ingest_url, key, &posts, row(RunOp::Post)).await?;
    let patch = send_multipart(http, ingest_url, key, &patches, row(RunOp::Patch)).await?;
    Ok([post, patch])
}

/// Sends the parts of two runs; `row` is what to look for.
async fn send_multipart(
    http: &Http,
    ingest_url: &str,
    key: &str,
    parts: &[(String, Value)],
    row: String,
) -> anyhow::Result<Sent> {
    let boundary = Uuid::new_v4().simple().to_string();
    let mut body = String::new();
    for (name, value) in parts {
        write!(
            body,
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\nContent-Type: application/json\r\n\r\n{value}\r\n"
        )?;
    }
    write!(body, "--{boundary}--\r\n")?;
    let content_type = format!("multipart/form-data; boundary={boundary}");
    let begun = Instant::now();
    let answer = http.post(&format!("{ingest_url}/runs/multipart"), key, &content_type, body).await?;
    if !answer.status.is_success() {
        bail!("the API answered {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
    }
    Ok(Sent { protocol: "LangSmith multipart", items: 2, row, took: begun.elapsed(), acked: Instant::now() })
}

/// One member of a `dotted_order`.
fn dotted(unix_ms: u64, id: Uuid) -> String {
    let time = rfc3339(unix_ms - unix_ms % 1_000);
    let digits = time.trim_end_matches('Z').replace(['-', ':'], "");
    format!("{digits}{:03}000Z{id}", unix_ms % 1_000)
}

/// Row → when it was first seen in ClickHouse.
type Seen = tokio::sync::Mutex<HashMap<String, Instant>>;

/// Keeps asking which of the rows of the last minutes there are.
async fn watch(clickhouse: &ClickHouse, seen: &Seen) -> anyhow::Result<()> {
    loop {
        let rows = clickhouse.text(ROWS).await?;
        let now = Instant::now();
        let mut seen = seen.lock().await;
        for row in rows.lines() {
            seen.entry(row.to_owned()).or_insert(now);
        }
        drop(seen);
        tokio::time::sleep(POLL_EVERY).await;
    }
}

/// Per request, how long after its answer its row could be queried.
async fn until_queryable(sent: &[Sent], seen: &Seen) -> anyhow::Result<Vec<Duration>> {
    let begun = Instant::now();
    loop {
        let seen = seen.lock().await;
        let found: Option<Vec<Duration>> =
            sent.iter().map(|s| seen.get(&s.row).map(|at| at.saturating_duration_since(s.acked))).collect();
        if let Some(found) = found {
            return Ok(found);
        }
        let missing = sent.iter().filter(|s| !seen.contains_key(&s.row)).count();
        drop(seen);
        if begun.elapsed() > QUERYABLE_WITHIN {
            bail!(
                "{missing} requests are not queryable after {QUERYABLE_WITHIN:?}; see: cargo stack logs ingest-worker"
            );
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

/// Billing is inserted after what it bills; two meters per request.
async fn until_billed(clickhouse: &ClickHouse, requests: usize) -> anyhow::Result<()> {
    let begun = Instant::now();
    while clickhouse.number("SELECT count() FROM billing_meter").await? < 2 * requests as u64 {
        if begun.elapsed() > QUERYABLE_WITHIN {
            bail!("not everything is billed after {QUERYABLE_WITHIN:?}; see: cargo stack logs ingest-worker");
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
    Ok(())
}

fn latencies(sent: &[Sent], queryable: &[Duration]) -> Table {
    let mut table =
        Table::new(&["SENT AS", "REQUESTS", "ITEMS", "ANSWER p50", "ANSWER max", "ANSWER TO QUERYABLE p50", "max"]);
    for protocol in ["OTLP protobuf", "native JSON", "LangSmith multipart"] {
        let of: Vec<_> = sent.iter().zip(queryable).filter(|(s, _)| s.protocol == protocol).collect();
        let (took50, took_max) = median_and_max(of.iter().map(|(s, _)| s.took));
        let (seen50, seen_max) = median_and_max(of.iter().map(|(_, q)| **q));
        let items: usize = of.iter().map(|(s, _)| s.items).sum();
        let ms = |d: Duration| format!("{:.1} ms", d.as_secs_f64() * 1e3);
        let whole_ms = |d: Duration| format!("{} ms", d.as_millis());
        table.row([
            protocol.to_owned(),
            of.len().to_string(),
            items.to_string(),
            ms(took50),
            ms(took_max),
            whole_ms(seen50),
            whole_ms(seen_max),
        ]);
    }
    table
}

fn median_and_max(durations: impl Iterator<Item = Duration>) -> (Duration, Duration) {
    let mut all: Vec<_> = durations.collect();
    all.sort();
    (all.get(all.len() / 2).copied().unwrap_or_default(), all.last().copied().unwrap_or_default())
}

/// The newest runs of each protocol, as the view puts them together of what was written of each.
async fn newest_runs(clickhouse: &ClickHouse) -> anyhow::Result<Table> {
    let org = clickhouse.text("SELECT toString(org_id) FROM run ORDER BY received_at DESC LIMIT 1").await?;
    let runs = format!("run_of(org = '{}')", org.trim().parse::<Uuid>()?);
    let rows = clickhouse
        .rows(&format!(
            "SELECT r.name AS name, r.kind AS kind, r.status AS status, source, writes, steps, tokens, models,
                    toUInt64(greatest(0, toUnixTimestamp64Milli(r.end_time) - toUnixTimestamp64Milli(r.start_time))) AS ms
             FROM (SELECT * FROM {runs} WHERE parent_run_id = toUUID('{nobody}')
                   ORDER BY source, received_at DESC LIMIT 5 BY source) AS r
             LEFT JOIN (SELECT run_id, count() AS steps, sum(total_tokens) AS tokens,
                               arrayStringConcat(arrayFilter(m -> m != '', groupUniqArray(3)(model)), ', ') AS models
                        FROM (SELECT run_id, total_tokens, model FROM span FINAL
                              UNION ALL SELECT trace_id AS run_id, total_tokens, model FROM {runs} WHERE source = 'langsmith')
                        GROUP BY run_id) AS totals USING (run_id)
             ORDER BY source, name",
            nobody = Uuid::nil(),
        ))
        .await?;
    let mut table = Table::new(&["SOURCE", "RUN", "KIND", "STATUS", "WRITES", "STEPS", "TOKENS", "TOOK", "MODELS"]);
    for row in &rows {
        let [source, name, kind, status, writes, steps, tokens, ms, models] =
            ["source", "name", "kind", "status", "writes", "steps", "tokens", "ms", "models"]
                .map(|column| text(&row[column]));
        table.row([source, name, kind, status, writes, steps, tokens, format!("{ms} ms"), models]);
    }
    Ok(table)
}

async fn table_sizes(clickhouse: &ClickHouse) -> anyhow::Result<Table> {
    let rows = clickhouse
        .rows(
            "SELECT table, sum(p.rows) AS row_count, formatReadableSize(sum(p.bytes_on_disk)) AS size,
                    toUInt64(sum(p.bytes_on_disk) / sum(p.rows)) AS bytes_per_row
             FROM system.parts AS p WHERE active AND database = currentDatabase() AND table IN ('run', 'span', 'billing_meter')
             GROUP BY table ORDER BY table",
        )
        .await?;
    let mut table = Table::new(&["TABLE", "ROWS", "ON DISK", "BYTES PER ROW"]);
    for row in &rows {
        table.row(["table", "row_count", "size", "bytes_per_row"].map(|column| text(&row[column])));
    }
    Ok(table)
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn now_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn rfc3339(unix_ms: u64) -> String {
    let at = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_ms) * 1_000_000);
    at.ok().and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok()).unwrap_or_default()
}
