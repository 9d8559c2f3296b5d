-- Envelopes that were written before tenancy name their project and nothing else. Whose it is must be looked up before there
-- is an org to bind to, as with a key; and so is where the org's envelopes go.

-- For that the owner, and nobody else, sees the one project that `app.project_lookup` names; for any other role the setting
-- means nothing.
CREATE POLICY project_lookup ON tenant_projects FOR SELECT TO CURRENT_USER
    USING (id = nullif(current_setting('app.project_lookup', true), '')::uuid);

-- The org and the workspace of a project, and where the org's envelopes go, as in find_api_key; no row when there is no such
-- project. Runs as the owner, bound like everybody: first to the project, then to its org. Both settings are as before when
-- it returns.
CREATE FUNCTION find_project(wanted_project_id uuid) RETURNS TABLE (
    tenant_id uuid,
    workspace_id uuid,
    shard smallint
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    caller_tenant text := coalesce(current_setting('app.current_tenant', true), '');
    caller_lookup text := coalesce(current_setting('app.project_lookup', true), '');
    owning_tenant uuid;
BEGIN
    PERFORM set_config('app.current_tenant', '', true),
            set_config('app.project_lookup', coalesce(wanted_project_id::text, ''), true);
    SELECT p.tenant_id INTO owning_tenant FROM public.tenant_projects p WHERE p.id = wanted_project_id;
    PERFORM set_config('app.project_lookup', '', true),
            set_config('app.current_tenant', coalesce(owning_tenant::text, ''), true);
    RETURN QUERY
        SELECT p.tenant_id, p.workspace_id,
               (SELECT s.shard FROM public.shard_map s
                 WHERE s.tenant_id = p.tenant_id AND s.drained_at IS NOT NULL ORDER BY s.version DESC LIMIT 1)
          FROM public.tenant_projects p WHERE p.id = wanted_project_id;
    PERFORM set_config('app.current_tenant', caller_tenant, true), set_config('app.project_lookup', caller_lookup, true);
END
$$;
REVOKE ALL ON FUNCTION find_project(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION find_project(uuid) TO tracebility_app;
