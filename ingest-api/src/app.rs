//! The path of an ingest request, whatever its protocol: who, body, decode, pay, append.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use admission::{Admission, Cost, Standing};
use auth::context::scope;
use auth::{Resolver, TenantContext};
use http::HeaderMap;
use hyper::body::Incoming;
use model::ids::EnvelopeId;
use model::trace::UnixNanos;
use outcomes::{Items, Ledger, Outcome};
use queue::fence::{self, Appended, Fence};
use stores::redis::Redis;
use stores::redis::ack::AckClass;
use stores::redis::confirm::Confirmer;
use translate::batch::Counts;
use uuid::Uuid;
use wire::envelope::{ContentId, EnvelopeKey, Header};

use crate::admitted::Admitted;
use crate::body::{self, Budget, ReadBody};
use crate::credentials;
use crate::decoder::Decoder;
use crate::error::ApiError;
use crate::health::Health;
use crate::metrics;
use otlp::encoding::Encoding;
use otlp::untraced::Signal;

/// Bodies above this many bytes are decoded with the other tasks of the thread moved elsewhere.
const DECODE_INLINE_BYTES_MAX: usize = 256 << 10;

/// What every request handler shares.
#[derive(Clone)]
pub struct App {
    resolver: Resolver,
    admission: Admission,
    ledger: Ledger,
    shards: Fence,
    ack: AckClass,
    budget: Budget,
    pub(crate) health: Health,
}

/// What a request that was taken in is answered with.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// What became of its items.
    pub counts: Counts,
    /// Where its key stands with its rate; `None` where no rate holds.
    pub standing: Option<Standing>,
    /// How what was stored is kept; `None` where nothing was.
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
        let (ack, shards) = (confirmer.class(), Fence::confirmed(redis, confirmer));
        Self { resolver, admission, ledger, shards, ack, budget, health }
    }

    /// The budget that bodies are read under.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Lets a request in if its key may ingest and is not known to be over its rate. Before the body is read.
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

    /// What envelopes are written with.
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

    /// Counts the items of a signal that is not stored, all of which are rejected. The request is charged like one of a
    /// single item, or this would be a way around the rate.
    pub async fn reject_untraced(
        &self,
        mut admitted: Admitted,
        signal: Signal,
        encoding: Encoding,
        body: &[u8],
    ) -> Result<(u64, Option<Standing>), ApiError> {
        let items = otlp::untraced::count(signal, encoding, body).map_err(ApiError::Malformed);
        let items = admitted.check(items)?;
        let charged = self.charge_request(admitted.tenant()).await;
        let standing = admitted.check(charged)?;
        let tenant = admitted.into_tenant();
        self.ledger.open(tenant.org_id(), items).end(Outcome::Rejected, "not_traces");
        Ok((items, standing))
    }

    /// Charges a request of which nothing is stored.
    async fn charge_request(&self, tenant: &TenantContext) -> Result<Option<Standing>, ApiError> {
        let (charge, standing) = self.admission.admit(tenant, Cost { items: 0, bytes: 0 }, now()).await?;
        charge.kept();
        Ok(standing)
    }

    /// Decodes a body, pays for its rows and appends them. On `Ok` they are kept as the ack class says.
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
        let decoded = if body.bytes.len() > DECODE_INLINE_BYTES_MAX {
            tokio::task::block_in_place(decode)
        } else {
            decode()
        };
        drop(body);
        let (counts, envelope) = admitted.check(decoded)?;
        let tenant = admitted.into_tenant();
        let open = |items| self.ledger.open(tenant.org_id(), items);
        let items = || ItemOutcomes { accepted: open(counts.accepted()), rejected: open(counts.set_aside) };
        let (standing, ack) = match envelope {
            Some(envelope) => {
                let cost = Cost { items: counts.billed(), bytes };
                let stored = self.clone().pay_and_append(Arc::clone(&tenant), cost, received_at, envelope, items());
                // By itself: a client that goes away must not leave a charge or an item without an end.
                tokio::spawn(stored).await.map_err(|_panicked| ApiError::Defect)??
            }
            None => {
                let standing = self.charge_request(&tenant).await.map_err(|error| items().refused(error))?;
                items().taken();
                (standing, None)
            }
        };
        metrics::items(&counts);
        Ok(Accepted { counts, standing, ack })
    }

    /// All limits, then the append; and every item and every charge to its end.
    async fn pay_and_append(
        self,
        tenant: Arc<TenantContext>,
        cost: Cost,
        received_at: UnixNanos,
        envelope: Vec<u8>,
        items: ItemOutcomes,
    ) -> Result<(Option<Standing>, Option<AckClass>), ApiError> {
        let (charge, standing) = match self.admission.admit(&tenant, cost, received_at).await {
            Ok(admitted) => admitted,
            Err(refused) => return Err(items.refused(refused.into())),
        };
        let new = fence::Accepted { org: tenant.org_id(), received_at, items: cost.items, envelope: &envelope };
        let begun = Instant::now();
        let appended = self.shards.append(tenant.shard(), &new).await;
        metrics::appended(begun.elapsed(), envelope.len(), matches!(appended, Ok(Appended::Kept)));
        // After an error Redis may have the envelope all the same: the client's retry writes the same rows again, and they
        // collapse into one.
        let error = match appended {
            Ok(Appended::Kept) => {
                charge.kept();
                self.ledger.answered().add(new.org, received_at, cost.items);
                items.taken();
                return Ok((standing, Some(self.ack)));
            }
            Ok(Appended::Closed) => ApiError::Moving,
            Err(error) => ApiError::of_append(error, self.ack),
        };
        charge.refunded().await;
        Err(items.refused(error))
    }
}

/// The items of a request that was understood. What was set aside is told to the client when the rest is taken; if the
/// request is refused, all of it comes again.
struct ItemOutcomes {
    accepted: Items,
    rejected: Items,
}

impl ItemOutcomes {
    fn taken(self) {
        self.accepted.end(Outcome::Accepted, "appended");
        self.rejected.end(Outcome::Rejected, "set_aside");
    }

    fn refused(self, error: ApiError) -> ApiError {
        self.accepted.end(error.outcome(), error.code());
        self.rejected.end(error.outcome(), error.code());
        error
    }
}

/// What a request says: the same when a client sends it again with the same key, however it is compressed, because
/// decoding invents nothing (`tests/fuzz` decodes every body twice).
fn content_id(tenant: &TenantContext, decoder: &Decoder, body: &[u8]) -> ContentId {
    let (org, key) = (tenant.org_id().0, tenant.api_key_id().0);
    let beside = decoder.beside_the_body();
    ContentId::of(&[org.as_bytes(), key.as_bytes(), decoder.source().as_str().as_bytes(), beside.as_bytes()], body)
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
        Decoder::OtlpProtobuf(String::new()).decode(&header, &body, &Budget::new(1 << 30, 1 << 30)).map(|(counts, _)| counts.spans)
    }

    #[test]
    fn few_bytes_cannot_stand_for_terabytes() {
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
