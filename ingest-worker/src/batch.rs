//! Envelopes gathered for one insert per table. Pure: no I/O, no clock of its own.

use std::time::{Duration, Instant};

use delivery::intent::{ENTRIES_MAX, Intent, Target, Verdict};
use model::entry_id::EntryId;
use model::meter::period;
use wire::block::Block;
use wire::envelope::Envelope;
use wire::tables::{BILLING_METER, Table};

/// The sizes and the age at which a batch is inserted.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most rows of one table.
    pub rows: usize,
    /// Most bytes, of all tables together.
    pub bytes: usize,
    /// Time between two inserts of a shard, and so the longest time that an entry waits for others.
    pub age: Duration,
}

/// How long the first entry after a quiet time waits for more entries. Such a batch is inserted without waiting for
/// [`Limits::age`]: nothing was inserted for that long already, so inserting early makes no more inserts.
pub const LINGER: Duration = Duration::from_millis(50);
/// Most calendar months of `received_at` in one batch: every insert writes a part for each month.
pub const MONTHS_MAX: usize = 2;

/// Entries of one shard that are inserted together, and their rows per table.
#[derive(Debug, Default)]
pub struct Batch {
    entries: Vec<EntryId>,
    withheld: Vec<(u32, Verdict)>,
    months: Vec<u32>,
    blocks: Vec<Block>,
    opened: Option<Instant>,
    /// The earliest time of the shard's next insert, unless the batch is full before.
    not_before: Option<Instant>,
}

impl Batch {
    /// Adds an envelope's rows. With a verdict, adds only the entry, or its rows without the billing rows.
    pub fn add(&mut self, id: EntryId, envelope: &Envelope<'_>, verdict: Option<Verdict>, now: Instant) {
        if let Some(verdict) = verdict {
            self.withheld.push((self.entries.len() as u32, verdict));
        }
        if matches!(verdict, None | Some(Verdict::Repeated)) {
            let month = period(envelope.header.received_at);
            if !self.months.contains(&month) {
                self.months.push(month);
            }
            let is_billed = verdict.is_none();
            for section in envelope.sections.iter().filter(|section| is_billed || section.table.id != BILLING_METER.id)
            {
                self.block(section.table).append(&envelope.header, section);
            }
        }
        self.opened.get_or_insert(now);
        self.entries.push(id);
    }

    fn block(&mut self, table: &'static Table) -> &mut Block {
        let at = self.blocks.iter().position(|b| b.table() == table).unwrap_or_else(|| {
            self.blocks.push(Block::new(table));
            self.blocks.len() - 1
        });
        &mut self.blocks[at]
    }

    /// A batch that uses the memory of these blocks, which are empty. It is inserted at `not_before` at the earliest,
    /// unless it is full before.
    pub fn reusing(blocks: Vec<Block>, not_before: Option<Instant>) -> Self {
        Self { blocks, not_before, ..Self::default() }
    }

    /// Whether the batch has no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The smallest id of its entries.
    pub fn oldest(&self) -> Option<EntryId> {
        self.entries.iter().min().copied()
    }

    /// Bytes of the rows of all its tables.
    pub fn byte_len(&self) -> usize {
        self.blocks.iter().map(Block::byte_len).sum()
    }

    /// Whether the batch should be inserted now.
    pub fn is_due(&self, limits: &Limits, now: Instant) -> bool {
        self.is_full(limits) || self.time_left(limits, now).is_some_and(|left| left.is_zero())
    }

    /// Whether the batch should be inserted because of its size.
    pub fn is_full(&self, limits: &Limits) -> bool {
        self.blocks.iter().any(|b| b.rows() >= limits.rows)
            || self.byte_len() >= limits.bytes
            || self.entries.len() >= ENTRIES_MAX
    }

    /// Whether the batch, with this envelope added, would still be one insert per table that touches few partitions.
    pub fn has_room(&self, limits: &Limits, envelope: &Envelope<'_>) -> bool {
        let rows = envelope.sections.iter().all(|section| {
            let held = self.blocks.iter().find(|b| b.table() == section.table).map_or(0, Block::rows);
            held + section.rows as usize <= limits.rows
        });
        let months = self.months.len() < MONTHS_MAX || self.months.contains(&period(envelope.header.received_at));
        self.is_empty() || (rows && months && self.byte_len() + envelope.expanded_len() <= limits.bytes)
    }

    /// Time until the batch is to be inserted because of its age; `None` if it is empty.
    pub fn time_left(&self, limits: &Limits, now: Instant) -> Option<Duration> {
        let due = (self.opened? + LINGER.min(limits.age)).max(self.not_before.unwrap_or(now));
        Some(due.saturating_duration_since(now))
    }

    /// The intent, and the tables' blocks in the order of insertion. Billing is last, so that billed rows were stored
    /// before. `oldest` is the first entry of the stream that was read and is not in this batch.
    pub fn into_parts(self, oldest: Option<EntryId>) -> (Intent, Vec<Block>) {
        let mut blocks = self.blocks;
        blocks.retain(|b| b.rows() > 0);
        blocks.sort_by_key(|b| (b.table().id == BILLING_METER.id, b.table().id, b.table().version));
        let last = self.entries.iter().max();
        let intent = Intent {
            is_prefix: oldest.is_none_or(|oldest| last.is_some_and(|last| *last < oldest)),
            targets: blocks.iter().map(|block| Target::from(block.table())).collect(),
            entries: self.entries,
            withheld: self.withheld,
            ..Intent::default()
        };
        (intent, blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::ids::{ApiKeyId, EnvelopeId, OrgId, ProjectId, WorkspaceId};
    use model::meter::Meter;
    use model::trace::{Origin, Span};
    use uuid::Uuid;
    use wire::envelope::{ContentId, ENVELOPE_KEY_BYTES, EnvelopeKey, Header, Source, Writer};
    use wire::tables::{BillingRows, SPAN, SpanRows};

    fn key() -> EnvelopeKey {
        EnvelopeKey::new(&[1; ENVELOPE_KEY_BYTES])
    }

    fn add(batch: &mut Batch, ms: u64, spans: usize, now: Instant) {
        let bytes = envelope(spans, 0);
        batch.add(EntryId::new(ms, 0), &Envelope::decode(&key(), &bytes).unwrap(), None, now);
    }

    fn envelope(spans: usize, received_at: i64) -> Vec<u8> {
        let nil = Uuid::nil();
        let header = Header {
            envelope_id: EnvelopeId(nil),
            org_id: OrgId(nil),
            workspace_id: WorkspaceId(nil),
            project_id: ProjectId(nil),
            api_key_id: ApiKeyId(nil),
            content_id: ContentId::NONE,
            received_at,
            source: Source::Native,
        };
        let (mut rows, mut bills) = (SpanRows::default(), BillingRows::default());
        for _ in 0..spans {
            rows.push(header.project_id, &Origin::default(), false, &Span::default());
        }
        bills.push(
            header.project_id,
            header.api_key_id,
            header.envelope_id,
            received_at,
            Meter::SpanIngested,
            spans as u64,
        );
        let mut writer = Writer::new(&header, 0);
        writer.section(&bills);
        writer.section(&rows);
        writer.finish(&key())
    }

    const LIMITS: Limits = Limits { rows: 10, bytes: 1 << 20, age: Duration::from_secs(1) };

    #[test]
    fn a_batch_is_due_by_rows_or_age() {
        let now = Instant::now();
        let mut batch = Batch::reusing(Vec::new(), Some(now + LIMITS.age));
        assert!(!batch.is_due(&LIMITS, now) && batch.time_left(&LIMITS, now).is_none());
        add(&mut batch, 1, 9, now);
        assert!(!batch.is_due(&LIMITS, now + Duration::from_millis(999)));
        assert!(batch.is_due(&LIMITS, now + LIMITS.age));
        add(&mut batch, 2, 1, now);
        assert!(batch.is_due(&LIMITS, now));
    }

    #[test]
    fn the_first_batch_after_an_idle_time_is_due_soon() {
        let now = Instant::now() + Duration::from_secs(60);
        for not_before in [None, Some(now - Duration::from_secs(1))] {
            let mut batch = Batch::reusing(Vec::new(), not_before);
            add(&mut batch, 1, 1, now);
            assert_eq!(batch.time_left(&LIMITS, now), Some(LINGER));
            assert!(batch.is_due(&LIMITS, now + LINGER));
        }
    }

    #[test]
    fn a_batch_is_due_by_bytes() {
        let mut batch = Batch::default();
        add(&mut batch, 1, 2, Instant::now());
        let limits = Limits { bytes: batch.byte_len(), ..LIMITS };
        assert!(batch.is_due(&limits, Instant::now()));
    }

    #[test]
    fn billing_is_the_last_block_and_entries_over_quota_are_in_none() {
        let mut batch = Batch::default();
        add(&mut batch, 3, 1, Instant::now());
        let over = envelope(5, 0);
        batch.add(EntryId::new(1, 0), &Envelope::decode(&key(), &over).unwrap(), Some(Verdict::Drop), Instant::now());
        let (intent, blocks) = batch.into_parts(None);
        let tables: Vec<_> = blocks.iter().map(|b| (b.table().name, b.rows())).collect();
        assert_eq!(tables, [("span", 1), ("billing_meter", 1)]);
        let targets = [&SPAN, &BILLING_METER].map(Target::from).to_vec();
        assert_eq!((intent.targets, intent.withheld), (targets, vec![(1, Verdict::Drop)]));
        assert_eq!(intent.entries, [EntryId::new(3, 0), EntryId::new(1, 0)], "in the order in which they were added");
    }

    #[test]
    fn a_batch_is_a_prefix_of_the_stream_only_if_no_older_entry_remains() {
        for (oldest, is_prefix) in [(None, true), (Some(3), true), (Some(2), false), (Some(1), false)] {
            let mut batch = Batch::default();
            add(&mut batch, 2, 1, Instant::now());
            let (intent, _) = batch.into_parts(oldest.map(|ms| EntryId::new(ms, 0)));
            assert_eq!(intent.is_prefix, is_prefix, "{oldest:?}");
        }
    }

    #[test]
    fn the_number_of_months_in_one_batch_is_bounded() {
        const MONTH: i64 = 31 * 86_400_000_000_000;
        let mut batch = Batch::default();
        for ms in 1..=MONTHS_MAX as i64 {
            let bytes = envelope(1, ms * MONTH);
            let envelope = Envelope::decode(&key(), &bytes).unwrap();
            assert!(batch.has_room(&LIMITS, &envelope));
            batch.add(EntryId::new(ms as u64, 0), &envelope, None, Instant::now());
        }
        let (known, other) = (envelope(1, MONTH), envelope(1, 9 * MONTH));
        assert!(batch.has_room(&LIMITS, &Envelope::decode(&key(), &known).unwrap()));
        assert!(!batch.has_room(&LIMITS, &Envelope::decode(&key(), &other).unwrap()));
    }

    #[test]
    fn an_envelope_that_exceeds_the_insert_limit_waits_for_the_next_batch() {
        let mut batch = Batch::default();
        let (eight, three) = (envelope(8, 0), envelope(3, 0));
        let (eight, three) = (Envelope::decode(&key(), &eight).unwrap(), Envelope::decode(&key(), &three).unwrap());
        let tiny = Limits { rows: 1, bytes: 1, ..LIMITS };
        assert!(batch.has_room(&tiny, &eight), "an empty batch takes anything, or it would never be stored");
        batch.add(EntryId::new(1, 0), &eight, None, Instant::now());
        assert!(!batch.has_room(&LIMITS, &three), "rows");
        assert!(batch.has_room(&Limits { rows: 11, ..LIMITS }, &three));
        assert!(!batch.has_room(&Limits { rows: 11, bytes: batch.byte_len() + 1, ..LIMITS }, &three), "bytes");
    }
}
