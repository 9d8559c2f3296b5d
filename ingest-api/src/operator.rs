//! The operators' listener: health, metrics, and the admin API behind the admin key.

use std::convert::Infallible;
use std::sync::Arc;

use blake2::{Blake2s256, Digest};
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, Request, StatusCode};
use hyper::body::Incoming;
use ledger::{Books, HOURS_MAX, LedgerError, Whose, Window};
use model::shard::Shard;
use redis::streams::StreamPendingReply;
use serde_json::json;
use service::http_path;
use stores::clock::unix_hour;
use stores::keys::{INGEST_GROUP, RedisKey};
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
/// Hours of a ledger unless more or fewer are asked for.
const LEDGER_HOURS: u32 = 24;

/// What the operators' handlers share.
#[derive(Clone)]
pub struct Operator {
    redis: Redis,
    admin_key: Option<Arc<Secret<String>>>,
    health: Health,
    books: Books,
}

impl Operator {
    /// Without an admin key the admin API refuses everyone.
    pub fn new(redis: Redis, admin_key: Option<Secret<String>>, health: Health, books: Books) -> Self {
        Self { redis, admin_key: admin_key.map(Arc::new), health, books }
    }

    /// Answers one request.
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
        // Hashed first, so that not even the length can be told from the time it takes.
        let (presented, wanted) = (Blake2s256::digest(presented), Blake2s256::digest(admin_key.expose()));
        if presented.as_slice().ct_eq(wanted.as_slice()).into() { Ok(()) } else { Err(refused) }
    }

    /// `GET /v1/admin/shards`: per shard how many envelopes wait, and what keeps it from making progress, if anything
    /// does.
    async fn shards(&self) -> Result<Answer, ApiError> {
        let mut redis = self.redis.clone();
        let mut shards = Vec::new();
        for shard in Shard::all() {
            let stream = RedisKey::shard_stream(shard);
            let stream = stream.as_str();
            let waiting: u64 =
                redis::cmd("XLEN").arg(stream).query_async(&mut redis).await.map_err(ApiError::Unavailable)?;
            let pending: Result<StreamPendingReply, _> =
                redis::cmd("XPENDING").arg(stream).arg(INGEST_GROUP).query_async(&mut redis).await;
            // No group yet: no worker has ever looked at this shard.
            let pending = pending.map_or(0, |reply| reply.count());
            let (waits_for, waits_since_ms): (Option<String>, Option<u64>) = redis::cmd("HMGET")
                .arg(RedisKey::shard_lease(shard))
                .arg(&["waiting", "waiting_since"])
                .query_async(&mut redis)
                .await
                .map_err(ApiError::Unavailable)?;
            shards.push(json!({
                "shard": shard.number(), "stream": stream, "waiting": waiting, "pending": pending,
                "waits_for": waits_for, "waits_since_ms": waits_since_ms,
            }));
        }
        Ok(answer(StatusCode::OK, "application/json", json!({ "shards": shards }).to_string().into_bytes()))
    }

    /// `GET /v1/admin/ledger?org=…&hours=…`: whether everything that was accepted is somewhere, per org and hour.
    async fn ledger(&self, query: &str) -> Result<Answer, ApiError> {
        let (whose, hours) = asked(query)?;
        let window = Window::up_to(unix_hour(), hours);
        let balance = self.books.balance(whose, &window).await.map_err(|error| match error {
            LedgerError::TooMany => ApiError::Invalid(error.to_string()),
            other => ApiError::NoLedger(other),
        })?;
        let residues = ledger::residues(&self.redis).await.map_err(|error| ApiError::NoLedger(error.into()))?;
        let rows = balance.rows.iter().map(|row| {
            let since = residues.get(&(row.org_id, row.hour)).map(|residue| residue.since_s);
            json!({ "row": row, "residue_since_s": since })
        });
        let body = json!({
            "hours": window.hours().count(), "residue": balance.residue(), "is_whole": balance.is_whole,
            "is_complete": balance.is_complete, "unreadable": balance.unreadable, "rows": rows.collect::<Vec<_>>(),
        });
        Ok(answer(StatusCode::OK, "application/json", body.to_string().into_bytes()))
    }
}

/// Whose ledger of how many hours is asked for.
fn asked(query: &str) -> Result<(Whose, u32), ApiError> {
    let (mut whose, mut hours) = (Whose::Everyone, LEDGER_HOURS);
    for (name, value) in query.split('&').filter(|part| !part.is_empty()).filter_map(|part| part.split_once('=')) {
        match name {
            "org" => {
                let org = value.parse().map_err(|_| ApiError::Malformed("org is no id of an org".to_owned()))?;
                whose = Whose::Org(org);
            }
            "hours" => {
                let asked = value.parse().ok().filter(|hours| (1..=HOURS_MAX).contains(hours));
                hours =
                    asked.ok_or_else(|| ApiError::Malformed(format!("hours is no number from 1 to {HOURS_MAX}")))?;
            }
            _ => return Err(ApiError::Malformed("the parameters are org and hours".to_owned())),
        }
    }
    Ok((whose, hours))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_is_asked_for_by_org_and_hours() {
        let org = "11111111-1111-1111-1111-111111111111";
        assert_eq!(asked("").unwrap(), (Whose::Everyone, LEDGER_HOURS));
        let wanted = Whose::Org(org.parse().unwrap());
        assert_eq!(asked(&format!("org={org}&hours=168")).unwrap(), (wanted, 168));
        for bad in ["org=acme", "hours=0", "hours=169", "hours=x", "days=1", "org=", &format!("organisation={org}")] {
            assert!(matches!(asked(bad), Err(ApiError::Malformed(_))), "{bad}");
        }
    }
}
