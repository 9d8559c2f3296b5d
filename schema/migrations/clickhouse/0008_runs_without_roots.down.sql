-- The view as 0007 made it.
CREATE OR REPLACE VIEW run_of AS
SELECT
    org_id,
    workspace_id,
    project_id,
    run_id,
    trace_id,
    parent_run_id,
    dotted_order,
    name,
    if(specific_kind = '', 'span', specific_kind) AS kind,
    multiIf(told_status != '', told_status, end_time != toDateTime64(0, 9, 'UTC'), 'ok', 'running') AS status,
    start_time,
    end_time,
    session_name,
    sdk,
    sdk_version,
    model,
    response_model,
    provider,
    prompt_tokens,
    completion_tokens,
    total_tokens,
    cached_tokens,
    reasoning_tokens,
    cost_usd,
    temperature,
    inputs,
    outputs,
    inputs_attribute,
    outputs_attribute,
    session_id,
    user_id,
    tags,
    error_kind,
    error_message,
    CAST((arrayMap(a -> a.1, merged), arrayMap(a -> a.4, merged)), 'Map(String, String)') AS attributes,
    arrayStringConcat(arrayMap(a -> a.5, merged)) AS attribute_types,
    events,
    source,
    received_at,
    writes
FROM
(
    SELECT
        *,
        -- Sorted by key, then what gives way, then place: the last of each key is the one that counts.
        arraySort(arrayFlatten(all_attributes)) AS sorted,
        arrayMap(a -> a.1, sorted) AS keys,
        arrayFilter(
            (a, next) -> a.1 != next,
            sorted,
            arraySlice(arrayPushBack(keys, concat(keys[-1], '.')), 2)
        ) AS merged
    FROM
    (
        WITH
            tuple(run.op, run.received_at, run.end_time, run.op_hash) AS place,
            run.status NOT IN ('', 'running') AND (run.status, run.source) != ('ok', 'langsmith') AS tells_status,
            toDateTime64(0, 9, 'UTC') AS no_time,
            toUUID('00000000-0000-0000-0000-000000000000') AS no_id
        SELECT
            org_id,
            argMax(run.workspace_id, place) AS workspace_id,
            project_id,
            run_id,
            argMaxIf(run.trace_id, place, run.trace_id != no_id) AS trace_id,
            argMaxIf(run.parent_run_id, place, run.parent_run_id != no_id) AS parent_run_id,
            argMaxIf(run.dotted_order, place, run.dotted_order != '') AS dotted_order,
            argMaxIf(run.name, place, run.name != '') AS name,
            argMaxIf(run.kind, place, run.kind NOT IN ('', 'span')) AS specific_kind,
            argMaxIf(run.status, place, tells_status) AS told_status,
            argMaxIf(run.start_time, place, run.start_time != no_time) AS start_time,
            argMaxIf(run.end_time, place, run.end_time != no_time) AS end_time,
            argMaxIf(run.session_name, place, run.session_name != '') AS session_name,
            argMaxIf(run.sdk, place, run.sdk != '') AS sdk,
            argMaxIf(run.sdk_version, place, run.sdk_version != '') AS sdk_version,
            argMaxIf(run.model, place, run.model != '') AS model,
            argMaxIf(run.response_model, place, run.response_model != '') AS response_model,
            argMaxIf(run.provider, place, run.provider != '') AS provider,
            argMaxIf(run.prompt_tokens, place, run.prompt_tokens != 0) AS prompt_tokens,
            argMaxIf(run.completion_tokens, place, run.completion_tokens != 0) AS completion_tokens,
            argMaxIf(run.total_tokens, place, run.total_tokens != 0) AS total_tokens,
            argMaxIf(run.cached_tokens, place, run.cached_tokens != 0) AS cached_tokens,
            argMaxIf(run.reasoning_tokens, place, run.reasoning_tokens != 0) AS reasoning_tokens,
            argMaxIf(run.cost_usd, place, run.cost_usd IS NOT NULL) AS cost_usd,
            argMaxIf(run.temperature, place, run.temperature IS NOT NULL) AS temperature,
            argMaxIf(run.inputs, place, run.inputs != '') AS inputs,
            argMaxIf(run.outputs, place, run.outputs != '') AS outputs,
            argMaxIf(run.inputs_attribute, place, run.inputs != '') AS inputs_attribute,
            argMaxIf(run.outputs_attribute, place, run.outputs != '') AS outputs_attribute,
            argMaxIf(run.session_id, place, run.session_id != '') AS session_id,
            argMaxIf(run.user_id, place, run.user_id != '') AS user_id,
            argMaxIf(run.tags, place, notEmpty(run.tags)) AS tags,
            argMaxIf(run.error_kind, place, run.error_message != '') AS error_kind,
            argMaxIf(run.error_message, place, run.error_message != '') AS error_message,
            argMaxIf(run.events, place, run.events != '') AS events,
            groupArray(
                arrayMap(
                    (key, value, type) -> (CAST(key, 'String'), type != 'e', place, value, type),
                    mapKeys(run.attributes),
                    mapValues(run.attributes),
                    arrayResize(splitByString('', CAST(run.attribute_types, 'String')), length(run.attributes))
                )
            ) AS all_attributes,
            argMax(run.source, place) AS source,
            max(run.received_at) AS received_at,
            uniqExact(run.op, run.op_hash) AS writes
        FROM run
        WHERE org_id = {org:UUID}
        GROUP BY org_id, project_id, run_id
    )
);
