-- What is kept beside runs and spans: items that could not be stored, and calls as a replayer looks for them.

-- An item that was set aside where the client cannot hear of it, with the bytes it came as and the reason. It is a row of the
-- org's own, so that one org's rubbish is in nobody else's way. `content` may be cut; `content_bytes` and `content_hash`
-- (BLAKE2b-128) are of the whole. The same item sent again is the same row. `envelope_id` is the request's id.
CREATE TABLE IF NOT EXISTS set_aside
(
    org_id UUID,
    workspace_id UUID,
    project_id UUID,
    envelope_id UUID,
    item String CODEC(ZSTD(1)),
    reason String CODEC(ZSTD(1)),
    content String CODEC(ZSTD(1)),
    content_bytes UInt64,
    content_hash FixedString(16),
    source LowCardinality(String),
    received_at DateTime64(9, 'UTC'),
    schema_version UInt16,
    CONSTRAINT org_is_set CHECK org_id != toUUID('00000000-0000-0000-0000-000000000000')
)
ENGINE = ReplacingMergeTree(received_at)
PARTITION BY toYYYYMM(received_at)
ORDER BY (org_id, project_id, content_hash, item)
SETTINGS
    index_granularity = 8192,
    non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 10000;

-- The captured calls of one org with what went in and what came out: SELECT ... FROM replay_of(org = '...').
--
-- A capture does not repeat inputs, outputs and error: those of its span or run are shown. Where a capture has its own, from
-- before there were orgs, they are. A run's are those of all its writes.
CREATE VIEW IF NOT EXISTS replay_of AS
SELECT
    capture.org_id AS org_id,
    capture.workspace_id AS workspace_id,
    capture.project_id AS project_id,
    capture.run_id AS run_id,
    capture.span_id AS span_id,
    capture.parent_span_id AS parent_span_id,
    capture.kind AS kind,
    capture.name AS name,
    capture.model AS model,
    capture.provider AS provider,
    capture.start_time AS start_time,
    greatest(capture.end_time, called.end_time) AS end_time,
    capture.parameters AS parameters,
    capture.content_hash AS content_hash,
    if(capture.inputs = '', called.inputs, capture.inputs) AS inputs,
    if(capture.outputs = '', called.outputs, capture.outputs) AS outputs,
    if(capture.error_message = '', called.error_message, capture.error_message) AS error_message,
    capture.source AS source,
    capture.received_at AS received_at
FROM (SELECT * FROM replay_capture FINAL WHERE org_id = {org:UUID}) AS capture
LEFT JOIN
(
    SELECT project_id, run_id, span_id, end_time, inputs, outputs, error_message
    FROM span FINAL
    WHERE org_id = {org:UUID}
    UNION ALL
    SELECT
        project_id,
        run_id,
        toUUID('00000000-0000-0000-0000-000000000000') AS span_id,
        end_time,
        inputs,
        outputs,
        error_message
    FROM run_of(org = {org:UUID})
) AS called
    ON called.project_id = capture.project_id AND called.run_id = capture.run_id AND called.span_id = capture.span_id;

-- What one org's users read beside its runs: SELECT ... FROM feedback_of(org = '...'), attachment_of, set_aside_of. What was sent
-- twice is there once.
CREATE VIEW IF NOT EXISTS feedback_of AS
SELECT
    org_id,
    workspace_id,
    project_id,
    run_id,
    trace_id,
    score_id,
    name,
    value,
    label,
    value_json,
    comment,
    correction,
    feedback_source,
    feedback_source_metadata,
    feedback_config,
    user_id,
    error_message,
    extra,
    start_time,
    created_at,
    modified_at,
    source,
    received_at
FROM eval_score FINAL
WHERE org_id = {org:UUID};

CREATE VIEW IF NOT EXISTS attachment_of AS
SELECT org_id, workspace_id, project_id, run_id, name, mime_type, size, content_hash, content, source, received_at
FROM run_attachment FINAL
WHERE org_id = {org:UUID};

CREATE VIEW IF NOT EXISTS set_aside_of AS
SELECT
    org_id,
    workspace_id,
    project_id,
    envelope_id,
    item,
    reason,
    content,
    content_bytes,
    content_hash,
    source,
    received_at
FROM set_aside FINAL
WHERE org_id = {org:UUID};
