//! The path of an ingest request, whatever its protocol: who, body, translate, publish.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use admission::{Admission, Cost, Standing};
use auth::context::scope;
use auth::{Resolver, TenantContext};
use http::HeaderMap;
use hyper::body::Incoming;
use model::ids::EnvelopeId;
use model::trace::UnixNanos;
use outcomes::{Items, Ledger, Outcome};
use queue::fence;
use stores::redis::Redis;
use stores::redis::ack::AckClass;
use stores::redis::confirm::Confirmer;
use translate::batch::{Batch, Counts};
use translate::native::{self, Aside};
use uuid::Uuid;
use wire::envelope::{ContentId, EnvelopeKey, Header, Source, Writer};

use crate::body::{self, Budget, ReadBody};
use crate::credentials;
use crate::error::ApiError;
use crate::health::Health;
use crate::langsmith;
use crate::metrics;
use crate::publish::Publisher;
use otlp::encoding::Encoding;
use otlp::untraced::Signal;

/// Bodies above this many bytes are translated with the other tasks of the thread moved elsewhere.
const TRANSLATE_INLINE_BYTES_MAX: usize = 256 << 10;

/// What every request handler shares.
#[derive(Clone)]
pub struct App {
    resolver: Resolver,
    admission: Admission,
    ledger: Ledger,
    publisher: Publisher,
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
        Self { resolver, admission, ledger, publisher: Publisher::new(redis, confirmer), budget, health }
    }

    /// The budget that bodies are read under.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// The tenant of a request, if its key may ingest and is not known to be over its rate. Before the body is read.
    pub async fn admit(&self, headers: &HeaderMap) -> Result<Arc<TenantContext>, ApiError> {
        let refused = |org, error: ApiError| {
            self.ledger.refused_unread(org, error.outcome(), error.code());
            error
        };
        self.key().map_err(|error| refused(None, error))?;
        let presented = credentials::presented_key(headers).map_err(|error| refused(None, error))?;
        let tenant = self.resolver.resolve(&presented).await.map_err(|error| refused(None, error.into()))?;
        let org = Some(tenant.org_id());
        tenant.require(scope::INGEST_WRITE).map_err(|error| refused(org, error.into()))?;
        if tenant.is_moving() {
            return Err(refused(org, ApiError::Moving));
        }
        self.admission.precheck(&tenant).map_err(|error| refused(org, error.into()))?;
        Ok(tenant)
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
        source: Source,
    ) -> Result<Accepted, ApiError> {
        let tenant = self.admit(headers).await?;
        let body = body::read(headers, body, &self.budget).await;
        let body = body.inspect_err(|error| self.refused_unread(&tenant, error))?;
        self.store(request_id, &tenant, headers, body, source).await
    }

    /// The same for a request of LangSmith's protocol.
    pub async fn ingest_langsmith(
        &self,
        request_id: Uuid,
        headers: &HeaderMap,
        body: &mut Incoming,
        kind: &langsmith::BodyKind,
    ) -> Result<Accepted, ApiError> {
        let tenant = self.admit(headers).await?;
        let body = body::read(headers, body, &self.budget).await;
        let body = body.inspect_err(|error| self.refused_unread(&tenant, error))?;
        let translate = |header: &Header, body: &[u8]| translate_langsmith(header, kind, body, &self.budget);
        let kind = kind.to_string();
        self.store_by(request_id, &tenant, kind.as_bytes(), body, Source::LangSmith, translate).await
    }

    /// Counts the items of a signal that is not stored, all of which are rejected. The request is charged like one of a
    /// single item, or this would be a way around the rate.
    pub async fn reject_untraced(
        &self,
        tenant: &TenantContext,
        signal: Signal,
        encoding: Encoding,
        body: &[u8],
    ) -> Result<(u64, Option<Standing>), ApiError> {
        let refused = |error: &ApiError| self.refused_unread(tenant, error);
        let items = otlp::untraced::count(signal, encoding, body).map_err(ApiError::Malformed);
        let items = items.inspect_err(refused)?;
        let standing = self.charge_request(tenant).await.inspect_err(refused)?;
        self.ledger.open(tenant.org_id(), items).end(Outcome::Rejected, "not_traces");
        Ok((items, standing))
    }

    /// Charges a request of which nothing is stored.
    async fn charge_request(&self, tenant: &TenantContext) -> Result<Option<Standing>, ApiError> {
        let (charge, standing) = self.admission.admit(tenant, Cost { items: 0, bytes: 0 }, now()).await?;
        charge.kept();
        Ok(standing)
    }

    /// Counts a request whose items nobody has counted.
    pub fn refused_unread(&self, tenant: &TenantContext, error: &ApiError) {
        self.ledger.refused_unread(Some(tenant.org_id()), error.outcome(), error.code());
    }

    /// Translates a body, pays for its rows and appends them. On `Ok` they are kept as the ack class says.
    pub async fn store(
        &self,
        request_id: Uuid,
        tenant: &Arc<TenantContext>,
        headers: &HeaderMap,
        body: ReadBody,
        source: Source,
    ) -> Result<Accepted, ApiError> {
        let project = otlp::project::of(headers);
        let translate = |header: &Header, body: &[u8]| translate(header, &project, body);
        self.store_by(request_id, tenant, project.as_bytes(), body, source, translate).await
    }

    /// `beside` is what decides what the body means, beside itself and the protocol.
    async fn store_by(
        &self,
        request_id: Uuid,
        tenant: &Arc<TenantContext>,
        beside: &[u8],
        body: ReadBody,
        source: Source,
        translate: impl FnOnce(&Header, &[u8]) -> Translated,
    ) -> Result<Accepted, ApiError> {
        let (bytes, received_at) = (body.bytes.len() as u64, now());
        let key = self.key()?;
        let translate = || {
            let header = Header {
                envelope_id: EnvelopeId(request_id),
                org_id: tenant.org_id(),
                workspace_id: tenant.workspace_id(),
                project_id: tenant.project_id(),
                api_key_id: tenant.api_key_id(),
                content_id: content_id(tenant, source, beside, &body.bytes),
                received_at,
                source,
            };
            let (counts, envelope) = translate(&header, &body.bytes)?;
            Ok((counts, envelope.map(|envelope| envelope.finish(key))))
        };
        let translated = if body.bytes.len() > TRANSLATE_INLINE_BYTES_MAX {
            tokio::task::block_in_place(translate)
        } else {
            translate()
        };
        drop(body);
        let (counts, envelope) = translated.inspect_err(|error| self.refused_unread(tenant, error))?;
        let open = |items| self.ledger.open(tenant.org_id(), items);
        let items = || Fate { accepted: open(counts.accepted()), set_aside: open(counts.set_aside) };
        let (standing, ack) = match envelope {
            Some(envelope) => {
                let cost = Cost { items: counts.billed(), bytes };
                let stored = self.clone().pay_and_append(Arc::clone(tenant), cost, received_at, envelope, items());
                // By itself: a client that goes away must not leave a charge or an item without an end.
                tokio::spawn(stored).await.map_err(|_panicked| ApiError::Defect)??
            }
            None => {
                let standing = self.charge_request(tenant).await.map_err(|error| items().refused(error))?;
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
        items: Fate,
    ) -> Result<(Option<Standing>, Option<AckClass>), ApiError> {
        let (charge, standing) = match self.admission.admit(&tenant, cost, received_at).await {
            Ok(admitted) => admitted,
            Err(refused) => return Err(items.refused(refused.into())),
        };
        let new = fence::Accepted { org: tenant.org_id(), received_at, items: cost.items, envelope: &envelope };
        match self.publisher.publish(&tenant, &new).await {
            Ok(class) => {
                charge.kept();
                self.ledger.answered().add(new.org, received_at, cost.items);
                items.taken();
                Ok((standing, Some(class)))
            }
            Err(error) => {
                charge.refunded().await;
                Err(items.refused(error))
            }
        }
    }
}

/// The items of a request that was understood. What was set aside is told to the client when the rest is taken; if the
/// request is refused, all of it comes again.
struct Fate {
    accepted: Items,
    set_aside: Items,
}

impl Fate {
    fn taken(self) {
        self.accepted.end(Outcome::Accepted, "appended");
        self.set_aside.end(Outcome::Rejected, "set_aside");
    }

    fn refused(self, error: ApiError) -> ApiError {
        self.accepted.end(error.outcome(), error.code());
        self.set_aside.end(error.outcome(), error.code());
        error
    }
}

/// What a request says: the same when a client sends it again with the same key, however it is compressed, because
/// translating invents nothing (`tests/fuzz` translates every body twice).
fn content_id(tenant: &TenantContext, source: Source, beside: &[u8], body: &[u8]) -> ContentId {
    let (org, key) = (tenant.org_id().0, tenant.api_key_id().0);
    ContentId::of(&[org.as_bytes(), key.as_bytes(), source.as_str().as_bytes(), beside], body)
}

/// What became of a body's items, and the envelope to be finished, if anything is to be stored.
type Translated = Result<(Counts, Option<Writer>), ApiError>;

/// Reads a body into rows and encodes them. Nothing is published unless the body was understood to its end. OTLP spans
/// that name no project of LangSmith's are of `project`, which may be empty.
pub fn translate(header: &Header, project: &str, body: &[u8]) -> Translated {
    Batch::with(|batch| {
        match header.source {
            Source::OtlpProtobuf | Source::OtlpGrpc => {
                otlp::decode_protobuf(body, &mut otlp::Translator::new(batch, header, project))
                    .map_err(|e| ApiError::Malformed(e.to_string()))?;
            }
            Source::OtlpJson => {
                // Nothing reaches the batch before the whole body has been read, so that it can be read again.
                translate::lenient::Document::of_otlp(body)
                    .read(|json| otlp::decode_json(json.as_bytes(), &mut otlp::Translator::new(batch, header, project)))
                    .map_err(|e| ApiError::Malformed(otlp::malformed_json(&e)))?;
            }
            // Nor here: what can be wrong with the body as a whole is looked at first.
            Source::Native => translate::lenient::Document::new(body)
                .read(|json| native::decode(json.as_bytes(), header.project_id, header.received_at, Aside::Told, batch))
                .map_err(|e| ApiError::Malformed(e.to_string()))?,
            // Its bodies say only together with their path what they are.
            Source::LangSmith => return Err(ApiError::Defect),
        }
        let envelope = batch.envelope(header, body.len())?;
        Ok((batch.counts(), envelope))
    })
}

/// The same for a body of LangSmith's protocol. What its parts are decompressed into is taken from `budget`.
pub fn translate_langsmith(header: &Header, kind: &langsmith::BodyKind, body: &[u8], budget: &Budget) -> Translated {
    Batch::with(|batch| {
        langsmith::decode(kind, body, header, budget, batch)?;
        let envelope = batch.envelope(header, body.len())?;
        Ok((batch.counts(), envelope))
    })
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
    use wire::envelope::{EXPANDED_BYTES_MAX, SECTION_ROWS_MAX};

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
        translate(&header, "", &body).map(|(counts, _)| counts.spans)
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
