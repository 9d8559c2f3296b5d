-- One org cannot see or change another's rows, whatever a query says.
--
-- A transaction is bound to an org with `set_config('app.current_tenant', '<org id>', true)`. A row is visible, and may
-- be written, when it is that org's. Without the setting nothing is visible and nothing can be written. FORCE binds the
-- owner of the tables as well. Foreign keys are checked and cascade past the policies, as Postgres always does.

-- People who create orgs and keys log in as a role of their own. Like the services', it owns nothing.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tracebility_operator') THEN
        RAISE EXCEPTION 'role "tracebility_operator" does not exist; create it as a superuser, then run migrate again: CREATE ROLE tracebility_operator LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS PASSWORD ''<choose one>'';';
    END IF;
END
$$;

-- === Each org by itself ===

ALTER TABLE tenants ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY own_org ON tenants
    USING (id = nullif(current_setting('app.current_tenant', true), '')::uuid)
    WITH CHECK (id = nullif(current_setting('app.current_tenant', true), '')::uuid);

ALTER TABLE tenant_projects ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY own_org ON tenant_projects
    USING (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid)
    WITH CHECK (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid);

ALTER TABLE tenant_products ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY own_org ON tenant_products
    USING (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid)
    WITH CHECK (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid);

ALTER TABLE tenant_idp_config ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY own_org ON tenant_idp_config
    USING (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid)
    WITH CHECK (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid);

ALTER TABLE api_keys ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY own_org ON api_keys
    USING (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid)
    WITH CHECK (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid);

ALTER TABLE audit_log ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY own_org ON audit_log
    USING (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid)
    WITH CHECK (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid);

ALTER TABLE tenant_plan_override ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY own_org ON tenant_plan_override
    USING (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid)
    WITH CHECK (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid);

ALTER TABLE tenant_meter_limit_override ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY own_org ON tenant_meter_limit_override
    USING (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid)
    WITH CHECK (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid);

ALTER TABLE quota_period ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY own_org ON quota_period
    USING (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid)
    WITH CHECK (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid);

ALTER TABLE workspaces ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY own_org ON workspaces
    USING (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid)
    WITH CHECK (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid);

ALTER TABLE memberships ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY own_org ON memberships
    USING (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid)
    WITH CHECK (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid);

ALTER TABLE workspace_selection ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY own_org ON workspace_selection
    USING (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid)
    WITH CHECK (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid);

ALTER TABLE shard_map ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY own_org ON shard_map
    USING (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid)
    WITH CHECK (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid);

ALTER TABLE audit_outbox ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY own_org ON audit_outbox
    USING (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid)
    WITH CHECK (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid);

-- === The directory ===

-- An operator finds an org by its slug, and ClickHouse, with the operator's role, the org of a project. These three
-- tables hold names and no secrets. They are read across orgs, and written like everything else: in one org's session.
CREATE POLICY directory ON tenants FOR SELECT TO tracebility_operator USING (true);
CREATE POLICY directory ON workspaces FOR SELECT TO tracebility_operator USING (true);
CREATE POLICY directory ON tenant_projects FOR SELECT TO tracebility_operator USING (true);

-- By default a view reads with its owner's rights, and so past the policies that bind the one who asks.
ALTER VIEW project_tenant_view SET (security_invoker = true);

-- === The one door before an org is known ===

-- A request comes with a key, and whose it is must be looked up before there is an org to bind to. For that the owner,
-- and nobody else, sees the one key that `app.key_lookup` names; for any other role the setting means nothing.
CREATE POLICY key_lookup ON api_keys FOR SELECT TO CURRENT_USER
    USING (public_id = nullif(current_setting('app.key_lookup', true), ''));

-- The key of a public id, with its org, workspace and project, where they stand, and the plan with the org's own limits
-- merged in; no row when there is no such key. Runs as the owner, bound like everybody: first to the key, then to its
-- org. Both settings are as before when it returns. (They are put back by hand: a function's SET clause would do it, but
-- takes a superuser for settings that no extension declares. After an error, the end of the transaction or savepoint
-- puts them back.)
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

-- === What operators may do ===

-- Everything is kept except for limits and memberships, which can be taken back. What an org, a workspace or a project
-- is called in a URL, and whose it is, never changes.
GRANT SELECT, INSERT ON tenants, workspaces, tenant_projects, tenant_products, tenant_idp_config TO tracebility_operator;
GRANT UPDATE (name, status, frozen_from, kind, plan, retention_days, trial_ends_at, erp_id, stripe_id,
              contract_starts_on, contract_ends_on, sales_owner)
    ON tenants TO tracebility_operator;
GRANT UPDATE (name, status) ON workspaces, tenant_projects TO tracebility_operator;
GRANT UPDATE (enabled, config) ON tenant_products TO tracebility_operator;
GRANT UPDATE (kind, enabled, config) ON tenant_idp_config TO tracebility_operator;
GRANT SELECT, INSERT, UPDATE (revoked_at, expires_at, rotated_at) ON api_keys TO tracebility_operator;
GRANT SELECT, INSERT, UPDATE (rps, burst, eval_slots) ON plan TO tracebility_operator;
GRANT SELECT, INSERT, UPDATE (monthly_limit), DELETE ON plan_meter_limit TO tracebility_operator;
GRANT SELECT, INSERT, UPDATE (rps, burst, eval_slots), DELETE ON tenant_plan_override TO tracebility_operator;
GRANT SELECT, INSERT, UPDATE (monthly_limit), DELETE ON tenant_meter_limit_override TO tracebility_operator;
GRANT SELECT, INSERT, UPDATE (role), DELETE ON memberships TO tracebility_operator;
GRANT SELECT, INSERT, UPDATE (drained_at) ON shard_map TO tracebility_operator;
GRANT SELECT, INSERT, UPDATE (enabled, updated_by) ON runtime_flag TO tracebility_operator;
GRANT SELECT, INSERT ON audit_outbox TO tracebility_operator;
GRANT SELECT ON quota_period, workspace_selection, audit_log, project_tenant_view TO tracebility_operator;
