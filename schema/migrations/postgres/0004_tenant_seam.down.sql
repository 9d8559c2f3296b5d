DROP POLICY directory ON shard_map;
DROP FUNCTION ensure_default_org();
DROP FUNCTION find_api_key(text);
-- As 0003_row_level_security made it.
CREATE FUNCTION find_api_key(wanted_public_id text) RETURNS TABLE (
    id uuid,
    tenant_id uuid,
    workspace_id uuid,
    project_id uuid,
    key_hash text,
    scopes text[],
    expires_at timestamptz,
    revoked_at timestamptz,
    tenant_status tenant_status,
    workspace_status tenant_project_status,
    project_status tenant_project_status,
    plan text,
    rps integer,
    burst integer,
    eval_slots integer
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    caller_tenant text := coalesce(current_setting('app.current_tenant', true), '');
    caller_lookup text := coalesce(current_setting('app.key_lookup', true), '');
    owning_tenant uuid;
BEGIN
    PERFORM set_config('app.current_tenant', '', true), set_config('app.key_lookup', wanted_public_id, true);
    SELECT k.tenant_id INTO owning_tenant FROM public.api_keys k WHERE k.public_id = wanted_public_id;
    PERFORM set_config('app.key_lookup', '', true),
            set_config('app.current_tenant', coalesce(owning_tenant::text, ''), true);
    RETURN QUERY
        SELECT k.id, k.tenant_id, p.workspace_id, k.project_id, k.key_hash, k.scopes, k.expires_at, k.revoked_at,
               t.status, w.status, p.status, t.plan,
               coalesce(o.rps, l.rps), coalesce(o.burst, l.burst), coalesce(o.eval_slots, l.eval_slots)
          FROM public.api_keys k
          JOIN public.tenants t ON t.id = k.tenant_id
          JOIN public.tenant_projects p ON p.tenant_id = k.tenant_id AND p.id = k.project_id
          JOIN public.workspaces w ON w.tenant_id = p.tenant_id AND w.id = p.workspace_id
          JOIN public.plan l ON l.name = t.plan
          LEFT JOIN public.tenant_plan_override o ON o.tenant_id = k.tenant_id
         WHERE k.public_id = wanted_public_id;
    PERFORM set_config('app.current_tenant', caller_tenant, true), set_config('app.key_lookup', caller_lookup, true);
END
$$;
REVOKE ALL ON FUNCTION find_api_key(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION find_api_key(text) TO tracebility_app, tracebility_operator;
DROP TABLE deployment;
ALTER TABLE tenant_plan_override DROP COLUMN org_burst, DROP COLUMN org_rps;
