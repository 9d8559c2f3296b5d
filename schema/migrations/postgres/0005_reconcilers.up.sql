-- What the reconcilers need: to remember what an org was told about its limits, and doors to what no org's session
-- can see: who there is, and what of the outbox is still to be copied.

-- === Told once ===

-- An org is told when it is close to a limit, and when it has reached it: once per period and meter, and again after the
-- limit was raised. So the limit that it was told about is kept with the time.
ALTER TABLE quota_period
    ADD COLUMN warned_limit bigint CONSTRAINT quota_period_warned_limit_check CHECK (warned_limit >= 0),
    ADD COLUMN reached_at timestamptz,
    ADD COLUMN reached_limit bigint CONSTRAINT quota_period_reached_limit_check CHECK (reached_limit >= 0),
    ADD CONSTRAINT quota_period_reached_check CHECK ((reached_at IS NULL) = (reached_limit IS NULL));
GRANT UPDATE (warned_limit, reached_at, reached_limit) ON quota_period TO tracebility_app;

-- === Doors ===

-- Each is a function that runs as the owner. The owner is bound by the policies like everybody; it sees and changes more
-- only while a setting is there that the function itself makes, and only as these policies say. For any other role the
-- settings mean nothing. As in find_api_key, they are put back by hand.
CREATE POLICY org_list ON tenants FOR SELECT TO CURRENT_USER
    USING (current_setting('app.org_list', true) = 'open');
CREATE POLICY outbox_read ON audit_outbox FOR SELECT TO CURRENT_USER
    USING (current_setting('app.outbox', true) = 'open');
CREATE POLICY outbox_publish ON audit_outbox FOR UPDATE TO CURRENT_USER
    USING (current_setting('app.outbox', true) = 'open') WITH CHECK (current_setting('app.outbox', true) = 'open');
CREATE POLICY outbox_of_no_org ON audit_outbox FOR INSERT TO CURRENT_USER
    WITH CHECK (tenant_id IS NULL AND current_setting('app.outbox', true) = 'open');

-- The ids of orgs, in order, after one of them: nothing but ids. Archived orgs are among them, because what they used until
-- then is still summed up.
CREATE FUNCTION org_ids(after_id uuid, row_limit integer) RETURNS TABLE (id uuid)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    caller_list text := coalesce(current_setting('app.org_list', true), '');
BEGIN
    PERFORM set_config('app.org_list', 'open', true);
    RETURN QUERY
        SELECT t.id FROM public.tenants t WHERE after_id IS NULL OR t.id > after_id
         ORDER BY t.id LIMIT least(greatest(row_limit, 0), 1000);
    PERFORM set_config('app.org_list', caller_list, true);
END
$$;

-- Events of the outbox in the order of their ids, after one of them: those that are not copied yet, or, with `is_all`, all
-- that are older than `before`.
CREATE FUNCTION outbox_events(after_id bigint, before timestamptz, is_all boolean, row_limit integer) RETURNS TABLE (
    id bigint,
    event_id uuid,
    tenant_ref text,
    event_type text,
    actor text,
    target text,
    detail jsonb,
    created_at timestamptz
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    caller_outbox text := coalesce(current_setting('app.outbox', true), '');
    rows_max CONSTANT integer := least(greatest(row_limit, 0), 1000);
BEGIN
    PERFORM set_config('app.outbox', 'open', true);
    -- Two queries, so that the first can use the index of what is not copied.
    IF is_all THEN
        RETURN QUERY
            SELECT o.id, o.event_id, o.tenant_ref, o.event_type, o.actor, o.target, o.detail, o.created_at
              FROM public.audit_outbox o WHERE o.id > after_id AND o.created_at < before ORDER BY o.id LIMIT rows_max;
    ELSE
        RETURN QUERY
            SELECT o.id, o.event_id, o.tenant_ref, o.event_type, o.actor, o.target, o.detail, o.created_at
              FROM public.audit_outbox o
             WHERE o.id > after_id AND o.published_at IS NULL AND o.created_at < before ORDER BY o.id LIMIT rows_max;
    END IF;
    PERFORM set_config('app.outbox', caller_outbox, true);
END
$$;

-- Notes that events were copied, and says of how many that was not known. It can change nothing else of them.
CREATE FUNCTION mark_published(ids bigint[]) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    caller_outbox text := coalesce(current_setting('app.outbox', true), '');
    marked bigint;
BEGIN
    PERFORM set_config('app.outbox', 'open', true);
    UPDATE public.audit_outbox o SET published_at = now() WHERE o.id = ANY (ids) AND o.published_at IS NULL;
    GET DIAGNOSTICS marked = ROW_COUNT;
    PERFORM set_config('app.outbox', caller_outbox, true);
    RETURN marked;
END
$$;

-- Writes an event that is no org's: a switch that was flipped, a login that nobody knows. Repeating it changes nothing.
CREATE FUNCTION record_event_of_no_org(
    new_event_id uuid, new_event_type text, new_actor text, new_target text, new_detail jsonb, new_created_at timestamptz
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    caller_outbox text := coalesce(current_setting('app.outbox', true), '');
BEGIN
    PERFORM set_config('app.outbox', 'open', true);
    INSERT INTO public.audit_outbox (event_id, event_type, actor, target, detail, created_at)
        VALUES (new_event_id, new_event_type, new_actor, new_target, new_detail, new_created_at)
        ON CONFLICT (event_id) DO NOTHING;
    PERFORM set_config('app.outbox', caller_outbox, true);
END
$$;

REVOKE ALL ON FUNCTION org_ids(uuid, integer), outbox_events(bigint, timestamptz, boolean, integer),
    mark_published(bigint[]), record_event_of_no_org(uuid, text, text, text, jsonb, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION org_ids(uuid, integer), outbox_events(bigint, timestamptz, boolean, integer),
    mark_published(bigint[]), record_event_of_no_org(uuid, text, text, text, jsonb, timestamptz) TO tracebility_app;
