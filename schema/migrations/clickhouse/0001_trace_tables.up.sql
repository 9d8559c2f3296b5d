-- The tables that the worker inserts into. The column list that an insert names is schema/src/tables.rs; a test holds the
-- two together.
--
-- Every table is partitioned by the month in which *we* received the row. A client's clock can be wrong by decades; ours
-- bounds how many partitions one insert can touch, and retention can never mistake a fresh row for an old one.
-- Every table de-duplicates inserts by token; both windows are set so that the DDL serves one node and a cluster.

-- A run is stored as the writes it was made of, one row each: a creation, and any number of changes. `op_hash` is a hash of
-- what the client sent, so that a retry is the same row (and collapses) while a second change is a row of its own. No key
-- column is one that a change may lack. `project_id` is the API key's project, hence the same for all writes of a run.
CREATE TABLE IF NOT EXISTS run
(
    org_id UUID,
    workspace_id UUID,
    project_id UUID,
    run_id UUID,
    op UInt8,
    op_hash UInt64,
    trace_id UUID,
    parent_run_id UUID,
    dotted_order String CODEC(ZSTD(1)),
    name LowCardinality(String),
    kind LowCardinality(String),
    status LowCardinality(String),
    start_time DateTime64(9, 'UTC'),
    end_time DateTime64(9, 'UTC'),
    session_name LowCardinality(String),
    sdk LowCardinality(String),
    sdk_version LowCardinality(String),
    model LowCardinality(String),
    response_model LowCardinality(String),
    provider LowCardinality(String),
    prompt_tokens UInt32,
    completion_tokens UInt32,
    total_tokens UInt32,
    cached_tokens UInt32,
    reasoning_tokens UInt32,
    cost_usd Nullable(Decimal(18, 8)),
    temperature Nullable(Float64),
    inputs String CODEC(ZSTD(1)),
    outputs String CODEC(ZSTD(1)),
    inputs_attribute LowCardinality(String),
    outputs_attribute LowCardinality(String),
    session_id String CODEC(ZSTD(1)),
    user_id String CODEC(ZSTD(1)),
    tags Array(LowCardinality(String)),
    error_kind LowCardinality(String),
    error_message String CODEC(ZSTD(1)),
    attributes Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    attribute_types LowCardinality(String),
    events String CODEC(ZSTD(1)),
    source LowCardinality(String),
    received_at DateTime64(9, 'UTC'),
    schema_version UInt16,
    INDEX run_start_time start_time TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(received_at)
PARTITION BY toYYYYMM(received_at)
ORDER BY (org_id, project_id, run_id, op, op_hash)
SETTINGS
    index_granularity = 8192,
    non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 10000;

-- A span is final when it arrives; one that is sent again is the same row and collapses. Within a project rows lie by day, so
-- that a time range reads its days and a trace is a few binary searches.
CREATE TABLE IF NOT EXISTS span
(
    org_id UUID,
    workspace_id UUID,
    project_id UUID,
    run_id UUID,
    span_id UUID,
    parent_span_id UUID,
    name LowCardinality(String),
    kind LowCardinality(String),
    status LowCardinality(String),
    status_message String CODEC(ZSTD(1)),
    span_kind LowCardinality(String),
    start_time DateTime64(9, 'UTC'),
    end_time DateTime64(9, 'UTC'),
    trace_state String,
    flags UInt32,
    service_name LowCardinality(String),
    resource_attributes Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    resource_attribute_types LowCardinality(String),
    resource_schema_url LowCardinality(String),
    scope_name LowCardinality(String),
    scope_version LowCardinality(String),
    scope_attributes Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    scope_attribute_types LowCardinality(String),
    scope_schema_url LowCardinality(String),
    model LowCardinality(String),
    response_model LowCardinality(String),
    provider LowCardinality(String),
    prompt_tokens UInt32,
    completion_tokens UInt32,
    total_tokens UInt32,
    cached_tokens UInt32,
    reasoning_tokens UInt32,
    cost_usd Nullable(Decimal(18, 8)),
    temperature Nullable(Float64),
    inputs String CODEC(ZSTD(1)),
    outputs String CODEC(ZSTD(1)),
    inputs_attribute LowCardinality(String),
    outputs_attribute LowCardinality(String),
    session_id String CODEC(ZSTD(1)),
    user_id String CODEC(ZSTD(1)),
    tags Array(LowCardinality(String)),
    error_kind LowCardinality(String),
    error_message String CODEC(ZSTD(1)),
    attributes Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    attribute_types LowCardinality(String),
    event_times Array(DateTime64(9, 'UTC')),
    event_names Array(LowCardinality(String)),
    event_attributes Array(Map(LowCardinality(String), String)) CODEC(ZSTD(1)),
    event_attribute_types Array(LowCardinality(String)),
    event_dropped_attributes Array(UInt32),
    link_trace_ids Array(UUID),
    link_span_ids Array(UUID),
    link_trace_states Array(String),
    link_attributes Array(Map(LowCardinality(String), String)),
    link_attribute_types Array(LowCardinality(String)),
    link_dropped_attributes Array(UInt32),
    link_flags Array(UInt32),
    dropped_attributes UInt32,
    dropped_events UInt32,
    dropped_links UInt32,
    source LowCardinality(String),
    received_at DateTime64(9, 'UTC'),
    schema_version UInt16
)
ENGINE = ReplacingMergeTree(received_at)
PARTITION BY toYYYYMM(received_at)
ORDER BY (org_id, project_id, toDate(start_time), run_id, span_id)
SETTINGS
    index_granularity = 8192,
    non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 10000;

-- What each envelope is billed for, inserted together with its rows.
CREATE TABLE IF NOT EXISTS billing_meter
(
    org_id UUID,
    workspace_id UUID,
    project_id UUID,
    api_key_id UUID,
    envelope_id UUID,
    meter LowCardinality(String),
    period UInt32,
    quantity UInt64,
    source LowCardinality(String),
    received_at DateTime64(9, 'UTC'),
    schema_version UInt16
)
ENGINE = ReplacingMergeTree(received_at)
PARTITION BY toYYYYMM(received_at)
ORDER BY (org_id, project_id, period, meter, envelope_id)
SETTINGS
    index_granularity = 8192,
    non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 10000;
