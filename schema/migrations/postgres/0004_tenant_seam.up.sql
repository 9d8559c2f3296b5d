-- What deciding about a request needs to know with its key: the limits of the whole org and of its meters, the shard the
-- org was assigned to, and the secret under which the fleet shares what it has verified.

-- === Limits of an org over all of its keys ===

-- Null means four times what one of its keys may send.
ALTER TABLE tenant_plan_override
    ADD COLUMN org_rps integer CONSTRAINT tenant_plan_override_org_rps_check CHECK (org_rps >= -1),
    ADD COLUMN org_burst integer CONSTRAINT tenant_plan_override_org_burst_check CHECK (org_burst >= -1);
GRANT UPDATE (org_rps, org_burst) ON tenant_plan_override TO tracebility_operator;

-- === The deployment ===

-- One row. `cache_key` is what digests of verified secrets in the shared cache are made with, so that whoever can write to
-- that cache cannot make one. Read through find_api_key alone.
CREATE TABLE deployment (
    only_row boolean PRIMARY KEY DEFAULT true CONSTRAINT deployment_only_row_check CHECK (only_row),
    cache_key bytea NOT NULL CONSTRAINT deployment_cache_key_check CHECK (octet_length(cache_key) = 32)
);
-- Twice 122 bits from the operating system.
INSERT INTO deployment (cache_key)
    VALUES (decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'));

-- === The door, wider ===

-- As in 0003_row_level_security, where its workings are explained, with what is new:
--   org_rps, org_burst       limits over all keys of the org
--   meters, monthly_limits   one limit per meter that has one
--   shard                    where the org's envelopes go; null: where its hash says
--   is_moving                whether it is about to go elsewhere, and nothing may be appended meanwhile
DROP FUNCTION find_api_key(text);
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
    org_rps integer,
    org_burst integer,
    eval_slots integer,
    meters text[],
    monthly_limits bigint[],
    shard smallint,
    is_moving boolean,
    cache_key bytea
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
               r.rps, r.burst,
               coalesce(o.org_rps, CASE WHEN r.rps > 0 THEN least(4 * r.rps::bigint, 2147483647)::integer ELSE r.rps END),
               coalesce(o.org_burst,
                        CASE WHEN r.burst > 0 THEN least(4 * r.burst::bigint, 2147483647)::integer ELSE r.burst END),
               coalesce(o.eval_slots, l.eval_slots),
               m.meters, m.monthly_limits,
               (SELECT s.shard FROM public.shard_map s
                 WHERE s.tenant_id = k.tenant_id AND s.drained_at IS NOT NULL ORDER BY s.version DESC LIMIT 1),
               coalesce((SELECT s.drained_at IS NULL FROM public.shard_map s
                          WHERE s.tenant_id = k.tenant_id ORDER BY s.version DESC LIMIT 1), false),
               d.cache_key
          FROM public.api_keys k
          JOIN public.tenants t ON t.id = k.tenant_id
          JOIN public.tenant_projects p ON p.tenant_id = k.tenant_id AND p.id = k.project_id
          JOIN public.workspaces w ON w.tenant_id = p.tenant_id AND w.id = p.workspace_id
          JOIN public.plan l ON l.name = t.plan
          LEFT JOIN public.tenant_plan_override o ON o.tenant_id = k.tenant_id
         CROSS JOIN LATERAL (SELECT coalesce(o.rps, l.rps) AS rps, coalesce(o.burst, l.burst) AS burst) r
         CROSS JOIN LATERAL (
               SELECT coalesce(array_agg(limited.meter::text ORDER BY limited.meter), '{}') AS meters,
                      coalesce(array_agg(limited.monthly_limit ORDER BY limited.meter), '{}') AS monthly_limits
                 FROM (SELECT coalesce(own.meter, pl.meter) AS meter,
                              coalesce(own.monthly_limit, pl.monthly_limit) AS monthly_limit
                         FROM (SELECT x.meter, x.monthly_limit FROM public.plan_meter_limit x WHERE x.plan = t.plan) pl
                         FULL JOIN (SELECT y.meter, y.monthly_limit FROM public.tenant_meter_limit_override y
                                     WHERE y.tenant_id = k.tenant_id) own ON own.meter = pl.meter) limited
               ) m
         CROSS JOIN public.deployment d
         WHERE k.public_id = wanted_public_id;
    PERFORM set_config('app.current_tenant', caller_tenant, true), set_config('app.key_lookup', caller_lookup, true);
END
$$;
REVOKE ALL ON FUNCTION find_api_key(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION find_api_key(text) TO tracebility_app, tracebility_operator;

-- === The org of a deployment that has only one ===

-- Makes the org that a self-hosted deployment starts with, and its first project, where they are missing. Their ids are
-- the same everywhere, so that a key from the settings can name them without asking. A service may not create orgs; this
-- one it may ask for.
CREATE FUNCTION ensure_default_org() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    caller_tenant text := coalesce(current_setting('app.current_tenant', true), '');
    org CONSTANT uuid := '00000000-0000-4000-8000-000000000001';
    workspace CONSTANT uuid := '00000000-0000-4000-8000-000000000002';
    project CONSTANT uuid := '00000000-0000-4000-8000-000000000003';
BEGIN
    PERFORM set_config('app.current_tenant', org::text, true);
    INSERT INTO public.tenants (id, slug, name, status, plan)
        VALUES (org, 'self-hosted', 'Self-hosted', 'active', 'self_hosted') ON CONFLICT (id) DO NOTHING;
    -- A trigger has just made it under another id, and nothing is in it yet.
    UPDATE public.workspaces w SET id = workspace
     WHERE w.tenant_id = org AND w.slug = 'main' AND w.id <> workspace;
    INSERT INTO public.tenant_projects (id, tenant_id, workspace_id, slug, name)
        VALUES (project, org, workspace, 'default', 'Default') ON CONFLICT (id) DO NOTHING;
    PERFORM set_config('app.current_tenant', caller_tenant, true);
END
$$;
REVOKE ALL ON FUNCTION ensure_default_org() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ensure_default_org() TO tracebility_app;

-- === The shard map, for those who plan with it ===

-- Which org is in which shard is part of the directory: ids and numbers, no secrets, read over all orgs and written in one
-- org's session.
CREATE POLICY directory ON shard_map FOR SELECT TO tracebility_operator USING (true);
