-- Back to the tables of 0001. Rows that were written since are brought back, into the `*_v1` that was kept, or into a new
-- one if it is gone. `REBUILD` is explained in schema/src/migrate/rebuild.rs; here it goes the other way: afterwards `t` is
-- what was `t_v1`, and the table with orgs is dropped, once every row of it is known to be in `t`.

CREATE TABLE IF NOT EXISTS run_v1
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
REBUILD run;

CREATE TABLE IF NOT EXISTS span_v1
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
REBUILD span;

CREATE TABLE IF NOT EXISTS eval_score_v1
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
REBUILD eval_score;

CREATE TABLE IF NOT EXISTS eval_aggregate_v1
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
REBUILD eval_aggregate;

CREATE TABLE IF NOT EXISTS replay_capture_v1
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
REBUILD replay_capture;

CREATE TABLE IF NOT EXISTS replay_run_v1
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
REBUILD replay_run;

CREATE TABLE IF NOT EXISTS dataset_item_v1
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
REBUILD dataset_item;

CREATE TABLE IF NOT EXISTS billing_meter_v1
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
REBUILD billing_meter;
