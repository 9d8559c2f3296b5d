//! The operators' listener: health, metrics, and the admin API, which needs the admin key.

use std::convert::Infallible;
use std::sync::Arc;

use blake2::{Blake2s256, Digest};
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, Request, StatusCode};
use hyper::body::Incoming;
use ledger::{HOURS_MAX, Hours, LedgerError, LedgerReader, Scope};
use model::shard::Shard;
use serde_json::json;
use service::http_path;
use stores::clock::unix_hour;
use stores::keys::RedisKey;
use stores::redis::Redis;
use stores::secret::Secret;
use subtle::ConstantTimeEq;
use uuid::Uuid;

use crate::answer::{Answer, Dialect, answer, refuse};
use crate::credentials;
use crate::error::ApiError;
use crate::health::{Health, Probe};

const SHARDS: &str = "/v1/admin/shards";
const LEDGER: &str = "/v1/admin/ledger";
/// Of a shard's lease: who works on it, and what keeps it from making progress.
const LEASE_FIELDS: [&str; 4] = ["owner", "epoch", "waiting", "waiting_since"];
/// Hours of the ledger that are returned unless the request names a number.
const LEDGER_HOURS: u32 = 24;

/// What the handlers of the operators' listener share.
#[derive(Clone)]
pub struct Operator {
    redis: Redis,
    admin_key: Option<Arc<Secret<String>>>,
    health: Health,
    ledger: LedgerReader,
}

impl Operator {
    /// Without an admin key, the admin API refuses every request.
    pub fn new(redis: Redis, admin_key: Option<Secret<String>>, health: Health, ledger: LedgerReader) -> Self {
        Self { redis, admin_key: admin_key.map(Arc::new), health, ledger }
    }

    /// Answers one request to the operators' listener.
    pub async fn handle(self, request: Request<Incoming>) -> Result<Answer, Infallible> {
        let path = &*http_path::normal(request.uri().path());
        let result = match (Probe::of(path), path, request.method()) {
            (Some(probe), _, &Method::GET) => return Ok(self.health.answer(probe).await),
            (_, SHARDS | LEDGER, &Method::GET) => match self.authorize(request.headers()) {
                Ok(()) if path == SHARDS => self.shards().await,
                Ok(()) => self.ledger(request.uri().query().unwrap_or_default()).await,
                Err(error) => Err(error),
            },
            (Some(_), _, _) | (_, SHARDS | LEDGER, _) => Err(ApiError::MethodNotAllowed { allowed: "GET" }),
            _ => Err(ApiError::NotFound),
        };
        Ok(result.unwrap_or_else(|error| refuse(Dialect::Native, Uuid::now_v7(), &error)))
    }

    fn authorize(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let presented = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok()).ok_or(ApiError::NoKey)?;
        let presented = credentials::of_scheme(presented.trim(), "bearer").ok_or(ApiError::NoKey)?;
        let refused = ApiError::Resolve(auth::ResolveError::Unknown);
        let Some(admin_key) = &self.admin_key else { return Err(refused) };
        // Hashed first, so that the time of the comparison does not reveal even the length of the key.
        let (presented, wanted) = (Blake2s256::digest(presented), Blake2s256::digest(admin_key.expose()));
        if presented.as_slice().ct_eq(wanted.as_slice()).into() { Ok(()) } else { Err(refused) }
    }

    /// `GET /v1/admin/shards`: per shard how many envelopes wait, which worker owns it, and why it makes no progress,
    /// if it makes none.
    async fn shards(&self) -> Result<Answer, ApiError> {
        let mut redis = self.redis.clone();
        let mut shards = Vec::new();
        for shard in Shard::all() {
            let stream = RedisKey::shard_stream(shard);
            let stream = stream.as_str();
            let waiting: u64 =
                redis::cmd("XLEN").arg(stream).query_async(&mut redis).await.map_err(ApiError::Unavailable)?;
            let lease = redis::cmd("HMGET").arg(RedisKey::shard_lease(shard)).arg(&LEASE_FIELDS).to_owned();
            let (owner, epoch, waits_for, waits_since_ms): (Option<String>, Option<u64>, Option<String>, Option<u64>) =
                lease.query_async(&mut redis).await.map_err(ApiError::Unavailable)?;
            shards.push(json!({
                "shard": shard.number(), "stream": stream, "waiting": waiting, "owner": owner, "epoch": epoch,
                "waits_for": waits_for, "waits_since_ms": waits_since_ms,
            }));
        }
        Ok(answer(StatusCode::OK, "application/json", json!({ "shards": shards }).to_string().into_bytes()))
    }

    /// `GET /v1/admin/ledger?org=…&hours=…`: the ledger per org and hour, and its imbalances.
    async fn ledger(&self, query: &str) -> Result<Answer, ApiError> {
        let (scope, hour_count) = parse_ledger_query(query)?;
        let hours = Hours::up_to(unix_hour(), hour_count);
        let balance = self.ledger.balance(scope, &hours).await.map_err(|error| match error {
            LedgerError::TooMany => ApiError::Invalid(error.to_string()),
            other => ApiError::NoLedger(other),
        })?;
        let imbalances = ledger::imbalances(&self.redis).await.map_err(|error| ApiError::NoLedger(error.into()))?;
        let rows = balance.rows.iter().map(|row| {
            let since = imbalances.get(&(row.org_id, row.hour)).map(|imbalance| imbalance.since_s);
            json!({ "row": row, "imbalance_since_s": since })
        });
        let body = json!({
            "hours": hours.iter().count(), "imbalance": balance.imbalance(), "is_whole": balance.is_whole,
            "is_complete": balance.is_complete, "unreadable": balance.unreadable, "rows": rows.collect::<Vec<_>>(),
        });
        Ok(answer(StatusCode::OK, "application/json", body.to_string().into_bytes()))
    }
}

/// The org, or every org, and the number of hours that the query asks for.
fn parse_ledger_query(query: &str) -> Result<(Scope, u32), ApiError> {
    let (mut scope, mut hours) = (Scope::Everyone, LEDGER_HOURS);
    for (name, value) in query.split('&').filter(|part| !part.is_empty()).filter_map(|part| part.split_once('=')) {
        match name {
            "org" => {
                let org = value.parse().map_err(|_| ApiError::Malformed("`org` must be a UUID".to_owned()))?;
                scope = Scope::Org(org);
            }
            "hours" => {
                let asked = value.parse().ok().filter(|hours| (1..=HOURS_MAX).contains(hours));
                hours =
                    asked.ok_or_else(|| ApiError::Malformed(format!("hours is no number from 1 to {HOURS_MAX}")))?;
            }
            _ => return Err(ApiError::Malformed("the parameters are org and hours".to_owned())),
        }
    }
    Ok((scope, hours))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ledger_requests_take_an_org_and_hours() {
        let org = "11111111-1111-1111-1111-111111111111";
        assert_eq!(parse_ledger_query("").unwrap(), (Scope::Everyone, LEDGER_HOURS));
        let wanted = Scope::Org(org.parse().unwrap());
        assert_eq!(parse_ledger_query(&format!("org={org}&hours=168")).unwrap(), (wanted, 168));
        for bad in ["org=acme", "hours=0", "hours=169", "hours=x", "days=1", "org=", &format!("organisation={org}")] {
            assert!(matches!(parse_ledger_query(bad), Err(ApiError::Malformed(_))), "{bad}");
        }
    }
}
