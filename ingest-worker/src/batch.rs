//! Envelopes gathered for one insert per table. Pure: no I/O, no clock of its own.

use std::time::{Duration, Instant};

use schema::block::Block;
use schema::envelope::Envelope;
use schema::tables::{BILLING_METER, Table, content_hash};

/// When a batch is full.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Rows of its largest table.
    pub rows: usize,
    /// Bytes of all its tables.
    pub bytes: usize,
    /// Time between two inserts of a shard, and so how long an entry may wait for others.
    pub age: Duration,
}

/// How long the first entry after a quiet time waits for those that come with it. Such a batch is inserted without waiting
/// for [`Limits::age`]: nothing was inserted for that long already, so being prompt costs no more inserts.
pub const LINGER: Duration = Duration::from_millis(50);

/// Entries of one shard, in stream order, and their rows per table.
#[derive(Debug, Default)]
pub struct Batch {
    ids: Vec<String>,
    blocks: Vec<Block>,
    opened: Option<Instant>,
    /// When the shard's next insert may be, unless the batch is full before.
    not_before: Option<Instant>,
}

impl Batch {
    /// Adds an envelope's rows.
    pub fn add(&mut self, id: String, envelope: &Envelope<'_>, now: Instant) {
        for section in &envelope.sections {
            self.block(section.table).append(&envelope.header, section);
        }
        self.opened.get_or_insert(now);
        self.ids.push(id);
    }

    fn block(&mut self, table: &'static Table) -> &mut Block {
        let at = self.blocks.iter().position(|b| b.table() == table).unwrap_or_else(|| {
            self.blocks.push(Block::new(table));
            self.blocks.len() - 1
        });
        &mut self.blocks[at]
    }

    /// A batch that fills the memory of these blocks, which are empty.
    /// It is inserted at `not_before` at the earliest, unless it is full before.
    pub fn reusing(blocks: Vec<Block>, not_before: Option<Instant>) -> Self {
        Self { blocks, not_before, ..Self::default() }
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The ids of its entries.
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// Bytes of its rows.
    pub fn byte_len(&self) -> usize {
        self.blocks.iter().map(Block::byte_len).sum()
    }

    /// Whether it should be inserted now.
    pub fn is_due(&self, limits: &Limits, now: Instant) -> bool {
        self.is_full(limits) || self.time_left(limits, now).is_some_and(|left| left.is_zero())
    }

    /// Whether it is due by size.
    pub fn is_full(&self, limits: &Limits) -> bool {
        self.blocks.iter().any(|b| b.rows() >= limits.rows) || self.byte_len() >= limits.bytes
    }

    /// Whether an envelope can be added and the batch still be one insert per table.
    pub fn has_room(&self, limits: &Limits, envelope: &Envelope<'_>) -> bool {
        let rows = envelope.sections.iter().all(|section| {
            let held = self.blocks.iter().find(|b| b.table() == section.table).map_or(0, Block::rows);
            held + section.rows as usize <= limits.rows
        });
        self.is_empty() || (rows && self.byte_len() + envelope.expanded_len() <= limits.bytes)
    }

    /// How long until it is due by age; `None` if it is empty.
    pub fn time_left(&self, limits: &Limits, now: Instant) -> Option<Duration> {
        let due = (self.opened? + LINGER.min(limits.age)).max(self.not_before.unwrap_or(now));
        Some(due.saturating_duration_since(now))
    }

    /// What tells this batch's inserts from all others: the entries it is made of, each of them. The same entries make the
    /// same bytes, so that a repeated insert is recognised; others must never, or ClickHouse would drop their rows.
    pub fn token(&self, stream: &str) -> String {
        let (first, last) = (self.ids.first(), self.ids.last());
        let text = |id: Option<&String>| id.cloned().unwrap_or_default();
        let all = content_hash(self.ids.join(" ").as_bytes());
        format!("{stream}/{}/{}/{all:016x}", text(first), text(last))
    }

    /// The tables' blocks, billing last: whatever is billed was stored.
    pub fn into_blocks(self) -> (Vec<String>, Vec<Block>) {
        let mut blocks = self.blocks;
        blocks.retain(|b| b.rows() > 0);
        blocks.sort_by_key(|b| (b.table() == &BILLING_METER, b.table().id));
        (self.ids, blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use schema::envelope::{Header, Source, Writer};
    use schema::ids::{ApiKeyId, EnvelopeId, OrgId, ProjectId, WorkspaceId};
    use schema::model::{Meter, Origin, Span};
    use schema::tables::{BillingRows, SpanRows};
    use uuid::Uuid;

    fn add(batch: &mut Batch, id: &str, spans: usize, now: Instant) {
        let bytes = envelope(spans);
        batch.add(id.into(), &Envelope::decode(&bytes).unwrap(), now);
    }

    fn envelope(spans: usize) -> Vec<u8> {
        let nil = Uuid::nil();
        let header = Header {
            envelope_id: EnvelopeId(nil),
            org_id: OrgId(nil),
            workspace_id: WorkspaceId(nil),
            project_id: ProjectId(nil),
            api_key_id: ApiKeyId(nil),
            received_at: 0,
            source: Source::Native,
        };
        let (mut rows, mut bills) = (SpanRows::default(), BillingRows::default());
        for _ in 0..spans {
            rows.push(header.project_id, &Origin::default(), false, &Span::default());
        }
        bills.push(header.project_id, header.api_key_id, header.envelope_id, 0, Meter::SpanIngested, spans as u64);
        let mut writer = Writer::new(&header, 0);
        writer.section(&bills);
        writer.section(&rows);
        writer.finish()
    }

    const LIMITS: Limits = Limits { rows: 10, bytes: 1 << 20, age: Duration::from_secs(1) };

    #[test]
    fn due_by_rows_or_age() {
        let now = Instant::now();
        let mut batch = Batch::reusing(Vec::new(), Some(now + LIMITS.age));
        assert!(!batch.is_due(&LIMITS, now) && batch.time_left(&LIMITS, now).is_none());
        add(&mut batch, "1-0", 9, now);
        assert!(!batch.is_due(&LIMITS, now + Duration::from_millis(999)));
        assert!(batch.is_due(&LIMITS, now + LIMITS.age));
        add(&mut batch, "2-0", 1, now);
        assert!(batch.is_due(&LIMITS, now));
    }

    #[test]
    fn the_first_after_a_quiet_time_is_due_soon() {
        let now = Instant::now() + Duration::from_secs(60);
        for not_before in [None, Some(now - Duration::from_secs(1))] {
            let mut batch = Batch::reusing(Vec::new(), not_before);
            add(&mut batch, "1-0", 1, now);
            assert_eq!(batch.time_left(&LIMITS, now), Some(LINGER));
            assert!(batch.is_due(&LIMITS, now + LINGER));
        }
    }

    #[test]
    fn due_by_bytes() {
        let mut batch = Batch::default();
        add(&mut batch, "1-0", 2, Instant::now());
        let limits = Limits { bytes: batch.byte_len(), ..LIMITS };
        assert!(batch.is_due(&limits, Instant::now()));
    }

    #[test]
    fn the_token_names_the_entries_and_billing_comes_last() {
        let mut batch = Batch::default();
        for id in ["1-0", "1-1", "7-3"] {
            add(&mut batch, id, 1, Instant::now());
        }
        let token = batch.token("s");
        assert!(token.starts_with("s/1-0/7-3/"), "{token}");
        let mut others = Batch::default();
        for id in ["1-0", "1-2", "7-3"] {
            add(&mut others, id, 1, Instant::now());
        }
        assert_ne!(others.token("s"), token, "the same ends and number, other entries");
        let (ids, blocks) = batch.into_blocks();
        let tables: Vec<_> = blocks.iter().map(|b| (b.table().name, b.rows())).collect();
        assert_eq!((ids.len(), tables), (3, vec![("span", 3), ("billing_meter", 3)]));
    }

    #[test]
    fn an_envelope_that_would_burst_the_insert_waits_for_the_next() {
        let mut batch = Batch::default();
        let (eight, three) = (envelope(8), envelope(3));
        let (eight, three) = (Envelope::decode(&eight).unwrap(), Envelope::decode(&three).unwrap());
        let tiny = Limits { rows: 1, bytes: 1, ..LIMITS };
        assert!(batch.has_room(&tiny, &eight), "an empty batch takes anything, or it would never be stored");
        batch.add("1-0".into(), &eight, Instant::now());
        assert!(!batch.has_room(&LIMITS, &three), "rows");
        assert!(batch.has_room(&Limits { rows: 11, ..LIMITS }, &three));
        assert!(!batch.has_room(&Limits { rows: 11, bytes: batch.byte_len() + 1, ..LIMITS }, &three), "bytes");
    }
}
