//! The operators' listener: health, metrics, and the admin API behind the admin key.

use std::convert::Infallible;
use std::sync::Arc;

use blake2::{Blake2s256, Digest};
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, Request, StatusCode};
use hyper::body::Incoming;
use redis::streams::StreamPendingReply;
use serde_json::json;
use subtle::ConstantTimeEq;
use tenant::keys::{INGEST_GROUP, RedisKey};
use tenant::redis::Redis;
use tenant::secret::Secret;
use tenant::shard::Shard;
use uuid::Uuid;

use crate::error::ApiError;
use crate::health::{Health, Probe};
use crate::routes::{Answer, Dialect, answer, refuse};

/// What the operators' handlers share.
#[derive(Clone)]
pub struct Operator {
    redis: Redis,
    admin_key: Option<Arc<Secret<String>>>,
    health: Health,
}

impl Operator {
    /// Without an admin key the admin API refuses everyone.
    pub fn new(redis: Redis, admin_key: Option<Secret<String>>, health: Health) -> Self {
        Self { redis, admin_key: admin_key.map(Arc::new), health }
    }

    /// Answers one request.
    pub async fn handle(self, request: Request<Incoming>) -> Result<Answer, Infallible> {
        let path = request.uri().path();
        let result = match (Probe::of(path), path, request.method()) {
            (Some(probe), _, &Method::GET) => return Ok(self.health.answer(probe).await),
            (_, "/v1/admin/shards", &Method::GET) => match self.authorize(request.headers()) {
                Ok(()) => self.shards().await,
                Err(error) => Err(error),
            },
            (Some(_), _, _) | (_, "/v1/admin/shards", _) => Err(ApiError::MethodNotAllowed { allowed: "GET" }),
            _ => Err(ApiError::NotFound),
        };
        Ok(result.unwrap_or_else(|error| refuse(Dialect::Native, Uuid::now_v7(), &error)))
    }

    fn authorize(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let presented = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok()).ok_or(ApiError::NoKey)?;
        let presented = presented.strip_prefix("Bearer ").ok_or(ApiError::NoKey)?;
        let refused = ApiError::Resolve(tenant::ResolveError::Unknown);
        let Some(admin_key) = &self.admin_key else { return Err(refused) };
        // Hashed first, so that not even the length can be told from the time it takes.
        let (presented, wanted) = (Blake2s256::digest(presented), Blake2s256::digest(admin_key.expose()));
        if presented.as_slice().ct_eq(wanted.as_slice()).into() { Ok(()) } else { Err(refused) }
    }

    /// `GET /v1/admin/shards`: per shard how many envelopes wait, and how many of them a worker is at.
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
            shards.push(json!({"shard": shard.number(), "stream": stream, "waiting": waiting, "pending": pending}));
        }
        Ok(answer(StatusCode::OK, "application/json", json!({ "shards": shards }).to_string().into_bytes()))
    }
}
