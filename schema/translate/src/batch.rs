//! The rows that one request becomes, and its rejected items.

use std::cell::RefCell;
use std::sync::Arc;

use model::ids::ProjectId;
use model::meter::Meter;
use model::trace::{Origin, Run, Span, Value};
use wire::columns::Column;
use wire::envelope::{EXPANDED_BYTES_MAX, Header, SECTION_ROWS_MAX, Writer};
use wire::tables::{AttachmentRows, BillingRows, Rows, RunRows, ScoreRows, SetAsideRows, SpanRows, content_hash_128};

use super::prices::Prices;
use super::replay::CallHasher;
use super::{prices, unique};

/// Most rejected items per request that the answer names; further ones are only counted.
pub const REASONS_MAX: usize = 16;
/// Most rejected items of one request that are kept in `set_aside`; further ones are only counted. An SDK sends a
/// hundred items at once.
pub const REJECTED_ITEMS_MAX: usize = 10_000;
/// Most bytes that are kept of one rejected item.
pub const REJECTED_BYTES_MAX: usize = 1 << 20;
/// Most bytes that are kept of all rejected items of one request. Beyond it, only name, reason, size and hash of an
/// item are kept.
pub const REJECTED_BYTES_IN_ALL_MAX: usize = 8 << 20;
/// Most bytes that are kept of the name of a rejected item, and of its reason.
pub const REJECTED_WORDS_BYTES_MAX: usize = 1 << 10;

/// The rows of one request, and the items that could not become a row.
#[derive(Debug, Default)]
pub struct Batch {
    runs: RunRows,
    spans: SpanRows,
    call_hasher: CallHasher,
    prices: Arc<Prices>,
    /// Rows of `eval_score`, one per feedback object of LangSmith.
    pub scores: ScoreRows,
    /// Rows of `run_attachment`, one per attachment in a multipart body of LangSmith.
    pub attachments: AttachmentRows,
    bills: BillingRows,
    rejected_rows: SetAsideRows,
    /// The items that get a row in `rejected_rows` when the envelope's id is known.
    kept_items: Vec<model::trace::RejectedItem<'static>>,
    kept_bytes: usize,
    /// Number of rejected items beyond [`REJECTED_ITEMS_MAX`].
    omitted: u64,
    /// Bytes that the repeated origins of spans take when written out.
    origin_bytes: usize,
    rejected: u64,
    reasons: Vec<Rejection>,
}

/// One rejected item, for the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The name of the item, in a form that the client can recognise.
    pub item: String,
    /// The id that the client gave the item, if `item` does not contain it and it can be read.
    pub id: Option<String>,
    /// Why the item was rejected.
    pub error: String,
}

/// How many items of a request were accepted and rejected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Number of writes of runs that are stored.
    pub runs: u32,
    /// Number of spans that are stored.
    pub spans: u32,
    /// Number of scores that are stored.
    pub scores: u32,
    /// Number of attachments that are stored.
    pub attachments: u32,
    /// Number of rejected items.
    pub rejected: u64,
    /// The first [`REASONS_MAX`] rejected items.
    pub reasons: Vec<Rejection>,
}

/// The rows of one request are too many or too large for one insert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {what} is larger than {limit}{unit}")]
#[allow(missing_docs)]
pub struct TooLarge {
    pub what: &'static str,
    pub limit: usize,
    pub unit: &'static str,
}

impl Counts {
    /// Number of all accepted items.
    pub fn accepted(&self) -> u64 {
        self.billed() + u64::from(self.scores) + u64::from(self.attachments)
    }

    /// Number of billed items: runs and spans. Other items are billed only by their bytes.
    pub fn billed(&self) -> u64 {
        u64::from(self.runs) + u64::from(self.spans)
    }
}

impl Batch {
    /// Lends the batch of this thread, empty. Its some hundred buffers are reused from request to request, because
    /// allocating them again would cost more than filling them.
    pub fn with<T>(fill: impl FnOnce(&mut Batch) -> T) -> T {
        thread_local! {
            static BATCH: RefCell<Batch> = RefCell::default();
        }
        BATCH.with_borrow_mut(|batch| {
            batch.clear();
            batch.prices = prices::current();
            let result = fill(batch);
            if batch.byte_len() > KEPT_BYTES_MAX {
                *batch = Batch::default();
            }
            result
        })
    }

    /// Adds a span. `same_origin` promises that `origin` is that of the span before.
    pub fn push_span(&mut self, project: ProjectId, origin: &Origin<'_>, same_origin: bool, span: &mut Span<'_>) {
        let sent = span.attributes.len();
        self.prices.fill(&mut span.llm, &mut span.attributes);
        if span.attributes.len() > sent {
            // The client may have sent an attribute with the name of one that was added here.
            unique::keep_last(&mut span.attributes);
        }
        span.llm.content_hash = self.call_hasher.hash(&span.name, &span.llm, &span.attributes);
        self.spans.push(project, origin, same_origin, span);
    }

    /// Adds one write of a run. `op_hash` identifies the write, see [`RunRows::push`].
    pub fn push_run(&mut self, project: ProjectId, run: &mut Run<'_>, op_hash: u64) {
        self.prices.fill(&mut run.llm, &mut run.attributes);
        unique::keep_last(&mut run.attributes);
        run.llm.content_hash = self.call_hasher.hash(&run.name, &run.llm, &run.attributes);
        self.runs.push(project, run, op_hash);
    }

    /// Number of writes of runs so far.
    pub fn run_rows(&self) -> u32 {
        self.runs.rows()
    }

    /// Counts the bytes of the origin in a span's row. A request has an origin once, but every span's row repeats it,
    /// so a few bytes could stand for terabytes. False if the sum is too large; then the request will be refused.
    pub fn take_origin_bytes(&mut self, bytes: usize) -> bool {
        self.origin_bytes = self.origin_bytes.saturating_add(bytes);
        self.origin_bytes <= EXPANDED_BYTES_MAX
    }

    /// Notes a rejected item.
    pub fn reject(&mut self, item: String, error: String) {
        self.reject_with_id(item, None, error);
    }

    /// The same for an item that is named by its place, with its id.
    pub fn reject_with_id(&mut self, item: String, id: Option<String>, error: String) {
        self.rejected += 1;
        if self.reasons.len() < REASONS_MAX {
            // All three may contain text of the client.
            let short = |text: String| cut(&text).to_owned();
            self.reasons.push(Rejection { item: short(item), id: id.map(short), error: short(error) });
        }
    }

    /// Notes a rejected item of a client that does not read answers: its bytes become a row of `set_aside`.
    pub fn reject_and_keep(&mut self, item: String, error: String, content: &[u8]) {
        if self.kept_items.len() < REJECTED_ITEMS_MAX {
            let free = REJECTED_BYTES_IN_ALL_MAX - self.kept_bytes;
            let kept = &content[..content.len().min(REJECTED_BYTES_MAX).min(free)];
            self.kept_bytes += kept.len();
            self.kept_items.push(model::trace::RejectedItem {
                item: cut(&item).to_owned().into(),
                reason: cut(&error).to_owned().into(),
                content: kept.to_vec().into(),
                content_bytes: content.len() as u64,
                content_hash: content_hash_128(content),
            });
        } else {
            self.omitted += 1;
        }
        self.reject(item, error);
    }

    /// The counts of the items so far.
    pub fn counts(&self) -> Counts {
        Counts {
            runs: self.runs.rows(),
            spans: self.spans.rows(),
            scores: self.scores.rows(),
            attachments: self.attachments.rows(),
            rejected: self.rejected,
            reasons: self.reasons.clone(),
        }
    }

    /// The rows and the billing as an envelope that is to be sealed; `None` if there are no rows. Fails if they are too
    /// much for one insert.
    pub fn envelope(&mut self, header: &Header, body_bytes: usize) -> Result<Option<Writer>, TooLarge> {
        if self.omitted > 0 {
            self.kept_items.push(model::trace::RejectedItem {
                item: format!("{} further items of request {}", self.omitted, header.envelope_id.0).into(),
                reason: format!("more than {REJECTED_ITEMS_MAX} items of one request cannot be stored").into(),
                ..Default::default()
            });
        }
        for item in self.kept_items.drain(..) {
            self.rejected_rows.push(header.project_id, header.envelope_id, &item);
        }
        let (runs, spans) = (self.runs.rows(), self.spans.rows());
        let (scores, attachments, rejected) = (self.scores.rows(), self.attachments.rows(), self.rejected_rows.rows());
        if [runs, spans, scores, attachments].into_iter().any(|rows| rows > SECTION_ROWS_MAX) {
            let what = "number of runs, spans, scores or attachments in the request";
            return Err(TooLarge { what, limit: SECTION_ROWS_MAX as usize, unit: "" });
        }
        if runs + spans + scores + attachments + rejected == 0 {
            return Ok(None);
        }
        let items = u64::from(runs) + u64::from(spans);
        let bills = [(Meter::SpanIngested, items), (Meter::SpanBytes, body_bytes as u64)];
        for (meter, quantity) in bills.into_iter().filter(|(_, quantity)| *quantity > 0) {
            let Header { project_id, api_key_id, envelope_id, received_at, .. } = *header;
            self.bills.push(project_id, api_key_id, envelope_id, received_at, meter, quantity);
        }
        let expanded = self.origin_bytes.max(self.expanded_len());
        if expanded > EXPANDED_BYTES_MAX {
            let what = "request with its resource attributes repeated for every span";
            return Err(TooLarge { what, limit: EXPANDED_BYTES_MAX, unit: " bytes" });
        }
        let mut writer = Writer::new(header, self.byte_len() + ENVELOPE_OVERHEAD_BYTES);
        writer.section(&self.runs);
        writer.section(&self.spans);
        writer.section(&self.scores);
        writer.section(&self.attachments);
        writer.section(&self.rejected_rows);
        writer.section(&self.bills);
        Ok(Some(writer))
    }

    fn clear(&mut self) {
        self.runs.clear();
        self.spans.clear();
        self.scores.clear();
        self.attachments.clear();
        self.bills.clear();
        self.rejected_rows.clear();
        self.kept_items.clear();
        self.kept_bytes = 0;
        self.omitted = 0;
        self.origin_bytes = 0;
        self.rejected = 0;
        self.reasons.clear();
    }

    fn byte_len(&self) -> usize {
        self.len_of_rows(Column::byte_len)
    }

    /// The same as [`wire::envelope::Envelope::expanded_len`], for a check before the envelope is made.
    fn expanded_len(&self) -> usize {
        self.len_of_rows(Column::expanded_len)
    }

    fn len_of_rows(&self, len: impl Fn(&Column) -> usize) -> usize {
        let beside = sum(&self.scores, &len) + sum(&self.attachments, &len) + sum(&self.rejected_rows, &len);
        sum(&self.runs, &len) + sum(&self.spans, &len) + beside + sum(&self.bills, &len)
    }
}

fn sum(rows: &impl Rows, len: impl Fn(&Column) -> usize) -> usize {
    rows.columns().map(len).sum()
}

/// Bytes that one more copy of an origin takes.
pub fn origin_bytes(origin: &Origin<'_>) -> usize {
    let attributes = origin.resource_attributes.iter().chain(&origin.scope_attributes);
    let value_bytes = |value: &Value<'_>| match value {
        Value::Str(text) | Value::Array(text) | Value::Map(text) => text.len(),
        Value::Bytes(bytes) => bytes.len() * 4 / 3,
        Value::Empty | Value::Bool(_) | Value::Int(_) | Value::Double(_) => 8,
    };
    let attributes: usize = attributes.map(|a| a.key.len() + value_bytes(&a.value)).sum();
    attributes
        + origin.service_name.len()
        + origin.scope_name.len()
        + origin.scope_version.len()
        + origin.resource_schema_url.len()
        + origin.scope_schema_url.len()
}

/// The beginning of a text that is kept only so that people recognise an item.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(REJECTED_WORDS_BYTES_MAX)]
}

/// Bytes for the header and the column lengths of an envelope: a generous estimate.
const ENVELOPE_OVERHEAD_BYTES: usize = 2_048;
/// A thread's batch that grew beyond this many bytes is dropped after the request and not kept.
const KEPT_BYTES_MAX: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use model::ids::{ApiKeyId, EnvelopeId, OrgId, ProjectId, WorkspaceId};
    use uuid::Uuid;
    use wire::envelope::{ContentId, ENVELOPE_KEY_BYTES, Envelope, EnvelopeKey, Source};

    fn key() -> EnvelopeKey {
        EnvelopeKey::new(&[1; ENVELOPE_KEY_BYTES])
    }

    fn header() -> Header {
        let nil = Uuid::nil();
        Header {
            envelope_id: EnvelopeId(nil),
            org_id: OrgId(nil),
            workspace_id: WorkspaceId(nil),
            project_id: ProjectId(nil),
            api_key_id: ApiKeyId(nil),
            content_id: ContentId::NONE,
            received_at: 0,
            source: Source::LangSmith,
        }
    }

    #[test]
    fn rejected_items_alone_make_an_envelope() {
        let sections = Batch::with(|batch| {
            batch.reject_and_keep("part 1".to_owned(), "no".to_owned(), b"x");
            batch.reject("part 2".to_owned(), "no".to_owned());
            let envelope = batch.envelope(&header(), 10).unwrap().unwrap().finish(&key());
            let counts = batch.counts();
            assert_eq!((counts.rejected, counts.accepted(), counts.reasons.len()), (2, 0, 2));
            let envelope = Envelope::decode(&key(), &envelope).unwrap();
            envelope.sections.iter().map(|s| (s.table.name, s.rows)).collect::<Vec<_>>()
        });
        assert_eq!(sections, [("set_aside", 1), ("billing_meter", 1)]);
    }

    #[test]
    fn rejected_items_past_the_limit_are_counted() {
        let rows = Batch::with(|batch| {
            for _ in 0..REJECTED_ITEMS_MAX + 3 {
                batch.reject_and_keep("i".to_owned(), "no".to_owned(), b"");
            }
            let envelope = batch.envelope(&header(), 10).unwrap().unwrap().finish(&key());
            assert_eq!(batch.counts().rejected, REJECTED_ITEMS_MAX as u64 + 3);
            assert!(envelope.windows(17).any(|bytes| bytes == b"3 further items o"), "the rest is not told");
            Envelope::decode(&key(), &envelope).unwrap().sections[0].rows
        });
        assert_eq!(rows as usize, REJECTED_ITEMS_MAX + 1);
    }

    #[test]
    fn kept_bytes_of_rejected_items_are_bounded() {
        let content = vec![7; REJECTED_BYTES_MAX + 1];
        Batch::with(|batch| {
            for _ in 0..=REJECTED_BYTES_IN_ALL_MAX / REJECTED_BYTES_MAX {
                batch.reject_and_keep("\u{20ac}".repeat(REJECTED_WORDS_BYTES_MAX), "no".to_owned(), &content);
            }
            let (last, first) = batch.kept_items.split_last().unwrap();
            for item in first {
                assert_eq!((item.content.len(), item.item.len()), (REJECTED_BYTES_MAX, REJECTED_WORDS_BYTES_MAX - 1));
            }
            assert_eq!((last.content.len(), last.content_bytes), (0, content.len() as u64));
            assert_eq!(last.content_hash, content_hash_128(&content));
        });
    }
}
