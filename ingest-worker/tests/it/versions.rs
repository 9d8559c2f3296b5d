//! Rows of two versions of a table in one batch, inserted into a real ClickHouse.

use delivery::intent::{Intent, Piece, Target};
use model::entry_id::EntryId;
use model::ids::{ApiKeyId, EnvelopeId, OrgId, ProjectId, WorkspaceId};
use model::trace::{Origin, Span};
use stores::clickhouse::{ClickHouseUrl, InsertStatement, Inserter, Records};
use uuid::Uuid;
use wire::block::Block;
use wire::envelope::{ContentId, ENVELOPE_KEY_BYTES, Envelope, EnvelopeKey, Header, Source, Writer};
use wire::tables::{SPAN, STAMPS, SpanRows};

const ORG: OrgId = OrgId(Uuid::from_u128(7));
/// A moment on 2026-11-21, in nanoseconds since the Unix epoch.
const RECEIVED_AT: i64 = 1_795_241_935_570_826_453;

/// A block with the rows of one span.
fn block(received_at: i64) -> Block {
    let id = Uuid::from_u128(9);
    let header = Header {
        envelope_id: EnvelopeId(id),
        org_id: ORG,
        workspace_id: WorkspaceId(id),
        project_id: ProjectId(id),
        api_key_id: ApiKeyId(id),
        content_id: ContentId::NONE,
        received_at,
        source: Source::OtlpProtobuf,
    };
    let mut rows = SpanRows::default();
    rows.push(header.project_id, &Origin::default(), false, &Span::default());
    let (mut writer, key) = (Writer::new(&header, 0), EnvelopeKey::new(&[1; ENVELOPE_KEY_BYTES]));
    writer.section(&rows);
    let bytes = writer.finish(&key);
    let envelope = Envelope::decode(&key, &bytes).unwrap();
    let mut block = Block::new(&SPAN);
    block.append(&envelope.header, &envelope.sections[0]);
    block
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_of_a_table_in_one_batch_are_stored() {
    let db = stack::shared().await.unwrap().fresh_database().await.unwrap();
    stack::migrate(&db).await.unwrap();
    let url: ClickHouseUrl = db.clickhouse_url.parse().unwrap();
    let (inserter, records) = (Inserter::new(&url), Records::new(&url));
    let statement = InsertStatement::new("span", STAMPS.iter().chain(SPAN.columns).map(|column| column.name));

    let old = Target::from(&SPAN);
    let new = Target { version: old.version + 1, ..old };
    let intent = Intent {
        entries: (1..3).map(|ms| EntryId::new(ms, 0)).collect(),
        targets: vec![old, new],
        ..Intent::default()
    };
    let token = |target| intent.token("shard", &Piece { target, entries: 0..2 });
    // ClickHouse drops a second block under the token of the first as a repetition: this is what a shared token would
    // do.
    for (n, token) in [token(old), token(new), token(new)].into_iter().enumerate() {
        let sealed = block(RECEIVED_AT + n as i64).seal();
        inserter.insert_native(&statement, &token, sealed.pieces(), 1).await.unwrap();
    }
    let mut stored = Vec::new();
    for n in 0..3 {
        stored.push(records.has_rows("span", ORG, RECEIVED_AT + n).await.unwrap());
    }
    assert_eq!(stored, [true, true, false]);
}
