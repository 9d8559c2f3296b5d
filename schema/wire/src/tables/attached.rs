//! Tables beside runs and spans: verdicts on runs, files of runs, rejected items, and the calls of earlier releases.

use model::ids::{EnvelopeId, ProjectId};
use model::trace::{Attachment, RejectedItem, Score};

use super::{ColumnSpec, Rows, Table, content_hash_128};
use crate::columns::{Column, ColumnType};

table! {
    /// Rows of `eval_score`, one per score.
    ScoreRows, EVAL_SCORE = 4 v 1 "eval_score" {
        project_id: Uuid,
        run_id: Uuid,
        span_id: Uuid,
        trace_id: Uuid,
        score_id: Uuid,
        name: String,
        value: NullableFloat64,
        label: String,
        value_json: String,
        comment: String,
        correction: String,
        evaluator: String,
        evaluator_version: String,
        feedback_source: String,
        feedback_source_metadata: String,
        feedback_config: String,
        model: String,
        prompt_tokens: UInt32,
        completion_tokens: UInt32,
        cost_usd: NullableDecimal64,
        session_id: String,
        user_id: String,
        error_message: String,
        extra: String,
        start_time: DateTime64,
        created_at: DateTime64,
        modified_at: DateTime64,
        schema_version: UInt16,
    }
}

table! {
    /// Rows of `run_attachment`, one per file that is attached to a run.
    AttachmentRows, RUN_ATTACHMENT = 5 v 1 "run_attachment" {
        project_id: Uuid,
        run_id: Uuid,
        name: String,
        mime_type: String,
        size: UInt64,
        content_hash: FixedString16,
        content: String,
        schema_version: UInt16,
    }
}

table! {
    /// Rows of `set_aside`, one per rejected item whose bytes are kept.
    SetAsideRows, SET_ASIDE = 6 v 1 "set_aside" {
        project_id: Uuid,
        envelope_id: Uuid,
        item: String,
        reason: String,
        content: String,
        content_bytes: UInt64,
        content_hash: FixedString16,
        schema_version: UInt16,
    }
}

/// The columns of `replay_capture`. Nothing writes it any more: `content_hash` in `span` and `run` says which calls can
/// be replayed (docs/decisions/0023-one-row-per-span.md). Envelopes of earlier releases still have rows of it.
pub static REPLAY_CAPTURE: Table = {
    const fn column(name: &'static str, ty: ColumnType) -> ColumnSpec {
        ColumnSpec { name, ty }
    }
    Table {
        id: 7,
        version: 1,
        name: "replay_capture",
        columns: &[
            column("project_id", ColumnType::Uuid),
            column("run_id", ColumnType::Uuid),
            column("span_id", ColumnType::Uuid),
            column("parent_span_id", ColumnType::Uuid),
            column("kind", ColumnType::String),
            column("name", ColumnType::String),
            column("model", ColumnType::String),
            column("provider", ColumnType::String),
            column("start_time", ColumnType::DateTime64),
            column("end_time", ColumnType::DateTime64),
            column("inputs", ColumnType::String),
            column("outputs", ColumnType::String),
            column("parameters", ColumnType::String),
            column("content_hash", ColumnType::FixedString16),
            column("error_message", ColumnType::String),
            column("schema_version", ColumnType::UInt16),
        ],
    }
};

impl ScoreRows {
    /// Appends a verdict on a run. The columns that only an evaluator of ours knows (its version, its model, its cost)
    /// stay empty.
    pub fn push(&mut self, project: ProjectId, score: &Score<'_>) {
        let (none, zero) = (uuid::Uuid::nil(), 0_u32.to_le_bytes());
        self.project_id.push_uuid(project.0);
        self.run_id.push_uuid(score.run_id);
        self.span_id.push_uuid(none);
        self.trace_id.push_uuid(score.trace_id);
        self.score_id.push_uuid(score.score_id);
        self.name.push_str(&score.name);
        self.value.push_nullable(score.value.map(f64::to_le_bytes));
        self.label.push_str(&score.label);
        self.value_json.push_str(&score.value_json);
        self.comment.push_str(&score.comment);
        self.correction.push_str(&score.correction);
        self.evaluator.push_str("");
        self.evaluator_version.push_str("");
        self.feedback_source.push_str(&score.feedback_source);
        self.feedback_source_metadata.push_str(&score.feedback_source_metadata);
        self.feedback_config.push_str(&score.feedback_config);
        self.model.push_str("");
        self.prompt_tokens.push_fixed(zero);
        self.completion_tokens.push_fixed(zero);
        self.cost_usd.push_nullable(None);
        self.session_id.push_str("");
        self.user_id.push_str(&score.user_id);
        self.error_message.push_str(&score.error_message);
        self.extra.push_str(&score.extra);
        self.start_time.push_fixed(score.start_time.to_le_bytes());
        self.created_at.push_fixed(score.created_at.to_le_bytes());
        self.modified_at.push_fixed(score.modified_at.to_le_bytes());
        self.schema_version.push_fixed(EVAL_SCORE.version.to_le_bytes());
    }
}

impl AttachmentRows {
    /// Appends a file that belongs to a run.
    pub fn push(&mut self, project: ProjectId, attachment: &Attachment<'_>) {
        self.project_id.push_uuid(project.0);
        self.run_id.push_uuid(attachment.run_id);
        self.name.push_str(&attachment.name);
        self.mime_type.push_str(&attachment.mime_type);
        self.size.push_fixed((attachment.content.len() as u64).to_le_bytes());
        self.content_hash.push_fixed(content_hash_128(attachment.content));
        self.content.push_bytes(attachment.content);
        self.schema_version.push_fixed(RUN_ATTACHMENT.version.to_le_bytes());
    }
}

impl SetAsideRows {
    /// Appends a rejected item.
    pub fn push(&mut self, project: ProjectId, envelope: EnvelopeId, item: &RejectedItem<'_>) {
        self.project_id.push_uuid(project.0);
        self.envelope_id.push_uuid(envelope.0);
        self.item.push_str(&item.item);
        self.reason.push_str(&item.reason);
        self.content.push_bytes(&item.content);
        self.content_bytes.push_fixed(item.content_bytes.to_le_bytes());
        self.content_hash.push_fixed(item.content_hash);
        self.schema_version.push_fixed(SET_ASIDE.version.to_le_bytes());
    }
}
