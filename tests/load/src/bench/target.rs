//! Where the spans go: a stack of our own, or any endpoint that takes OTLP.

use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use model::shard::Shard;
use registry::{Limit, LimitChange, LimitEdit, NewKey, NewOrg, Registry};
use service::settings::parse;
use stack::{Endpoints, Layout};
use url::Url;

use super::clickhouse::Rows;
use super::options::{Format, Options};
use super::processes::Processes;
use super::shapes::{Sending, Shape};
use crate::client::{ClickHouse, Http};

/// Most orgs that are created at the same time.
const CREATED_AT_A_TIME: usize = 8;
/// Most bytes of an answer that are shown.
const ANSWER_SHOWN: usize = 300;

/// Where requests go, and who is measured.
#[derive(Clone, Debug)]
pub(super) struct Target {
    http: Http,
    url: String,
    headers: Vec<(String, String)>,
    /// One for each org; none at an endpoint that is not ours.
    keys: Vec<String>,
    pub(super) processes: Processes,
    pub(super) rows: Option<Rows>,
    pub(super) redis_url: Option<String>,
    /// Span ids are looked for as UUIDs.
    is_ours: bool,
}

impl Target {
    /// A stack of our own that runs already, with keys for the orgs.
    pub(super) async fn ours(
        layout: &Layout,
        endpoints: &Endpoints,
        shape: &Shape,
        keys: Vec<String>,
    ) -> anyhow::Result<Self> {
        let http = Http::new();
        let clickhouse = ClickHouse::new(http.clone(), &endpoints.urls.clickhouse_url)?;
        let (path, table, only, id) = match shape.format {
            Format::Otlp | Format::OtlpJson => ("/v1/traces", "span", "", "span_id"),
            Format::LangsmithMultipart => ("/runs/multipart", "run", " WHERE source = 'langsmith'", "run_id"),
        };
        let mut processes = Vec::new();
        for process in stack::status(layout).await? {
            let missing =
                || format!("{} is no process of this machine; unset the variables that name it", process.name);
            processes.push((process.name.to_string(), process.pid.with_context(missing)?));
        }
        Ok(Self {
            url: format!("{}{path}", endpoints.ingest_url),
            headers: owned(&shape.headers()),
            keys,
            processes: Processes(processes),
            rows: Some(Rows {
                clickhouse,
                count_sql: format!("SELECT count() FROM {table}{only}"),
                doubled_sql: Some(format!("SELECT count() - uniqExact(org_id, {id}) FROM {table}{only}")),
                probe_sql: Some(format!("SELECT DISTINCT toString({id}) FROM {table} WHERE {id} IN ({{ids}})")),
            }),
            redis_url: Some(endpoints.urls.redis_url.clone()),
            http,
            is_ours: true,
        })
    }

    /// Somebody else's endpoint.
    pub(super) fn foreign(url: &str, options: &Options, shape: &Shape) -> anyhow::Result<Self> {
        let http = Http::new();
        let mut headers = owned(&shape.headers());
        headers.extend(options.headers.iter().cloned());
        let rows = match (&options.clickhouse, &options.count_sql) {
            (Some(dsn), Some(count_sql)) => {
                let mut dsn = Url::parse(dsn).context("--clickhouse; see --help for an example")?;
                if dsn.username().is_empty() {
                    dsn.set_username("default").ok().context("--clickhouse names no host")?;
                }
                let clickhouse = ClickHouse::new(http.clone(), dsn.as_str())?;
                let (count_sql, probe_sql) = (count_sql.clone(), options.probe_sql.clone());
                Some(Rows { clickhouse, count_sql, doubled_sql: None, probe_sql })
            }
            _ => None,
        };
        let processes = Processes(options.pids.clone());
        let url = url.to_owned();
        Ok(Self { http, url, headers, keys: Vec::new(), processes, rows, redis_url: None, is_ours: false })
    }

    /// Sends one request. Fails unless the answer is a 2xx: what is sent again would be counted twice.
    pub(super) async fn send(&self, sending: Sending) -> anyhow::Result<()> {
        let mut headers: Vec<(&str, &str)> = self.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        headers.extend(self.keys.get(sending.org).map(|key| ("x-api-key", key.as_str())));
        let answer = self.http.send(http::Method::POST, &self.url, &headers, sending.body).await?;
        if !answer.status.is_success() {
            let body = String::from_utf8_lossy(&answer.body);
            let body: String = body.chars().take(ANSWER_SHOWN).collect();
            let advice = match answer.status.as_u16() {
                429 | 503 => "it is overloaded or its queue is full (our Redis has 512 MiB): send fewer --spans",
                401 | 403 => "the key is refused: give it as --header 'Name: value'",
                404 | 405 => "give the whole URL as --endpoint, with its path",
                _ => "look into its log",
            };
            bail!("{} answered {}: {body}; {advice}", self.url, answer.status);
        }
        Ok(())
    }

    /// A span's id as it is looked for in ClickHouse.
    pub(super) fn probe_id(&self, sending: &Sending) -> String {
        if self.is_ours && sending.probe.len() == 16 {
            let number = u64::from_str_radix(&sending.probe, 16).unwrap_or_default();
            return model::trace::span_uuid(number.to_be_bytes()).to_string();
        }
        sending.probe.clone()
    }

    /// The most memory that Redis has used since it began, in bytes, if there is one of ours.
    pub(super) async fn redis_peak(&self) -> anyhow::Result<Option<f64>> {
        let Some(url) = &self.redis_url else { return Ok(None) };
        let mut connection = redis::Client::open(url.as_str())?.get_multiplexed_async_connection().await?;
        let info: String = redis::cmd("INFO").arg("memory").query_async(&mut connection).await?;
        let line = info.lines().find_map(|line| line.strip_prefix("used_memory_peak:"));
        Ok(line.and_then(|bytes| bytes.trim().parse().ok()))
    }
}

fn owned(headers: &[(&str, String)]) -> Vec<(String, String)> {
    headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

/// Creates so many orgs, without limits, and returns a key of each.
pub(super) async fn create_orgs(endpoints: &Endpoints, orgs: usize) -> anyhow::Result<Vec<String>> {
    let registry = connect(endpoints).await?;
    let mut keys = Vec::with_capacity(orgs);
    while keys.len() < orgs {
        let first = keys.len();
        let mut creating = tokio::task::JoinSet::new();
        for n in first..orgs.min(first + CREATED_AT_A_TIME) {
            let registry = Arc::clone(&registry);
            creating.spawn(async move { create_org(&registry, n, |_| true).await });
        }
        for key in creating.join_all().await {
            keys.extend(key?);
        }
        if keys.len() / 1_000 > first / 1_000 {
            eprintln!("bench: {} of {orgs} orgs are created", keys.len());
        }
    }
    Ok(keys)
}

/// Creates an org in each of so many shards, and returns a key of each.
pub(super) async fn create_orgs_in_shards(endpoints: &Endpoints, shards: usize) -> anyhow::Result<Vec<String>> {
    /// It takes 54 orgs on average until every one of 16 shards has one.
    const ORGS_MAX: usize = 1_000;
    let registry = connect(endpoints).await?;
    let (mut taken, mut keys) = (Vec::new(), Vec::new());
    for n in 0..ORGS_MAX {
        if keys.len() == shards {
            break;
        }
        let is_new = |shard| {
            !taken.contains(&shard) && {
                taken.push(shard);
                true
            }
        };
        keys.extend(create_org(&registry, n, is_new).await?);
    }
    ensure!(keys.len() == shards, "{ORGS_MAX} orgs are in {} shards only, not in {shards}", keys.len());
    Ok(keys)
}

async fn connect(endpoints: &Endpoints) -> anyhow::Result<Arc<Registry>> {
    let dsn = parse::postgres_url(&endpoints.urls.pg_operator_dsn).map_err(anyhow::Error::msg)?;
    Ok(Arc::new(Registry::connect(&dsn).await?))
}

/// Creates an org, and a key of it if its shard is wanted.
async fn create_org(
    registry: &Registry,
    n: usize,
    mut is_wanted: impl FnMut(Shard) -> bool,
) -> anyhow::Result<Option<String>> {
    let org = registry.create_org(&NewOrg::new(format!("bench-{n}"), "Bench", "self_hosted")).await?;
    if !is_wanted(Shard::home(org.org_id)) {
        return Ok(None);
    }
    let unlimited = LimitEdit::Set(Limit::Unlimited);
    let limits = LimitChange { rps: unlimited, burst: unlimited, ..LimitChange::default() };
    registry.set_limits(org.org_id, &limits).await?;
    let project = registry.create_project(org.org_id, org.workspace_id, "bench", "Bench").await?;
    let key = registry.create_key(org.org_id, project, &NewKey::new("bench", &["ingest:write"])).await?;
    Ok(Some(key.reveal().to_owned()))
}
