//! What one request is translated into: rows, and the items that were set aside.

use std::cell::RefCell;

use schema::columns::Column;
use schema::envelope::{EXPANDED_BYTES_MAX, Header, SECTION_ROWS_MAX, Writer};
use schema::model::Meter;
use schema::tables::{AttachmentRows, BillingRows, Rows, RunRows, ScoreRows, SpanRows};

use crate::error::ApiError;

/// Reasons kept per request, in items; further ones are only counted.
pub const REASONS_MAX: usize = 16;

/// The rows of one request, and what could not become a row.
#[derive(Debug, Default)]
pub struct Batch {
    /// Rows of `run`.
    pub runs: RunRows,
    /// Rows of `span`.
    pub spans: SpanRows,
    /// Rows of `eval_score`.
    pub scores: ScoreRows,
    /// Rows of `run_attachment`.
    pub attachments: AttachmentRows,
    bills: BillingRows,
    /// Runs that we made out of a span: stored, but not sent, so not billed.
    derived_runs: u32,
    /// Bytes that repeating the origins of spans takes when written out.
    origin_bytes: usize,
    set_aside: u64,
    reasons: Vec<SetAside>,
}

/// One item that was not stored.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SetAside {
    /// Which item, as the client can recognise it.
    pub item: String,
    /// Why.
    pub error: String,
}

/// What became of a request's items.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Runs stored.
    pub runs: u32,
    /// Spans stored.
    pub spans: u32,
    /// Scores stored.
    pub scores: u32,
    /// Attachments stored.
    pub attachments: u32,
    /// Items not stored.
    pub set_aside: u64,
    /// The first [`REASONS_MAX`] of them.
    pub reasons: Vec<SetAside>,
}

impl Counts {
    /// Everything stored.
    pub fn accepted(&self) -> u64 {
        self.billed() + u64::from(self.scores) + u64::from(self.attachments)
    }

    /// What is billed by number: runs and spans. What comes beside them is billed by its bytes alone.
    pub fn billed(&self) -> u64 {
        u64::from(self.runs) + u64::from(self.spans)
    }
}

impl Batch {
    /// Lends this thread's batch, empty. Its some hundred buffers are reused from request to request: making them anew
    /// would cost more than filling them.
    pub fn with<T>(fill: impl FnOnce(&mut Batch) -> T) -> T {
        thread_local! {
            static BATCH: RefCell<Batch> = RefCell::default();
        }
        BATCH.with_borrow_mut(|batch| {
            batch.clear();
            let result = fill(batch);
            if batch.byte_len() > KEPT_BYTES_MAX {
                *batch = Batch::default();
            }
            result
        })
    }

    /// Notes that the newest run was made out of a span.
    pub fn run_is_derived(&mut self) {
        self.derived_runs += 1;
    }

    /// Counts a span's share of its origin, which is sent once and stored per span: few bytes that repeat a large resource
    /// could otherwise stand for terabytes. False if it is too much; then the request will be refused.
    pub fn take_origin_bytes(&mut self, bytes: usize) -> bool {
        self.origin_bytes = self.origin_bytes.saturating_add(bytes);
        self.origin_bytes <= EXPANDED_BYTES_MAX
    }

    /// Notes an item that is not stored.
    pub fn set_aside(&mut self, item: String, error: String) {
        self.set_aside += 1;
        if self.reasons.len() < REASONS_MAX {
            self.reasons.push(SetAside { item, error });
        }
    }

    /// What became of the items so far.
    pub fn counts(&self) -> Counts {
        Counts {
            runs: self.runs.rows() - self.derived_runs,
            spans: self.spans.rows(),
            scores: self.scores.rows(),
            attachments: self.attachments.rows(),
            set_aside: self.set_aside,
            reasons: self.reasons.clone(),
        }
    }

    /// The rows as an envelope, with what they are billed for; `None` if there are none. Refused if they are too much for
    /// one insert.
    pub fn envelope(&mut self, header: &Header, body_bytes: usize) -> Result<Option<Vec<u8>>, ApiError> {
        let (runs, spans) = (self.runs.rows(), self.spans.rows());
        let (scores, attachments) = (self.scores.rows(), self.attachments.rows());
        if runs.max(spans).max(scores).max(attachments) > SECTION_ROWS_MAX {
            let what = "number of runs, spans, scores or attachments in the request";
            return Err(ApiError::TooLarge { what, limit: SECTION_ROWS_MAX as usize, unit: "" });
        }
        let expanded = self.origin_bytes.max(self.expanded_len());
        if expanded > EXPANDED_BYTES_MAX {
            let what = "request with its resource attributes repeated for every span";
            return Err(ApiError::TooLarge { what, limit: EXPANDED_BYTES_MAX, unit: " bytes" });
        }
        if runs + spans + scores + attachments == 0 {
            return Ok(None);
        }
        let items = u64::from(runs - self.derived_runs) + u64::from(spans);
        let bills = [(Meter::SpanIngested, items), (Meter::SpanBytes, body_bytes as u64)];
        for (meter, quantity) in bills.into_iter().filter(|(_, quantity)| *quantity > 0) {
            let Header { project_id, api_key_id, envelope_id, received_at, .. } = *header;
            self.bills.push(project_id, api_key_id, envelope_id, received_at, meter, quantity);
        }
        let mut writer = Writer::new(header, self.byte_len() + ENVELOPE_OVERHEAD_BYTES);
        writer.section(&self.runs);
        writer.section(&self.spans);
        writer.section(&self.scores);
        writer.section(&self.attachments);
        writer.section(&self.bills);
        Ok(Some(writer.finish()))
    }

    fn clear(&mut self) {
        self.runs.clear();
        self.spans.clear();
        self.scores.clear();
        self.attachments.clear();
        self.bills.clear();
        self.derived_runs = 0;
        self.origin_bytes = 0;
        self.set_aside = 0;
        self.reasons.clear();
    }

    fn byte_len(&self) -> usize {
        let Self { runs, spans, scores, attachments, bills, .. } = self;
        let beside = sum(scores, Column::byte_len) + sum(attachments, Column::byte_len);
        sum(runs, Column::byte_len) + sum(spans, Column::byte_len) + sum(bills, Column::byte_len) + beside
    }

    fn expanded_len(&self) -> usize {
        let beside = sum(&self.scores, Column::expanded_len) + sum(&self.attachments, Column::expanded_len);
        sum(&self.runs, Column::expanded_len) + sum(&self.spans, Column::expanded_len) + beside
    }
}

fn sum(rows: &impl Rows, len: impl Fn(&Column) -> usize) -> usize {
    rows.columns().map(len).sum()
}

/// Header and column lengths of an envelope: a generous guess, in bytes.
const ENVELOPE_OVERHEAD_BYTES: usize = 2_048;
/// A thread's batch that grew past this is dropped after the request instead of kept, in bytes.
const KEPT_BYTES_MAX: usize = 16 << 20;
