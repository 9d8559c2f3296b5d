-- The trace tables as they were before there were orgs: a row belongs to a project. 0002 gives every row its org and workspace.
--
-- Every table is partitioned by the month in which *we* received the row. A client's clock can be wrong by decades; ours
-- bounds how many partitions one insert can touch, and retention can never mistake a fresh row for an old one.
-- Every table de-duplicates inserts by token; both windows are set so that the DDL serves one node and a cluster.

-- A run is stored as the writes it was made of, one row each: a creation, and any number of changes. `op_hash` is a hash of
-- what the client sent, so that a retry is the same row (and collapses) while a second change is a row of its own. No key
-- column is one that a change may lack. `project_id` is the API key's project, hence the same for all writes of a run.
CREATE TABLE IF NOT EXISTS run
(
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
ORDER BY (project_id, run_id, op, op_hash)
SETTINGS
    index_granularity = 8192,
    non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 10000;

-- A span is final when it arrives; one that is sent again is the same row and collapses. Within a project rows lie by day, so
-- that a time range reads its days and a trace is a few binary searches.
CREATE TABLE IF NOT EXISTS span
(
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
ORDER BY (project_id, toDate(start_time), run_id, span_id)
SETTINGS
    index_granularity = 8192,
    non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 10000;

-- A verdict on a run, or on one span of it (`span_id` is zero for the whole run): an evaluator's, or a person's, which is what
-- LangSmith calls feedback. LangSmith's `key`, `score` and `value` are `name`, `value` (true is 1, false is 0) and `value_json`
-- here. It may arrive before its run, and one that is sent again, changed, replaces itself.
CREATE TABLE IF NOT EXISTS eval_score
(
    project_id UUID,
    run_id UUID,
    span_id UUID,
    trace_id UUID,
    score_id UUID,
    name LowCardinality(String),
    value Nullable(Float64),
    label LowCardinality(String),
    value_json String CODEC(ZSTD(1)),
    comment String CODEC(ZSTD(1)),
    correction String CODEC(ZSTD(1)),
    evaluator LowCardinality(String),
    evaluator_version LowCardinality(String),
    feedback_source LowCardinality(String),
    feedback_source_metadata String CODEC(ZSTD(1)),
    feedback_config String CODEC(ZSTD(1)),
    model LowCardinality(String),
    prompt_tokens UInt32,
    completion_tokens UInt32,
    cost_usd Nullable(Decimal(18, 8)),
    session_id String CODEC(ZSTD(1)),
    user_id String CODEC(ZSTD(1)),
    error_message String CODEC(ZSTD(1)),
    extra String CODEC(ZSTD(1)),
    start_time DateTime64(9, 'UTC'),
    created_at DateTime64(9, 'UTC'),
    modified_at DateTime64(9, 'UTC'),
    source LowCardinality(String),
    received_at DateTime64(9, 'UTC'),
    schema_version UInt16
)
ENGINE = ReplacingMergeTree(received_at)
PARTITION BY toYYYYMM(received_at)
ORDER BY (project_id, run_id, span_id, name, score_id)
SETTINGS
    index_granularity = 8192,
    non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 10000;

-- Scores of one name and evaluator, summed up over a window of time. Whoever sums a window again writes it whole, and the
-- newer row replaces the older. `count` is of all scores, `value_count` of those that have a value.
CREATE TABLE IF NOT EXISTS eval_aggregate
(
    project_id UUID,
    name LowCardinality(String),
    evaluator LowCardinality(String),
    window_seconds UInt32,
    window_start DateTime64(9, 'UTC'),
    count UInt64,
    value_count UInt64,
    sum Float64,
    sum_squares Float64,
    min Nullable(Float64),
    max Nullable(Float64),
    label_counts Map(LowCardinality(String), UInt64),
    source LowCardinality(String),
    received_at DateTime64(9, 'UTC'),
    schema_version UInt16
)
ENGINE = ReplacingMergeTree(received_at)
PARTITION BY toYYYYMM(received_at)
ORDER BY (project_id, name, evaluator, window_seconds, window_start)
SETTINGS
    index_granularity = 8192,
    non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 10000;

-- What it takes to replay a call: what went in, with which parameters, and what came out. `content_hash` is BLAKE2b-128 over
-- kind, name, model, provider, parameters and inputs, so that a replayer recognises a call that it has made before.
CREATE TABLE IF NOT EXISTS replay_capture
(
    project_id UUID,
    run_id UUID,
    span_id UUID,
    parent_span_id UUID,
    kind LowCardinality(String),
    name LowCardinality(String),
    model LowCardinality(String),
    provider LowCardinality(String),
    start_time DateTime64(9, 'UTC'),
    end_time DateTime64(9, 'UTC'),
    inputs String CODEC(ZSTD(1)),
    outputs String CODEC(ZSTD(1)),
    parameters String CODEC(ZSTD(1)),
    content_hash FixedString(16),
    error_message String CODEC(ZSTD(1)),
    source LowCardinality(String),
    received_at DateTime64(9, 'UTC'),
    schema_version UInt16
)
ENGINE = ReplacingMergeTree(received_at)
PARTITION BY toYYYYMM(received_at)
ORDER BY (project_id, run_id, span_id)
SETTINGS
    index_granularity = 8192,
    non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 10000;

-- One replay: of a captured call, or of an item of a dataset, whichever ids are set. Its status is written again as it goes.
CREATE TABLE IF NOT EXISTS replay_run
(
    project_id UUID,
    replay_id UUID,
    captured_run_id UUID,
    captured_span_id UUID,
    content_hash FixedString(16),
    dataset_id UUID,
    item_id UUID,
    name LowCardinality(String),
    status LowCardinality(String),
    model LowCardinality(String),
    provider LowCardinality(String),
    parameters String CODEC(ZSTD(1)),
    start_time DateTime64(9, 'UTC'),
    end_time DateTime64(9, 'UTC'),
    prompt_tokens UInt32,
    completion_tokens UInt32,
    total_tokens UInt32,
    cached_tokens UInt32,
    reasoning_tokens UInt32,
    cost_usd Nullable(Decimal(18, 8)),
    inputs String CODEC(ZSTD(1)),
    outputs String CODEC(ZSTD(1)),
    error_kind LowCardinality(String),
    error_message String CODEC(ZSTD(1)),
    user_id String CODEC(ZSTD(1)),
    source LowCardinality(String),
    received_at DateTime64(9, 'UTC'),
    schema_version UInt16
)
ENGINE = ReplacingMergeTree(received_at)
PARTITION BY toYYYYMM(received_at)
ORDER BY (project_id, replay_id)
SETTINGS
    index_granularity = 8192,
    non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 10000;

-- An example: inputs, and what should come out. A change is a row that replaces the one before, and so is a deletion.
CREATE TABLE IF NOT EXISTS dataset_item
(
    project_id UUID,
    dataset_id UUID,
    item_id UUID,
    split LowCardinality(String),
    inputs String CODEC(ZSTD(1)),
    expected_outputs String CODEC(ZSTD(1)),
    metadata String CODEC(ZSTD(1)),
    source_run_id UUID,
    source_span_id UUID,
    user_id String CODEC(ZSTD(1)),
    created_at DateTime64(9, 'UTC'),
    is_deleted Bool,
    source LowCardinality(String),
    received_at DateTime64(9, 'UTC'),
    schema_version UInt16
)
ENGINE = ReplacingMergeTree(received_at)
PARTITION BY toYYYYMM(received_at)
ORDER BY (project_id, dataset_id, item_id)
SETTINGS
    index_granularity = 8192,
    non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 10000;

-- What each envelope is billed for, inserted together with its rows.
CREATE TABLE IF NOT EXISTS billing_meter
(
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
ORDER BY (project_id, period, meter, envelope_id)
SETTINGS
    index_granularity = 8192,
    non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 10000;
