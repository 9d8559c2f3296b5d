//! The tables that ingest fills: one struct per table, whose fields are its columns in the envelope's order.
//!
//! The list of columns is written once, here. The struct, the envelope layout and the `INSERT` statement all come from
//! it, and a test compares it with the live tables.

use model::ids::{ApiKeyId, EnvelopeId, ProjectId};
use model::meter::{Meter, period};
use model::trace::{Attribute, Event, Link, Llm, Origin, Run, Span, UnixNanos};

use crate::columns::{Column, ColumnType, type_tags};

/// A column: its name in ClickHouse and its type on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnSpec {
    /// Name of the column in ClickHouse.
    pub name: &'static str,
    /// Type of the column in a Native block.
    pub ty: ColumnType,
}

/// A table at one version of its column list.
#[derive(Debug)]
pub struct Table {
    /// Number of the table in an envelope. Never reused.
    pub id: u8,
    /// Version of the column list. It grows whenever `columns` changes: envelopes of the older version may still be in
    /// Redis.
    pub version: u16,
    /// Name of the table in ClickHouse.
    pub name: &'static str,
    /// The columns in an envelope, in order; a later version adds its columns at the end. [`STAMPS`] come in addition.
    pub columns: &'static [ColumnSpec],
}

impl Table {
    /// The table with that number and version; `None` if this release does not know it.
    pub fn find(id: u8, version: u16) -> Option<&'static Table> {
        let newest = Self::ALL.into_iter().map(versions::newest);
        newest.chain(&versions::OLDER).find(|t| (t.id, t.version) == (id, version))
    }

    /// Every table that ingest fills, at its newest version.
    pub const ALL: [&'static Table; 7] =
        [&RUN, &SPAN, &BILLING_METER, &EVAL_SCORE, &RUN_ATTACHMENT, &SET_ASIDE, &REPLAY_CAPTURE];
}

/// Number and version identify a table. Comparing the columns as well would cost the worker a microsecond per envelope.
impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        (self.id, self.version) == (other.id, other.version)
    }
}

impl Eq for Table {}

/// The constraint with which `migrate` closes a table for a moment: an insert that it refuses can be stored later.
pub const CLOSED: &str = "closed_by_migration";

/// The columns that every table has and that no decoder can write. The worker fills them from the envelope's header,
/// which is made only from a resolved tenant. So a bug in a decoder cannot put a row into another org.
pub const STAMPS: [ColumnSpec; 4] = [
    ColumnSpec { name: "org_id", ty: ColumnType::Uuid },
    ColumnSpec { name: "workspace_id", ty: ColumnType::Uuid },
    ColumnSpec { name: "received_at", ty: ColumnType::DateTime64 },
    ColumnSpec { name: "source", ty: ColumnType::String },
];

/// Rows of one table, ready to be put into an envelope.
pub trait Rows {
    /// The table and version that the rows are for.
    fn table(&self) -> &'static Table;
    /// The columns in the table's order.
    fn columns(&self) -> impl Iterator<Item = &Column>;
    /// Number of rows, which every column has.
    fn rows(&self) -> u32;
}

macro_rules! table {
    ($(#[$doc:meta])* $rows:ident, $spec:ident = $id:literal v $version:literal $name:literal { $($column:ident: $ty:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $rows { $($column: Column,)* }

        #[doc = concat!("The columns of `", $name, "`.")]
        pub static $spec: Table = Table {
            id: $id,
            version: $version,
            name: $name,
            columns: &[$(ColumnSpec { name: stringify!($column), ty: ColumnType::$ty },)*],
        };

        impl Default for $rows {
            fn default() -> Self {
                Self { $($column: Column::new(ColumnType::$ty),)* }
            }
        }

        impl $rows {
            /// Removes the rows, but keeps the memory.
            pub fn clear(&mut self) {
                $(self.$column.clear();)*
            }
        }

        impl Rows for $rows {
            fn table(&self) -> &'static Table {
                &$spec
            }

            fn columns(&self) -> impl Iterator<Item = &Column> {
                [$(&self.$column,)*].into_iter()
            }

            fn rows(&self) -> u32 {
                self.project_id.rows()
            }
        }
    };
}

table! {
    /// Rows of `span`, one per span.
    SpanRows, SPAN = 2 v 3 "span" {
        project_id: Uuid,
        run_id: Uuid,
        span_id: Uuid,
        parent_span_id: Uuid,
        name: String,
        kind: String,
        status: String,
        status_message: String,
        span_kind: String,
        start_time: DateTime64,
        end_time: DateTime64,
        trace_state: String,
        flags: UInt32,
        service_name: String,
        resource_attributes: Map,
        resource_attribute_types: String,
        resource_schema_url: String,
        scope_name: String,
        scope_version: String,
        scope_attributes: Map,
        scope_attribute_types: String,
        scope_schema_url: String,
        model: String,
        response_model: String,
        provider: String,
        prompt_tokens: UInt32,
        completion_tokens: UInt32,
        total_tokens: UInt32,
        cached_tokens: UInt32,
        reasoning_tokens: UInt32,
        cost_usd: NullableDecimal64,
        temperature: NullableFloat64,
        inputs: String,
        outputs: String,
        inputs_attribute: String,
        outputs_attribute: String,
        session_id: String,
        user_id: String,
        tags: ArrayString,
        error_kind: String,
        error_message: String,
        attributes: Map,
        attribute_types: String,
        event_times: ArrayDateTime64,
        event_names: ArrayString,
        event_attributes: ArrayMap,
        event_attribute_types: ArrayString,
        event_dropped_attributes: ArrayUInt32,
        link_trace_ids: ArrayUuid,
        link_span_ids: ArrayUuid,
        link_trace_states: ArrayString,
        link_attributes: ArrayMap,
        link_attribute_types: ArrayString,
        link_dropped_attributes: ArrayUInt32,
        link_flags: ArrayUInt32,
        dropped_attributes: UInt32,
        dropped_events: UInt32,
        dropped_links: UInt32,
        schema_version: UInt16,
        // New in version 2.
        cache_write_tokens: UInt32,
        // New in version 3.
        content_hash: FixedString16,
        session_name: String,
    }
}

table! {
    /// Rows of `run`, one per write: a run is put together from its posts and patches when it is read.
    RunRows, RUN = 1 v 3 "run" {
        project_id: Uuid,
        run_id: Uuid,
        op: UInt8,
        op_hash: UInt64,
        trace_id: Uuid,
        parent_run_id: Uuid,
        dotted_order: String,
        name: String,
        kind: String,
        status: String,
        start_time: DateTime64,
        end_time: DateTime64,
        session_name: String,
        sdk: String,
        sdk_version: String,
        model: String,
        response_model: String,
        provider: String,
        prompt_tokens: UInt32,
        completion_tokens: UInt32,
        total_tokens: UInt32,
        cached_tokens: UInt32,
        reasoning_tokens: UInt32,
        cost_usd: NullableDecimal64,
        temperature: NullableFloat64,
        inputs: String,
        outputs: String,
        inputs_attribute: String,
        outputs_attribute: String,
        session_id: String,
        user_id: String,
        tags: ArrayString,
        error_kind: String,
        error_message: String,
        attributes: Map,
        attribute_types: String,
        events: String,
        schema_version: UInt16,
        // New in version 2.
        cache_write_tokens: UInt32,
        // New in version 3.
        content_hash: FixedString16,
    }
}

table! {
    /// Rows of `billing_meter`, one per meter of an envelope.
    BillingRows, BILLING_METER = 3 v 1 "billing_meter" {
        project_id: Uuid,
        api_key_id: Uuid,
        envelope_id: Uuid,
        meter: String,
        period: UInt32,
        quantity: UInt64,
        schema_version: UInt16,
    }
}

mod attached;
pub(crate) mod versions;

pub use attached::{AttachmentRows, EVAL_SCORE, REPLAY_CAPTURE, RUN_ATTACHMENT, SET_ASIDE, ScoreRows, SetAsideRows};

/// Pushes the columns that runs and spans share.
macro_rules! push_llm {
    ($rows:expr, $llm:expr) => {{
        let (rows, llm): (_, &Llm<'_>) = ($rows, $llm);
        rows.kind.push_str(llm.kind.as_str());
        rows.model.push_str(&llm.model);
        rows.response_model.push_str(&llm.response_model);
        rows.provider.push_str(&llm.provider);
        rows.prompt_tokens.push_fixed(llm.tokens.prompt.unwrap_or(0).to_le_bytes());
        rows.completion_tokens.push_fixed(llm.tokens.completion.unwrap_or(0).to_le_bytes());
        rows.total_tokens.push_fixed(llm.tokens.total.unwrap_or(0).to_le_bytes());
        rows.cached_tokens.push_fixed(llm.tokens.cached.unwrap_or(0).to_le_bytes());
        rows.cache_write_tokens.push_fixed(llm.tokens.cache_write.unwrap_or(0).to_le_bytes());
        rows.reasoning_tokens.push_fixed(llm.tokens.reasoning.unwrap_or(0).to_le_bytes());
        rows.cost_usd.push_nullable(llm.cost_usd_e8.map(i64::to_le_bytes));
        rows.temperature.push_nullable(llm.temperature.map(f64::to_le_bytes));
        rows.inputs.push_str(&llm.inputs);
        rows.outputs.push_str(&llm.outputs);
        rows.inputs_attribute.push_str(&llm.inputs_attribute);
        rows.outputs_attribute.push_str(&llm.outputs_attribute);
        rows.session_id.push_str(&llm.session_id);
        rows.user_id.push_str(&llm.user_id);
        rows.tags.push_strs(llm.tags.iter());
        rows.error_kind.push_str(&llm.error_kind);
        rows.error_message.push_str(&llm.error_message);
        rows.content_hash.push_fixed(llm.content_hash);
    }};
}

const SPAN_KINDS: [&str; 6] = ["unspecified", "internal", "server", "client", "producer", "consumer"];

impl SpanRows {
    /// Appends a span. `same_origin` promises that `origin` equals that of the row before, so that it is repeated
    /// instead of written again.
    pub fn push(&mut self, project: ProjectId, origin: &Origin<'_>, same_origin: bool, span: &Span<'_>) {
        self.project_id.push_uuid(project.0);
        self.run_id.push_uuid(span.run_id);
        self.span_id.push_uuid(span.span_id);
        self.parent_span_id.push_uuid(span.parent_span_id);
        self.name.push_str(&span.name);
        self.status.push_str(span.status.as_str());
        self.status_message.push_str(&span.status_message);
        self.span_kind.push_str(SPAN_KINDS.get(usize::from(span.span_kind)).copied().unwrap_or(SPAN_KINDS[0]));
        self.start_time.push_fixed(span.start_time.to_le_bytes());
        self.end_time.push_fixed(span.end_time.to_le_bytes());
        self.trace_state.push_str(&span.trace_state);
        self.flags.push_fixed(span.flags.to_le_bytes());
        self.session_name.push_str(&span.session_name);
        self.push_origin(origin, same_origin);
        push_llm!(&mut *self, &span.llm);
        let mut tags = String::new();
        self.attributes.push_map(&span.attributes);
        self.attribute_types.push_str(type_tags(&span.attributes, &mut tags));
        self.push_events(&span.events);
        self.push_links(&span.links);
        self.dropped_attributes.push_fixed(span.dropped_attributes.to_le_bytes());
        self.dropped_events.push_fixed(span.dropped_events.to_le_bytes());
        self.dropped_links.push_fixed(span.dropped_links.to_le_bytes());
        self.schema_version.push_fixed(versions::newest(&SPAN).version.to_le_bytes());
    }

    fn push_origin(&mut self, origin: &Origin<'_>, same_origin: bool) {
        if same_origin {
            for column in [
                &mut self.service_name,
                &mut self.resource_attributes,
                &mut self.resource_attribute_types,
                &mut self.resource_schema_url,
                &mut self.scope_name,
                &mut self.scope_version,
                &mut self.scope_attributes,
                &mut self.scope_attribute_types,
                &mut self.scope_schema_url,
            ] {
                column.repeat_last();
            }
            return;
        }
        let mut tags = String::new();
        self.service_name.push_str(&origin.service_name);
        self.resource_attributes.push_map(&origin.resource_attributes);
        self.resource_attribute_types.push_str(type_tags(&origin.resource_attributes, &mut tags));
        self.resource_schema_url.push_str(&origin.resource_schema_url);
        self.scope_name.push_str(&origin.scope_name);
        self.scope_version.push_str(&origin.scope_version);
        self.scope_attributes.push_map(&origin.scope_attributes);
        self.scope_attribute_types.push_str(type_tags(&origin.scope_attributes, &mut tags));
        self.scope_schema_url.push_str(&origin.scope_schema_url);
    }

    fn push_events(&mut self, events: &[Event<'_>]) {
        self.event_times.push_array(events.iter().map(|e| e.time.to_le_bytes()));
        self.event_names.push_strs(events.iter().map(|e| &e.name));
        self.event_attributes.push_maps(events.iter().map(|e| e.attributes.as_slice()));
        self.event_attribute_types.push_strs(events.iter().map(|e| owned_tags(&e.attributes)));
        self.event_dropped_attributes.push_array(events.iter().map(|e| e.dropped_attributes.to_le_bytes()));
    }

    fn push_links(&mut self, links: &[Link<'_>]) {
        self.link_trace_ids.push_array(links.iter().map(|l| crate::columns::uuid_bytes(l.trace_id)));
        self.link_span_ids.push_array(links.iter().map(|l| crate::columns::uuid_bytes(l.span_id)));
        self.link_trace_states.push_strs(links.iter().map(|l| &l.trace_state));
        self.link_attributes.push_maps(links.iter().map(|l| l.attributes.as_slice()));
        self.link_attribute_types.push_strs(links.iter().map(|l| owned_tags(&l.attributes)));
        self.link_dropped_attributes.push_array(links.iter().map(|l| l.dropped_attributes.to_le_bytes()));
        self.link_flags.push_array(links.iter().map(|l| l.flags.to_le_bytes()));
    }
}

fn owned_tags(attributes: &[Attribute<'_>]) -> String {
    let mut tags = String::with_capacity(attributes.len());
    type_tags(attributes, &mut tags);
    tags
}

impl RunRows {
    /// Appends one write of a run. `op_hash` is [`content_hash`] of what the client sent: with it a retry is the same
    /// row, and a second patch is another row.
    pub fn push(&mut self, project: ProjectId, run: &Run<'_>, op_hash: u64) {
        self.project_id.push_uuid(project.0);
        self.run_id.push_uuid(run.run_id);
        self.op.push_fixed([run.op as u8]);
        self.op_hash.push_fixed(op_hash.to_le_bytes());
        self.trace_id.push_uuid(run.trace_id);
        self.parent_run_id.push_uuid(run.parent_run_id);
        self.dotted_order.push_str(&run.dotted_order);
        self.name.push_str(&run.name);
        self.status.push_str(run.status.map_or("", |s| s.as_str()));
        self.start_time.push_fixed(run.start_time.to_le_bytes());
        self.end_time.push_fixed(run.end_time.to_le_bytes());
        self.session_name.push_str(&run.session_name);
        self.sdk.push_str(&run.sdk);
        self.sdk_version.push_str(&run.sdk_version);
        push_llm!(&mut *self, &run.llm);
        self.attributes.push_map(&run.attributes);
        self.attribute_types.push_str(&owned_tags(&run.attributes));
        self.events.push_str(&run.events);
        self.schema_version.push_fixed(versions::newest(&RUN).version.to_le_bytes());
    }
}

impl BillingRows {
    /// Appends the amount that one envelope is billed for on one meter. `received_at` decides the calendar month.
    pub fn push(
        &mut self,
        project: ProjectId,
        api_key: ApiKeyId,
        envelope: EnvelopeId,
        received_at: UnixNanos,
        meter: Meter,
        quantity: u64,
    ) {
        self.project_id.push_uuid(project.0);
        self.api_key_id.push_uuid(api_key.0);
        self.envelope_id.push_uuid(envelope.0);
        self.meter.push_str(meter.as_str());
        self.period.push_fixed(period(received_at).to_le_bytes());
        self.quantity.push_fixed(quantity.to_le_bytes());
        self.schema_version.push_fixed(BILLING_METER.version.to_le_bytes());
    }
}

/// A hash that is the same on every machine and in every release, because it is stored as part of a row's identity.
pub fn content_hash(bytes: &[u8]) -> u64 {
    content_hash_of([bytes])
}

/// The hash of the pieces as if they were one text.
pub fn content_hash_of<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    use blake2::digest::consts::U8;
    use blake2::{Blake2b, Digest};
    let mut digest = Blake2b::<U8>::new();
    pieces.into_iter().for_each(|piece| digest.update(piece));
    u64::from_be_bytes(digest.finalize().into())
}

/// The same with 128 bits, for contents that are recognised by their hash alone.
pub fn content_hash_128(bytes: &[u8]) -> [u8; 16] {
    use blake2::digest::consts::U16;
    use blake2::{Blake2b, Digest};
    Blake2b::<U16>::digest(bytes).into()
}

/// The same over several parts. Each is hashed with its length, so that different parts cannot give the same bytes.
pub fn framed_hash_128(parts: &[&[u8]]) -> [u8; 16] {
    use blake2::digest::consts::U16;
    use blake2::{Blake2b, Digest};
    let mut hash = Blake2b::<U16>::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::trace::{Attachment, RejectedItem, Score};

    #[test]
    fn every_column_gets_every_row() {
        let (project, origin) = (ProjectId(uuid::Uuid::nil()), Origin::default());
        let (mut spans, mut runs, mut bills) = (SpanRows::default(), RunRows::default(), BillingRows::default());
        let (mut scores, mut attachments) = (ScoreRows::default(), AttachmentRows::default());
        let mut set_aside = SetAsideRows::default();
        for i in 0..3 {
            let span =
                Span { events: vec![Event::default(); i], links: vec![Link::default(); i], ..Default::default() };
            spans.push(project, &origin, i == 1, &span);
            runs.push(project, &Run::default(), 0);
            bills.push(project, ApiKeyId(project.0), EnvelopeId(project.0), 0, Meter::SpanBytes, 1);
            scores.push(project, &Score::default());
            attachments.push(project, &Attachment::default());
            set_aside.push(project, EnvelopeId(project.0), &RejectedItem::default());
        }
        fn lengths(rows: &impl Rows) -> Vec<(&'static str, u32)> {
            rows.table().columns.iter().map(|c| c.name).zip(rows.columns().map(Column::rows)).collect()
        }
        let first = [lengths(&spans), lengths(&runs), lengths(&bills)];
        let second = [lengths(&scores), lengths(&attachments), lengths(&set_aside)];
        for (name, rows) in first.into_iter().chain(second).flatten() {
            assert_eq!(rows, 3, "{name}");
        }
    }

    #[test]
    fn content_hash_is_pinned() {
        // hashlib.blake2b(b"run", digest_size=8).hexdigest()
        assert_eq!(format!("{:016x}", content_hash(b"run")), PINNED);
    }

    #[test]
    fn hashed_parts_are_delimited_from_each_other() {
        let hash = framed_hash_128(&[b"a", b"bc"]);
        assert_ne!(hash, framed_hash_128(&[b"ab", b"c"]));
        // hashlib.blake2b(b"\1\0\0\0\0\0\0\0a\2\0\0\0\0\0\0\0bc", digest_size=16).hexdigest()
        assert_eq!(format!("{:032x}", u128::from_be_bytes(hash)), "f14abc19c330e936bb9c8506d69bac9b");
    }

    const PINNED: &str = "fb4b0d4947c68395";
}
