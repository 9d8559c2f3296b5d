-- One span, one row. Until now a call had a second row in `replay_capture`, and the root span of a trace one in `run`. What was
-- in them can be derived when it is read, but for two columns (docs/decisions/0023-one-row-per-span.md).
--
-- `content_hash` is XXH3-128 over kind, name of a tool, model, provider, parameters and inputs of a call, zeros where nothing can
-- be replayed. `session_name` is the LangSmith project of the span, as `run` has it.
ALTER TABLE span ADD COLUMN IF NOT EXISTS content_hash FixedString(16) AFTER error_message;

ALTER TABLE span ADD COLUMN IF NOT EXISTS session_name LowCardinality(String) AFTER service_name;

ALTER TABLE run ADD COLUMN IF NOT EXISTS content_hash FixedString(16) AFTER error_message;

-- The runs of one org, each put together from its writes field by field: SELECT ... FROM run_of(org = '...').
--
-- A field is that of the last write which provides it. Empty is "not provided", and never takes anything away. Last is: by
-- rank (`op`: 1 opens a run, 2 tells all of it, 3 changes it), then by receipt, so that a change is shown although the run had
-- ended before it, and a creation that arrives late takes nothing back. The writes of one request were received one
-- nanosecond apart, in their order. Where all of these are equal, by end and `op_hash`, so that the result depends on which
-- writes there are and on nothing else. For that reason FINAL is not needed: of a write that came again, the last receipt counts.
-- (Rows from before this migration have op 2 for changes, too.)
--
-- `kind`: span means that nothing more specific is known. `status`: that of the last write which tells how the run ended;
-- without one it is running until it has an end. LangSmith's writes tell of errors only: their ok says no more than that there
-- is an end. `attributes` are merged key by key, with their types; an empty value (type e) gives way to any other.
--
-- A root span that came over OTLP is a write of its run, with op 2. (The root spans of schema versions 1 and 2 have a row in `run`
-- for that, and so have the runs of our own protocol.)
--
-- A trace of which spans arrived, and neither a root span nor a write of a run (its root was lost or never sent, or its parent is
-- in a system that does not send here), has a run, too: its span that began first, of those that began together the one that
-- ended last, with what a root span gives to its run. `writes` is 0. It gives way as soon as a run is written.
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
    cache_write_tokens,
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
            argMaxIf(run.cache_write_tokens, place, run.cache_write_tokens != 0) AS cache_write_tokens,
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
        FROM
        (
            SELECT
                org_id,
                workspace_id,
                project_id,
                run_id,
                op,
                op_hash,
                trace_id,
                parent_run_id,
                dotted_order,
                name,
                kind,
                status,
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
                cache_write_tokens,
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
                attributes,
                attribute_types,
                events,
                source,
                received_at
            FROM run
            WHERE org_id = {org:UUID}
            UNION ALL
            SELECT
                org_id,
                workspace_id,
                project_id,
                run_id,
                2 AS op,
                sipHash64(span_id) AS op_hash,
                run_id AS trace_id,
                toUUID('00000000-0000-0000-0000-000000000000') AS parent_run_id,
                '' AS dotted_order,
                name,
                kind,
                status,
                start_time,
                end_time,
                session_name,
                resource_attributes['telemetry.sdk.name'] AS sdk,
                resource_attributes['telemetry.sdk.version'] AS sdk_version,
                model,
                response_model,
                provider,
                prompt_tokens,
                completion_tokens,
                total_tokens,
                cached_tokens,
                cache_write_tokens,
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
                mapFilter(
                    (key, value) -> key IN ('tracebility.cost_source', 'tracebility.time_flag'),
                    span.attributes
                ) AS attributes,
                'ss' AS attribute_types,
                '' AS events,
                source,
                received_at
            FROM span
            WHERE org_id = {org:UUID}
                AND schema_version >= 3
                AND startsWith(span.source, 'otlp')
                AND parent_span_id = toUUID('00000000-0000-0000-0000-000000000000')
                AND NOT mapContains(span.attributes, 'otlp.parentSpanId')
        ) AS run
        GROUP BY org_id, project_id, run_id
    )
)
UNION ALL
SELECT
    org_id,
    workspace_id,
    project_id,
    run_id,
    run_id AS trace_id,
    toUUID('00000000-0000-0000-0000-000000000000') AS parent_run_id,
    '' AS dotted_order,
    name,
    kind,
    status,
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
    cache_write_tokens,
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
    CAST(noted, 'Map(String, String)') AS attributes,
    repeat('s', length(noted)) AS attribute_types,
    '' AS events,
    source,
    received_at,
    0 AS writes
FROM
(
    SELECT
        org_id,
        project_id,
        run_id,
        argMin(spans.workspace_id, place) AS workspace_id,
        argMin(spans.name, place) AS name,
        argMin(spans.kind, place) AS kind,
        argMin(spans.status, place) AS status,
        argMin(spans.start_time, place) AS start_time,
        argMin(spans.end_time, place) AS end_time,
        argMin(spans.session_name, place) AS session_name,
        argMin(spans.sdk, place) AS sdk,
        argMin(spans.sdk_version, place) AS sdk_version,
        argMin(spans.model, place) AS model,
        argMin(spans.response_model, place) AS response_model,
        argMin(spans.provider, place) AS provider,
        argMin(spans.prompt_tokens, place) AS prompt_tokens,
        argMin(spans.completion_tokens, place) AS completion_tokens,
        argMin(spans.total_tokens, place) AS total_tokens,
        argMin(spans.cached_tokens, place) AS cached_tokens,
        argMin(spans.cache_write_tokens, place) AS cache_write_tokens,
        argMin(spans.reasoning_tokens, place) AS reasoning_tokens,
        argMin(spans.cost_usd, place) AS cost_usd,
        argMin(spans.temperature, place) AS temperature,
        argMin(spans.inputs, place) AS inputs,
        argMin(spans.outputs, place) AS outputs,
        argMin(spans.inputs_attribute, place) AS inputs_attribute,
        argMin(spans.outputs_attribute, place) AS outputs_attribute,
        argMin(spans.session_id, place) AS session_id,
        argMin(spans.user_id, place) AS user_id,
        argMin(spans.tags, place) AS tags,
        argMin(spans.error_kind, place) AS error_kind,
        argMin(spans.error_message, place) AS error_message,
        argMin(spans.noted, place) AS noted,
        argMin(spans.source, place) AS source,
        max(spans.received_at) AS received_at
    FROM
    (
        SELECT
            org_id,
            project_id,
            run_id,
            schema_version >= 3
                AND startsWith(span.source, 'otlp')
                AND parent_span_id = toUUID('00000000-0000-0000-0000-000000000000')
                AND NOT mapContains(span.attributes, 'otlp.parentSpanId') AS is_run,
            -- The first to begin (0 is not given, and comes last), of those the last to end.
            tuple(toUInt64(toUnixTimestamp64Nano(start_time) - 1), -toUnixTimestamp64Nano(end_time), span_id) AS place,
            workspace_id,
            name,
            kind,
            status,
            start_time,
            end_time,
            multiIf(
                span.session_name != '', span.session_name,
                attributes['langsmith.trace.session_name'] != '', attributes['langsmith.trace.session_name'],
                resource_attributes['openinference.project.name'] != '', resource_attributes['openinference.project.name'],
                service_name
            ) AS session_name,
            resource_attributes['telemetry.sdk.name'] AS sdk,
            resource_attributes['telemetry.sdk.version'] AS sdk_version,
            model,
            response_model,
            provider,
            prompt_tokens,
            completion_tokens,
            total_tokens,
            cached_tokens,
            cache_write_tokens,
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
            mapFilter((key, value) -> key IN ('tracebility.cost_source', 'tracebility.time_flag'), attributes) AS noted,
            source,
            received_at
        FROM span
        WHERE org_id = {org:UUID}
        UNION ALL
        SELECT
            org_id,
            project_id,
            run_id,
            true AS is_run,
            tuple(0, 0, toUUID('00000000-0000-0000-0000-000000000000')) AS place,
            toUUID('00000000-0000-0000-0000-000000000000') AS workspace_id,
            '' AS name,
            '' AS kind,
            '' AS status,
            toDateTime64(0, 9, 'UTC') AS start_time,
            toDateTime64(0, 9, 'UTC') AS end_time,
            '' AS session_name,
            '' AS sdk,
            '' AS sdk_version,
            '' AS model,
            '' AS response_model,
            '' AS provider,
            0 AS prompt_tokens,
            0 AS completion_tokens,
            0 AS total_tokens,
            0 AS cached_tokens,
            0 AS cache_write_tokens,
            0 AS reasoning_tokens,
            NULL AS cost_usd,
            NULL AS temperature,
            '' AS inputs,
            '' AS outputs,
            '' AS inputs_attribute,
            '' AS outputs_attribute,
            '' AS session_id,
            '' AS user_id,
            [] AS tags,
            '' AS error_kind,
            '' AS error_message,
            map() AS noted,
            '' AS source,
            toDateTime64(0, 9, 'UTC') AS received_at
        FROM run
        WHERE org_id = {org:UUID}
    ) AS spans
    GROUP BY org_id, project_id, run_id
    HAVING NOT max(spans.is_run)
);

-- The calls of one org that can be replayed, with what went in and what came out: SELECT ... FROM replay_of(org = '...').
--
-- They are the spans and runs with a `content_hash`; the same call has the same hash. `parameters` are the attributes that
-- decide the answer besides inputs, by the names they came with (schema/translate/src/replay.rs has the same names). Of a run
-- that was written several times, the last write with a call counts; what went in and came out is that of all its writes.
--
-- Calls of releases before this migration are in `replay_capture`. They are shown unless they were sent again since.
CREATE OR REPLACE VIEW replay_of AS
SELECT
    org_id,
    workspace_id,
    project_id,
    run_id,
    span_id,
    parent_span_id,
    kind,
    name,
    model,
    provider,
    start_time,
    end_time,
    if(
        kept_parameters != '',
        kept_parameters,
        concat(
            '{',
            arrayStringConcat(
                arrayMap(
                    a -> concat(
                        toJSONString(a.1),
                        ':',
                        multiIf(
                            a.3 = 'e', 'null',
                            a.3 IN ('b', 'i', 'a', 'm'), a.2,
                            a.3 = 'd' AND match(a.2, '^-?[0-9]'), a.2,
                            -- Tools and invocation parameters are sent as texts.
                            a.3 = 's' AND match(a.2, '^[ \\t\\r\\n]*[\\[{]') AND isValidJSON(a.2), a.2,
                            toJSONString(a.2)
                        )
                    ),
                    arraySort(
                        a -> a.1,
                        arrayFilter(
                            a -> a.1 IN (
                                'gen_ai.output.type',
                                'gen_ai.system_instructions',
                                'gen_ai.tool.definitions',
                                'gen_ai.tool.name',
                                'llm.invocation_parameters',
                                'tool.name',
                                'llm.chat.stop_sequences',
                                'llm.frequency_penalty',
                                'llm.presence_penalty',
                                'llm.top_k',
                                'ai.prompt.toolChoice',
                                'ai.prompt.tools',
                                'ai.toolCall.name',
                                'langfuse.observation.model.parameters',
                                'model_request_parameters',
                                'langsmith.extra.invocation_params',
                                'langsmith.extra.options',
                                'ls_max_tokens',
                                'ls_stop',
                                'invocation_params',
                                'parameters',
                                'tool_choice',
                                'tools'
                            )
                            OR (
                                startsWith(a.1, 'ai.settings.')
                                OR startsWith(a.1, 'gen_ai.openai.request.')
                                OR startsWith(a.1, 'gen_ai.request.')
                                OR startsWith(a.1, 'llm.request.functions.')
                                OR startsWith(a.1, 'llm.tools.')
                                OR startsWith(a.1, 'openai.request.')
                            )
                            AND a.1 NOT IN (
                                'gen_ai.request.model',
                                'gen_ai.request.temperature',
                                'ai.settings.temperature',
                                'ai.settings.maxRetries'
                            ),
                            arrayZip(
                                arrayMap(key -> CAST(key, 'String'), mapKeys(attributes)),
                                mapValues(attributes),
                                arrayResize(splitByString('', CAST(attribute_types, 'String')), length(attributes))
                            )
                        )
                        || if(isNull(temperature), [], [('temperature', toString(assumeNotNull(temperature)), 'd')])
                    )
                ),
                ','
            ),
            '}'
        )
    ) AS parameters,
    content_hash,
    inputs,
    outputs,
    error_message,
    source,
    received_at
FROM
(
    SELECT
        org_id,
        workspace_id,
        project_id,
        run_id,
        span_id,
        parent_span_id,
        kind,
        name,
        model,
        provider,
        start_time,
        end_time,
        '' AS kept_parameters,
        temperature,
        attributes,
        attribute_types,
        content_hash,
        inputs,
        outputs,
        error_message,
        source,
        received_at
    FROM span FINAL
    WHERE org_id = {org:UUID} AND content_hash != toFixedString('', 16)
    UNION ALL
    SELECT
        call.org_id,
        call.workspace_id,
        call.project_id,
        call.run_id,
        toUUID('00000000-0000-0000-0000-000000000000') AS span_id,
        whole.parent_run_id AS parent_span_id,
        call.kind,
        call.name,
        call.model,
        call.provider,
        call.start_time,
        greatest(call.end_time, whole.end_time) AS end_time,
        '' AS kept_parameters,
        call.temperature,
        call.attributes,
        call.attribute_types,
        call.content_hash,
        whole.inputs,
        whole.outputs,
        whole.error_message,
        call.source,
        call.received_at
    FROM
    (
        SELECT *
        FROM run
        WHERE org_id = {org:UUID} AND content_hash != toFixedString('', 16)
        ORDER BY received_at DESC, op DESC, op_hash DESC
        LIMIT 1 BY org_id, project_id, run_id
    ) AS call
    INNER JOIN run_of(org = {org:UUID}) AS whole
        ON whole.project_id = call.project_id AND whole.run_id = call.run_id
    UNION ALL
    SELECT
        capture.org_id,
        capture.workspace_id,
        capture.project_id,
        capture.run_id,
        capture.span_id,
        capture.parent_span_id,
        capture.kind,
        capture.name,
        capture.model,
        capture.provider,
        capture.start_time,
        greatest(capture.end_time, called.end_time) AS end_time,
        capture.parameters AS kept_parameters,
        NULL AS temperature,
        map() AS attributes,
        '' AS attribute_types,
        capture.content_hash,
        if(capture.inputs = '', called.inputs, capture.inputs) AS inputs,
        if(capture.outputs = '', called.outputs, capture.outputs) AS outputs,
        if(capture.error_message = '', called.error_message, capture.error_message) AS error_message,
        capture.source,
        capture.received_at
    FROM (SELECT * FROM replay_capture FINAL WHERE org_id = {org:UUID}) AS capture
    LEFT JOIN
    (
        SELECT project_id, run_id, span_id, end_time, inputs, outputs, error_message, content_hash
        FROM span FINAL
        WHERE org_id = {org:UUID}
            AND (project_id, run_id, span_id) IN
            (
                SELECT project_id, run_id, span_id
                FROM replay_capture
                WHERE org_id = {org:UUID}
            )
        UNION ALL
        SELECT
            whole.project_id,
            whole.run_id,
            toUUID('00000000-0000-0000-0000-000000000000') AS span_id,
            whole.end_time,
            whole.inputs,
            whole.outputs,
            whole.error_message,
            call.content_hash
        FROM run_of(org = {org:UUID}) AS whole
        LEFT JOIN
        (
            SELECT project_id, run_id, max(content_hash) AS content_hash
            FROM run
            WHERE org_id = {org:UUID}
            GROUP BY project_id, run_id
        ) AS call
            ON call.project_id = whole.project_id AND call.run_id = whole.run_id
        WHERE (whole.project_id, whole.run_id) IN
        (
            SELECT project_id, run_id
            FROM replay_capture
            WHERE org_id = {org:UUID}
        )
    ) AS called
        ON called.project_id = capture.project_id AND called.run_id = capture.run_id AND called.span_id = capture.span_id
    WHERE called.content_hash = toFixedString('', 16)
);
