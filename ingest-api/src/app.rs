//! The way of an ingest request, in any protocol: find the tenant, read the body, decode it, check the limits, append.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use admission::{Admission, Cost, RateLimitStatus};
use auth::context::scope;
use auth::{Resolver, TenantContext};
use futures_util::FutureExt;
use http::HeaderMap;
use hyper::body::Incoming;
use model::ids::EnvelopeId;
use model::trace::UnixNanos;
use otlp::encoding::Encoding;
use otlp::untraced::Signal;
use outcomes::{ItemOutcomes, Ledger, Outcome};
use queue::appender;
use queue::appender::{Appended, ShardAppender};
use stores::redis::Redis;
use stores::redis::ack::AckClass;
use stores::redis::confirm::Confirmer;
use translate::batch::Counts;
use uuid::Uuid;
use wire::envelope::{ContentId, EnvelopeKey, Header};

use crate::admitted::Admitted;
use crate::body::{Budget, ReadBody};
use crate::decoder::Decoder;
use crate::error::ApiError;
use crate::health::Health;
use crate::uncancelled::Uncancelled;
use crate::{body, credentials, metrics};

/// Bodies above this many bytes are decoded in a blocking section, so that the thread's other tasks go on elsewhere.
const DECODE_INLINE_BYTES_MAX: usize = 256 << 10;

/// What every request handler shares.
#[derive(Clone)]
pub struct App {
    resolver: Resolver,
    admission: Admission,
    ledger: Ledger,
    shards: ShardAppender,
    ack: AckClass,
    budget: Budget,
    pub(crate) health: Health,
}

/// What the answer to an accepted request says.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// How many items of each kind were accepted or rejected.
    pub counts: Counts,
    /// The rate limit's state of the API key; `None` where no rate limit applies.
    pub rate_limit: Option<RateLimitStatus>,
    /// How durable the stored data is; `None` when nothing was stored.
    pub ack: Option<AckClass>,
}

impl App {
    /// Puts the parts together.
    pub fn new(
        resolver: Resolver,
        admission: Admission,
        ledger: Ledger,
        redis: Redis,
        confirmer: Confirmer,
        budget: Budget,
        health: Health,
    ) -> Self {
        let (ack, shards) = (confirmer.class(), ShardAppender::confirmed(redis, confirmer));
        Self { resolver, admission, ledger, shards, ack, budget, health }
    }

    /// The memory budget for request bodies.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Admits a request if its API key may ingest and is not known to be over its rate limit. Does not read the body.
    pub async fn admit(&self, headers: &HeaderMap) -> Result<Admitted, ApiError> {
        let refused = |org, error: ApiError| {
            self.ledger.refused_unread(org, error.outcome(), error.code());
            error
        };
        self.key().map_err(|error| refused(None, error))?;
        let presented = credentials::presented_key(headers).map_err(|error| refused(None, error))?;
        let tenant = self.resolver.resolve(&presented).await.map_err(|error| refused(None, error.into()))?;
        let mut admitted = Admitted::new(tenant, self.ledger.clone());
        let tenant = Arc::clone(admitted.tenant());
        admitted.check(tenant.require(scope::INGEST_WRITE).map_err(ApiError::from))?;
        admitted.check(if tenant.is_moving() { Err(ApiError::Moving) } else { Ok(()) })?;
        admitted.check(self.admission.precheck(&tenant).map_err(ApiError::from))?;
        Ok(admitted)
    }

    /// The key that envelopes are sealed with; an error until Postgres has answered once.
    fn key(&self) -> Result<&EnvelopeKey, ApiError> {
        self.health.envelope_keys.get().ok_or(ApiError::Starting)
    }

    /// Takes in one HTTP request. `request_id` becomes the envelope's id, so that an answer can be traced to its rows.
    pub async fn ingest(
        &self,
        request_id: Uuid,
        headers: &HeaderMap,
        body: &mut Incoming,
        decoder: &Decoder,
    ) -> Result<Accepted, ApiError> {
        let mut admitted = self.admit(headers).await?;
        let body = admitted.check(body::read(headers, body, &self.budget).await)?;
        self.store(request_id, admitted, body, decoder).await
    }

    /// Counts the items of a signal that is not stored; all of them are rejected. The request is charged like one with
    /// a single item, because otherwise such requests would bypass the rate limit.
    pub async fn reject_untraced(
        &self,
        mut admitted: Admitted,
        signal: Signal,
        encoding: Encoding,
        body: &[u8],
    ) -> Result<(u64, Option<RateLimitStatus>), ApiError> {
        let items = otlp::untraced::count(signal, encoding, body).map_err(ApiError::Malformed);
        let items = admitted.check(items)?;
        let charged = self.charge_request(admitted.tenant()).await;
        let rate_limit = admitted.check(charged)?;
        let tenant = admitted.into_tenant();
        self.ledger.open(tenant.org_id(), items).end(Outcome::Rejected, "not_traces");
        Ok((items, rate_limit))
    }

    /// Charges a request of which nothing is stored.
    async fn charge_request(&self, tenant: &TenantContext) -> Result<Option<RateLimitStatus>, ApiError> {
        let (charge, rate_limit) = self.admission.admit(tenant, Cost { items: 0, bytes: 0 }, now()).await?;
        charge.kept();
        Ok(rate_limit)
    }

    /// Decodes a body, charges its items and appends the envelope. On `Ok` it is as durable as the ack class says.
    pub async fn store(
        &self,
        request_id: Uuid,
        mut admitted: Admitted,
        body: ReadBody,
        decoder: &Decoder,
    ) -> Result<Accepted, ApiError> {
        let (bytes, received_at) = (body.bytes.len() as u64, now());
        let key = self.key()?;
        let tenant = Arc::clone(admitted.tenant());
        let decode = || {
            let header = Header {
                envelope_id: EnvelopeId(request_id),
                org_id: tenant.org_id(),
                workspace_id: tenant.workspace_id(),
                project_id: tenant.project_id(),
                api_key_id: tenant.api_key_id(),
                content_id: content_id(&tenant, decoder, &body.bytes),
                received_at,
                source: decoder.source(),
            };
            let (counts, envelope) = decoder.decode(&header, &body.bytes, &self.budget)?;
            Ok((counts, envelope.map(|envelope| envelope.finish(key))))
        };
        let decoded =
            if body.bytes.len() > DECODE_INLINE_BYTES_MAX { tokio::task::block_in_place(decode) } else { decode() };
        drop(body);
        let (counts, envelope) = admitted.check(decoded)?;
        let tenant = admitted.into_tenant();
        let open = |items| self.ledger.open(tenant.org_id(), items);
        let items = || RequestOutcomes { accepted: open(counts.accepted()), rejected: open(counts.rejected) };
        let (rate_limit, ack) = match envelope {
            Some(envelope) => {
                let cost = Cost { items: counts.billed(), bytes };
                let stored = self.clone().pay_and_append(Arc::clone(&tenant), cost, received_at, envelope, items());
                // When a client goes away, each charge and each item must still get its end. A panic is this request's
                // alone.
                let stored = Uncancelled::new(AssertUnwindSafe(stored).catch_unwind());
                stored.await.map_err(|_panicked| ApiError::Defect)??
            }
            None => {
                let rate_limit = self.charge_request(&tenant).await.map_err(|error| items().refused(error))?;
                items().appended();
                (rate_limit, None)
            }
        };
        metrics::items(&counts);
        Ok(Accepted { counts, rate_limit, ack })
    }

    /// Checks all limits, then appends. Every item and every charge gets its end, whatever fails.
    async fn pay_and_append(
        self,
        tenant: Arc<TenantContext>,
        cost: Cost,
        received_at: UnixNanos,
        envelope: Vec<u8>,
        items: RequestOutcomes,
    ) -> Result<(Option<RateLimitStatus>, Option<AckClass>), ApiError> {
        let (charge, rate_limit) = match self.admission.admit(&tenant, cost, received_at).await {
            Ok(admitted) => admitted,
            Err(refused) => return Err(items.refused(refused.into())),
        };
        let new = appender::Accepted { org: tenant.org_id(), received_at, items: cost.items, envelope: &envelope };
        let begun = Instant::now();
        let appended = self.shards.append(tenant.shard(), &new).await;
        metrics::appended(begun.elapsed(), envelope.len(), matches!(appended, Ok(Appended::Kept)));
        // After an error Redis may have the envelope all the same. Then the client's retry writes the same rows again,
        // and they collapse into one.
        let error = match appended {
            Ok(Appended::Kept) => {
                charge.kept();
                self.ledger.answered().add(new.org, received_at, cost.items);
                items.appended();
                return Ok((rate_limit, Some(self.ack)));
            }
            Ok(Appended::Closed) => ApiError::Moving,
            Err(error) => ApiError::of_append(error, self.ack),
        };
        charge.refunded().await;
        Err(items.refused(error))
    }
}

/// The items of a request that was decoded. If the request is accepted, the answer names its rejected items. If it is
/// refused, the client sends all of it again.
struct RequestOutcomes {
    accepted: ItemOutcomes,
    rejected: ItemOutcomes,
}

impl RequestOutcomes {
    fn appended(self) {
        self.accepted.end(Outcome::Accepted, "appended");
        self.rejected.end(Outcome::Rejected, "set_aside");
    }

    fn refused(self, error: ApiError) -> ApiError {
        self.accepted.end(error.outcome(), error.code());
        self.rejected.end(error.outcome(), error.code());
        error
    }
}

/// The content id of a request. It is the same when a client sends the request again with the same API key, in whatever
/// compression, because decoding adds nothing of its own (`tests/fuzz` decodes every body twice).
fn content_id(tenant: &TenantContext, decoder: &Decoder, body: &[u8]) -> ContentId {
    let (org, key) = (tenant.org_id().0, tenant.api_key_id().0);
    let body_context = decoder.body_context();
    ContentId::of(
        &[org.as_bytes(), key.as_bytes(), decoder.source().as_str().as_bytes(), body_context.as_bytes()],
        body,
    )
}

fn now() -> UnixNanos {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixNanos::try_from(since.as_nanos()).unwrap_or(UnixNanos::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::ids::{ApiKeyId, OrgId, ProjectId, WorkspaceId};
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
    use prost::Message;
    use wire::envelope::{EXPANDED_BYTES_MAX, SECTION_ROWS_MAX, Source};

    fn translated(resource_bytes: usize, resources: usize, spans: usize) -> Result<u32, ApiError> {
        let text = any_value::Value::StringValue("x".repeat(resource_bytes));
        let attribute =
            KeyValue { key: "large".into(), value: Some(AnyValue { value: Some(text) }), ..Default::default() };
        let span =
            Span { trace_id: vec![1; 16], span_id: vec![2; 8], parent_span_id: vec![3; 8], ..Default::default() };
        let resource_spans = ResourceSpans {
            resource: Some(Resource { attributes: vec![attribute], ..Default::default() }),
            scope_spans: vec![ScopeSpans { spans: vec![span; spans], ..Default::default() }],
            ..Default::default()
        };
        let body = ExportTraceServiceRequest { resource_spans: vec![resource_spans; resources] }.encode_to_vec();
        let nil = Uuid::nil();
        let header = Header {
            envelope_id: EnvelopeId(nil),
            org_id: OrgId(nil),
            workspace_id: WorkspaceId(nil),
            project_id: ProjectId(nil),
            api_key_id: ApiKeyId(nil),
            content_id: ContentId::NONE,
            received_at: 0,
            source: Source::OtlpProtobuf,
        };
        Decoder::OtlpProtobuf(String::new())
            .decode(&header, &body, &Budget::new(1 << 30, 1 << 30))
            .map(|(counts, _)| counts.spans)
    }

    #[test]
    fn a_small_body_that_expands_over_the_limit_is_refused() {
        const MIB: usize = 1 << 20;
        assert_eq!(translated(MIB, 2, 50).unwrap(), 100);
        for (resources, spans) in [(1, EXPANDED_BYTES_MAX / MIB + 1), (4, 50_000)] {
            let refused = translated(MIB, resources, spans).unwrap_err();
            assert!(matches!(refused, ApiError::TooLarge { limit: EXPANDED_BYTES_MAX, .. }), "{refused}");
        }
    }

    #[test]
    fn more_rows_than_one_insert_takes_are_refused() {
        let refused = translated(1, 1, SECTION_ROWS_MAX as usize + 1).unwrap_err();
        assert!(refused.to_string().contains("500000"), "{refused}");
    }
}
