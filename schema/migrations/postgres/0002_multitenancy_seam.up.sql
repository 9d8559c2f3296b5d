-- What the ingest path needs of an org: workspaces, plans with their limits, usage per month, the shard map, runtime
-- flags, the audit outbox, and who may enter which workspace.
--
-- A limit of -1 is unlimited and 0 forbids; anything below is refused.

-- === Plans and limits ===

CREATE DOMAIN meter AS text CONSTRAINT meter_check CHECK (
    VALUE IN ('span_ingested', 'span_bytes', 'eval_judge_call', 'eval_judge_tokens', 'replay_run')
);
-- A calendar month in UTC, YYYYMM.
CREATE DOMAIN period AS integer CONSTRAINT period_check CHECK (
    VALUE BETWEEN 200001 AND 999912 AND VALUE % 100 BETWEEN 1 AND 12
);

CREATE TABLE plan (
    name text PRIMARY KEY CONSTRAINT plan_name_check CHECK (name ~ '^[a-z][a-z0-9_]{0,62}$'),
    -- Requests per second that a key may sustain, and may send at once.
    rps integer NOT NULL CONSTRAINT plan_rps_check CHECK (rps >= -1),
    burst integer NOT NULL CONSTRAINT plan_burst_check CHECK (burst >= -1),
    -- Evaluations that an org may run at the same time.
    eval_slots integer NOT NULL CONSTRAINT plan_eval_slots_check CHECK (eval_slots >= -1)
);
INSERT INTO plan (name, rps, burst, eval_slots) VALUES
    ('free', 50, 200, 2),
    ('pro', 500, 2000, 16),
    ('enterprise', 5000, 20000, 64),
    ('self_hosted', 50000, 200000, 64);

-- Limits per month. A meter that a plan has no row for is counted and not limited.
CREATE TABLE plan_meter_limit (
    plan text NOT NULL CONSTRAINT plan_meter_limit_plan_fkey REFERENCES plan (name) ON UPDATE CASCADE ON DELETE CASCADE,
    meter meter NOT NULL,
    monthly_limit bigint NOT NULL CONSTRAINT plan_meter_limit_monthly_limit_check CHECK (monthly_limit >= -1),
    PRIMARY KEY (plan, meter)
);
INSERT INTO plan_meter_limit (plan, meter, monthly_limit) VALUES
    ('free', 'span_ingested', 1000000),
    ('free', 'span_bytes', 5368709120), -- 5 GiB
    ('free', 'eval_judge_call', 10000),
    ('pro', 'span_ingested', 50000000),
    ('pro', 'span_bytes', 268435456000), -- 250 GiB
    ('pro', 'eval_judge_call', 500000),
    ('enterprise', 'span_ingested', -1),
    ('enterprise', 'span_bytes', -1),
    ('enterprise', 'eval_judge_call', -1),
    ('self_hosted', 'span_ingested', -1),
    ('self_hosted', 'span_bytes', -1),
    ('self_hosted', 'eval_judge_call', -1);

ALTER TABLE tenants
    ADD COLUMN retention_days integer NOT NULL DEFAULT 90
        CONSTRAINT tenants_retention_days_check CHECK (retention_days BETWEEN 1 AND 3650),
    ADD CONSTRAINT tenants_plan_fkey FOREIGN KEY (plan) REFERENCES plan (name) ON UPDATE CASCADE;

-- An org's own limits, merged field by field over its plan's: null means as in the plan.
CREATE TABLE tenant_plan_override (
    tenant_id uuid PRIMARY KEY CONSTRAINT tenant_plan_override_tenant_id_fkey REFERENCES tenants (id) ON DELETE CASCADE,
    rps integer CONSTRAINT tenant_plan_override_rps_check CHECK (rps >= -1),
    burst integer CONSTRAINT tenant_plan_override_burst_check CHECK (burst >= -1),
    eval_slots integer CONSTRAINT tenant_plan_override_eval_slots_check CHECK (eval_slots >= -1),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER tenant_plan_override_updated_at BEFORE UPDATE ON tenant_plan_override
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

CREATE TABLE tenant_meter_limit_override (
    tenant_id uuid NOT NULL
        CONSTRAINT tenant_meter_limit_override_tenant_id_fkey REFERENCES tenants (id) ON DELETE CASCADE,
    meter meter NOT NULL,
    monthly_limit bigint NOT NULL
        CONSTRAINT tenant_meter_limit_override_monthly_limit_check CHECK (monthly_limit >= -1),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, meter)
);
CREATE TRIGGER tenant_meter_limit_override_updated_at BEFORE UPDATE ON tenant_meter_limit_override
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

-- What an org used of a meter in a month, as last summed up by the reconciler.
CREATE TABLE quota_period (
    tenant_id uuid NOT NULL CONSTRAINT quota_period_tenant_id_fkey REFERENCES tenants (id) ON DELETE CASCADE,
    period period NOT NULL,
    meter meter NOT NULL,
    used bigint NOT NULL DEFAULT 0 CONSTRAINT quota_period_used_check CHECK (used >= 0),
    -- Usage that was received up to here is in `used`.
    watermark timestamptz,
    -- When the org was told that it is close to its limit; told once.
    warned_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, period, meter)
);
CREATE TRIGGER quota_period_updated_at BEFORE UPDATE ON quota_period
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

-- === Workspaces ===

CREATE TABLE workspaces (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id uuid NOT NULL CONSTRAINT workspaces_tenant_id_fkey REFERENCES tenants (id) ON DELETE CASCADE,
    slug text NOT NULL CONSTRAINT workspaces_slug_check CHECK (slug ~ '^[a-z0-9][a-z0-9-]{1,38}[a-z0-9]$'),
    name text NOT NULL CONSTRAINT workspaces_name_check CHECK (char_length(btrim(name)) BETWEEN 1 AND 200),
    status tenant_project_status NOT NULL DEFAULT 'active',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT workspaces_tenant_id_slug_key UNIQUE (tenant_id, slug),
    CONSTRAINT workspaces_tenant_id_id_key UNIQUE (tenant_id, id)
);
CREATE TRIGGER workspaces_updated_at BEFORE UPDATE ON workspaces FOR EACH ROW EXECUTE FUNCTION set_updated_at();

-- Every org has the workspace `main`: those that exist get it here, later ones by trigger, so that no way of making an
-- org can forget it.
INSERT INTO workspaces (tenant_id, slug, name) SELECT id, 'main', 'Main' FROM tenants;

CREATE FUNCTION create_main_workspace() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- Named in full: it also runs inside functions whose search path leads elsewhere.
    INSERT INTO public.workspaces (tenant_id, slug, name) VALUES (NEW.id, 'main', 'Main');
    RETURN NULL;
END
$$;
CREATE TRIGGER tenants_main_workspace AFTER INSERT ON tenants FOR EACH ROW EXECUTE FUNCTION create_main_workspace();

-- A project is in a workspace of its own org.
ALTER TABLE tenant_projects ADD COLUMN workspace_id uuid;
UPDATE tenant_projects p SET workspace_id = w.id FROM workspaces w WHERE w.tenant_id = p.tenant_id AND w.slug = 'main';
ALTER TABLE tenant_projects
    ALTER COLUMN workspace_id SET NOT NULL,
    ADD CONSTRAINT tenant_projects_workspace_fkey FOREIGN KEY (tenant_id, workspace_id)
        REFERENCES workspaces (tenant_id, id) ON DELETE CASCADE;
CREATE INDEX tenant_projects_workspace_idx ON tenant_projects (workspace_id);

-- A key is for one project of its own org. Keys from before get their org's oldest project, and a first project is made
-- for an org that has keys and none.
ALTER TABLE api_keys
    ADD COLUMN project_id uuid,
    ADD COLUMN expires_at timestamptz CONSTRAINT api_keys_expires_at_check CHECK (expires_at > created_at),
    -- When another key took its place; until `expires_at` both work.
    ADD COLUMN rotated_at timestamptz
        CONSTRAINT api_keys_rotated_at_check
            CHECK (rotated_at IS NULL OR revoked_at IS NOT NULL OR expires_at IS NOT NULL);
INSERT INTO tenant_projects (tenant_id, workspace_id, slug, name)
    SELECT w.tenant_id, w.id, 'default', 'Default'
      FROM workspaces w
     WHERE w.slug = 'main'
       AND EXISTS (SELECT FROM api_keys k WHERE k.tenant_id = w.tenant_id)
       AND NOT EXISTS (SELECT FROM tenant_projects p WHERE p.tenant_id = w.tenant_id);
UPDATE api_keys k SET project_id = (
    SELECT p.id FROM tenant_projects p WHERE p.tenant_id = k.tenant_id ORDER BY p.created_at, p.id LIMIT 1
);
ALTER TABLE api_keys
    ALTER COLUMN project_id SET NOT NULL,
    ADD CONSTRAINT api_keys_project_fkey FOREIGN KEY (tenant_id, project_id)
        REFERENCES tenant_projects (tenant_id, id) ON DELETE CASCADE;
CREATE INDEX api_keys_project_idx ON api_keys (tenant_id, project_id);

CREATE VIEW project_tenant_view AS
    SELECT id AS project_id, workspace_id, tenant_id AS org_id FROM tenant_projects;

-- === People ===

-- `user_id` is the subject that the org's identity provider knows the person by.
CREATE TABLE memberships (
    tenant_id uuid NOT NULL CONSTRAINT memberships_tenant_id_fkey REFERENCES tenants (id) ON DELETE CASCADE,
    workspace_id uuid NOT NULL,
    user_id text NOT NULL CONSTRAINT memberships_user_id_check CHECK (user_id <> ''),
    role text NOT NULL DEFAULT 'member'
        CONSTRAINT memberships_role_check CHECK (role IN ('owner', 'admin', 'member', 'viewer')),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, workspace_id, user_id),
    CONSTRAINT memberships_workspace_fkey FOREIGN KEY (tenant_id, workspace_id)
        REFERENCES workspaces (tenant_id, id) ON DELETE CASCADE
);
CREATE INDEX memberships_user_idx ON memberships (user_id);

-- The workspace a person works in at present: one per org, and only one that they are a member of.
CREATE TABLE workspace_selection (
    tenant_id uuid NOT NULL CONSTRAINT workspace_selection_tenant_id_fkey REFERENCES tenants (id) ON DELETE CASCADE,
    user_id text NOT NULL,
    workspace_id uuid NOT NULL,
    selected_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, user_id),
    CONSTRAINT workspace_selection_membership_fkey FOREIGN KEY (tenant_id, workspace_id, user_id)
        REFERENCES memberships (tenant_id, workspace_id, user_id) ON DELETE CASCADE
);

-- === Operation ===

-- Orgs that do not go where their hash says. Append-only: the newest row of an org holds, and a null shard gives it back
-- to the hash. The newest version of all is the map's version.
CREATE TABLE shard_map (
    version bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id uuid NOT NULL CONSTRAINT shard_map_tenant_id_fkey REFERENCES tenants (id) ON DELETE CASCADE,
    shard smallint CONSTRAINT shard_map_shard_check CHECK (shard BETWEEN 0 AND 15),
    -- When the shard that the org comes from was seen drained; until then the org stays where it was.
    drained_at timestamptz,
    created_by text NOT NULL CONSTRAINT shard_map_created_by_check CHECK (created_by <> ''),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX shard_map_tenant_idx ON shard_map (tenant_id, version DESC);

-- Switches that are flipped while the services run. A flag without a row is as its setting at start says.
CREATE TABLE runtime_flag (
    name text PRIMARY KEY CONSTRAINT runtime_flag_name_check CHECK (name ~ '^[a-z][a-z0-9_]{0,62}$'),
    enabled boolean NOT NULL,
    updated_by text NOT NULL CONSTRAINT runtime_flag_updated_by_check CHECK (updated_by <> ''),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER runtime_flag_updated_at BEFORE UPDATE ON runtime_flag
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

-- Every change to the registry, written in the transaction that makes it, and copied from here to the audit log.
CREATE TABLE audit_outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id uuid NOT NULL DEFAULT gen_random_uuid() CONSTRAINT audit_outbox_event_id_key UNIQUE,
    tenant_id uuid CONSTRAINT audit_outbox_tenant_id_fkey REFERENCES tenants (id) ON DELETE SET NULL,
    tenant_ref text,
    event_type text NOT NULL CONSTRAINT audit_outbox_event_type_check CHECK (event_type <> ''),
    actor text NOT NULL CONSTRAINT audit_outbox_actor_check CHECK (actor <> ''),
    target text,
    detail jsonb NOT NULL DEFAULT '{}' CONSTRAINT audit_outbox_detail_check CHECK (jsonb_typeof(detail) = 'object'),
    created_at timestamptz NOT NULL DEFAULT now(),
    published_at timestamptz,
    CONSTRAINT audit_outbox_tenant_ref_check CHECK (tenant_id IS NULL OR tenant_ref = tenant_id::text)
);
CREATE INDEX audit_outbox_unpublished_idx ON audit_outbox (id) WHERE published_at IS NULL;
CREATE INDEX audit_outbox_tenant_idx ON audit_outbox (tenant_id, created_at DESC);
CREATE TRIGGER audit_outbox_tenant_ref BEFORE INSERT ON audit_outbox FOR EACH ROW EXECUTE FUNCTION keep_tenant_ref();

-- === What services may do ===

GRANT SELECT
    ON plan, plan_meter_limit, tenant_plan_override, tenant_meter_limit_override, workspaces, project_tenant_view
    TO tracebility_app;
GRANT UPDATE (expires_at, rotated_at) ON api_keys TO tracebility_app;
GRANT SELECT, INSERT, UPDATE (used, watermark, warned_at) ON quota_period TO tracebility_app;
GRANT SELECT, INSERT, UPDATE (role), DELETE ON memberships TO tracebility_app;
GRANT SELECT, INSERT, UPDATE (workspace_id, selected_at), DELETE ON workspace_selection TO tracebility_app;
GRANT SELECT, UPDATE (drained_at) ON shard_map TO tracebility_app;
GRANT SELECT, INSERT, UPDATE (enabled, updated_by) ON runtime_flag TO tracebility_app;
GRANT SELECT, INSERT, UPDATE (published_at) ON audit_outbox TO tracebility_app;
