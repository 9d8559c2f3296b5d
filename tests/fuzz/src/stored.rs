//! What has to hold for what becomes of a body: whatever was accepted can be stored.

use ingest_api::error::ApiError;
use model::ids::{ApiKeyId, EnvelopeId, OrgId, ProjectId, WorkspaceId};
use translate::batch::{Counts, REASONS_MAX};
use uuid::Uuid;
use wire::block::Block;
use wire::envelope::{ContentId, ENVELOPE_KEY_BYTES, Envelope, EnvelopeKey, Header, Source, Writer};
use wire::tables::{EVAL_SCORE, RUN, RUN_ATTACHMENT, SPAN, Table};

use crate::native_block;

/// What one answer may say, in bytes: a client must not get its body back.
const ANSWER_BYTES_MAX: usize = 24 << 10;
/// Rows written out while fuzzing, in bytes. The worker takes envelopes up to [`wire::envelope::EXPANDED_BYTES_MAX`].
const EXPANDED_BYTES_MAX: usize = 32 << 20;

/// What envelopes are written and read with.
pub(crate) fn key() -> EnvelopeKey {
    EnvelopeKey::new(&[1; ENVELOPE_KEY_BYTES])
}

pub(crate) fn header(source: Source) -> Header {
    let id = Uuid::from_u128;
    Header {
        envelope_id: EnvelopeId(id(1)),
        org_id: OrgId(id(2)),
        workspace_id: WorkspaceId(id(3)),
        project_id: ProjectId(id(4)),
        api_key_id: ApiKeyId(id(5)),
        content_id: ContentId::NONE,
        received_at: 1_795_241_935_570_826_453,
        source,
    }
}

/// What became of a body's items, and the envelope to be finished, if anything is to be stored.
pub(crate) type Translated = Result<(Counts, Option<Writer>), ApiError>;

/// Translates a body twice, because a thread's memory is used again, and looks at what came out.
pub(crate) fn check(source: Source, body: &[u8], translate: impl Fn(&Header, &[u8]) -> Translated) {
    let header = header(source);
    let (counts, envelope) = match translate(&header, body) {
        Ok(translated) => translated,
        Err(error) => {
            assert!(error.status().is_client_error(), "a body cannot make this happen: {error}");
            assert!(error.to_string().len() <= ANSWER_BYTES_MAX, "an answer of {} bytes", error.to_string().len());
            return;
        }
    };
    assert_eq!(counts.reasons.len() as u64, counts.rejected.min(REASONS_MAX as u64));
    let bytes: usize = counts.reasons.iter().map(|reason| reason.item.len() + reason.error.len()).sum();
    assert!(bytes <= ANSWER_BYTES_MAX, "reasons of {bytes} bytes");
    let again = translate(&header, body).expect("accepted once and refused the next time");
    assert!((&counts, &envelope) == (&again.0, &again.1), "the same body is translated in two ways");
    match envelope {
        None => assert_eq!(counts.accepted(), 0, "accepted and not stored"),
        Some(envelope) => stored(&header, &counts, &envelope.finish(&key())),
    }
}

fn stored(header: &Header, counts: &Counts, bytes: &[u8]) {
    let envelope = Envelope::decode(&key(), bytes).expect("what the edge writes, the worker reads");
    assert_eq!(envelope.header, *header);
    let rows = |table: &Table| envelope.sections.iter().find(|s| s.table == table).map_or(0, |s| s.rows);
    assert_eq!((rows(&SPAN), rows(&EVAL_SCORE)), (counts.spans, counts.scores));
    assert_eq!(rows(&RUN_ATTACHMENT), counts.attachments);
    // A root span is a run besides.
    assert!((counts.runs..=counts.runs + counts.spans).contains(&rows(&RUN)), "{} runs", rows(&RUN));
    for section in &envelope.sections {
        assert!(section.rows > 0, "an empty section");
    }
    appended(&envelope);
}

/// Decodes bytes that may be an envelope, and does with it what the worker does. With their code they get past the
/// check for it: what comes behind must hold on its own.
pub(crate) fn append(bytes: &[u8]) {
    let sealed = key().sealed(bytes.to_vec());
    let is_sealed = sealed == bytes;
    assert!(is_sealed || Envelope::decode(&key(), bytes).is_err(), "another code is taken for that of the bytes");
    if let Ok(envelope) = Envelope::decode(&key(), &sealed) {
        appended(&envelope);
    }
}

fn appended(envelope: &Envelope<'_>) {
    let expanded = envelope.expanded_len();
    assert!(expanded <= wire::envelope::EXPANDED_BYTES_MAX);
    if expanded > EXPANDED_BYTES_MAX {
        return;
    }
    for section in &envelope.sections {
        let mut block = Block::new(section.table);
        block.append(&envelope.header, section);
        assert_eq!(block.rows(), section.rows as usize);
        // Stamps are 64 bytes, a length of four bytes becomes an offset of eight.
        assert!(block.byte_len() <= 2 * expanded + 64 * block.rows(), "{} bytes of {expanded}", block.byte_len());
        let sealed = block.seal();
        assert_eq!(sealed.rows(), section.rows as usize);
        native_block::check(&sealed);
        assert_eq!(sealed.reuse().byte_len(), 0);
    }
}
