-- The registry: orgs ("tenants"), their projects, products, identity providers and API keys, and the audit log.
--
-- Rows that an org owns go with it (CASCADE); its audit log stays, with the org's id kept as text.

-- Services log in as a role that owns nothing. It is made outside of the migrations, because its password is no
-- migration's business.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tracebility_app') THEN
        RAISE EXCEPTION 'role "tracebility_app" does not exist; create it as a superuser, then run migrate again: CREATE ROLE tracebility_app LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS PASSWORD ''<choose one>'';';
    END IF;
END
$$;

CREATE TYPE tenant_status AS ENUM ('demo', 'trial', 'active', 'frozen', 'archived');
CREATE TYPE tenant_kind AS ENUM ('customer', 'demo');
CREATE TYPE idp_kind AS ENUM ('oidc', 'saml');
CREATE TYPE tenant_project_status AS ENUM ('active', 'archived');

CREATE FUNCTION set_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END
$$;

CREATE TABLE tenants (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    slug text NOT NULL CONSTRAINT tenants_slug_key UNIQUE
        CONSTRAINT tenants_slug_check CHECK (slug ~ '^[a-z0-9][a-z0-9-]{1,38}[a-z0-9]$')
        -- Paths and host names of ours, and words that mean nobody or everybody. `tenant::registry` has the same list.
        CONSTRAINT tenants_slug_reserved_check CHECK (slug NOT IN (
            'account', 'accounts', 'admin', 'all', 'anonymous', 'any', 'api', 'app', 'assets', 'auth', 'billing',
            'console', 'dashboard', 'default', 'docs', 'everyone', 'global', 'guest', 'health', 'healthz', 'help',
            'info', 'ingest', 'internal', 'login', 'logout', 'metrics', 'new', 'nobody', 'none', 'null', 'oauth',
            'operator', 'otlp', 'owner', 'public', 'readyz', 'root', 'self', 'settings', 'shared', 'signin',
            'signup', 'sso', 'static', 'status', 'support', 'system', 'tracebility', 'undefined', 'unknown', 'www'
        )),
    name text NOT NULL CONSTRAINT tenants_name_check CHECK (char_length(btrim(name)) BETWEEN 1 AND 200),
    status tenant_status NOT NULL DEFAULT 'trial',
    -- The status from before it was frozen, so that it can be thawed.
    frozen_from tenant_status,
    kind tenant_kind NOT NULL DEFAULT 'customer',
    plan text NOT NULL DEFAULT 'free',
    erp_id text CONSTRAINT tenants_erp_id_key UNIQUE,
    stripe_id text CONSTRAINT tenants_stripe_id_key UNIQUE,
    trial_ends_at timestamptz,
    contract_starts_on date,
    contract_ends_on date,
    sales_owner text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT tenants_frozen_from_check CHECK (
        (status = 'frozen') = (frozen_from IS NOT NULL) AND frozen_from IN ('demo', 'trial', 'active')
    ),
    CONSTRAINT tenants_contract_check CHECK (contract_ends_on >= contract_starts_on)
);
CREATE INDEX tenants_status_idx ON tenants (status);
CREATE TRIGGER tenants_updated_at BEFORE UPDATE ON tenants FOR EACH ROW EXECUTE FUNCTION set_updated_at();

CREATE TABLE tenant_projects (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id uuid NOT NULL CONSTRAINT tenant_projects_tenant_id_fkey REFERENCES tenants (id) ON DELETE CASCADE,
    slug text NOT NULL CONSTRAINT tenant_projects_slug_check CHECK (slug ~ '^[a-z0-9][a-z0-9-]{1,38}[a-z0-9]$'),
    name text NOT NULL CONSTRAINT tenant_projects_name_check CHECK (char_length(btrim(name)) BETWEEN 1 AND 200),
    status tenant_project_status NOT NULL DEFAULT 'active',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT tenant_projects_tenant_id_slug_key UNIQUE (tenant_id, slug),
    -- What refers to a project refers to its org with it, so the two can never disagree.
    CONSTRAINT tenant_projects_tenant_id_id_key UNIQUE (tenant_id, id)
);
CREATE TRIGGER tenant_projects_updated_at BEFORE UPDATE ON tenant_projects
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

CREATE TABLE tenant_products (
    tenant_id uuid NOT NULL CONSTRAINT tenant_products_tenant_id_fkey REFERENCES tenants (id) ON DELETE CASCADE,
    product text NOT NULL CONSTRAINT tenant_products_product_check CHECK (product ~ '^[a-z][a-z0-9_]{0,62}$'),
    enabled boolean NOT NULL DEFAULT true,
    config jsonb NOT NULL DEFAULT '{}'
        CONSTRAINT tenant_products_config_check
            CHECK (jsonb_typeof(config) = 'object' AND octet_length(config::text) <= 65536),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, product)
);
CREATE TRIGGER tenant_products_updated_at BEFORE UPDATE ON tenant_products
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

CREATE TABLE tenant_idp_config (
    tenant_id uuid PRIMARY KEY CONSTRAINT tenant_idp_config_tenant_id_fkey REFERENCES tenants (id) ON DELETE CASCADE,
    kind idp_kind NOT NULL,
    enabled boolean NOT NULL DEFAULT true,
    config jsonb NOT NULL DEFAULT '{}'
        CONSTRAINT tenant_idp_config_config_check
            CHECK (jsonb_typeof(config) = 'object' AND octet_length(config::text) <= 65536),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER tenant_idp_config_updated_at BEFORE UPDATE ON tenant_idp_config
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

CREATE FUNCTION are_scopes(texts text[]) RETURNS boolean LANGUAGE sql IMMUTABLE
    RETURN cardinality(texts) <= 32
       AND NOT EXISTS (SELECT FROM unnest(texts) AS t WHERE t IS NULL OR t !~ '^[a-z_.]+:([a-z_.]+|\*)$');

-- An API key is `tb_<public_id>.<secret>`. Only an argon2 hash of the secret is kept; `prefix` and `last_four` are what a
-- list shows.
CREATE TABLE api_keys (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id uuid NOT NULL CONSTRAINT api_keys_tenant_id_fkey REFERENCES tenants (id) ON DELETE CASCADE,
    public_id text NOT NULL CONSTRAINT api_keys_public_id_key UNIQUE
        CONSTRAINT api_keys_public_id_check CHECK (public_id ~ '^[a-z0-9]{8,64}$'),
    key_hash text NOT NULL CONSTRAINT api_keys_key_hash_check CHECK (key_hash LIKE '$argon2%'),
    prefix text NOT NULL CONSTRAINT api_keys_prefix_check CHECK (char_length(prefix) BETWEEN 1 AND 16),
    last_four text NOT NULL CONSTRAINT api_keys_last_four_check CHECK (char_length(last_four) = 4),
    name text NOT NULL CONSTRAINT api_keys_name_check CHECK (char_length(btrim(name)) BETWEEN 1 AND 200),
    scopes text[] NOT NULL DEFAULT '{}' CONSTRAINT api_keys_scopes_check CHECK (are_scopes(scopes)),
    revoked_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX api_keys_live_idx ON api_keys (tenant_id, created_at DESC) WHERE revoked_at IS NULL;

CREATE TABLE audit_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id uuid CONSTRAINT audit_log_tenant_id_fkey REFERENCES tenants (id) ON DELETE SET NULL,
    tenant_ref text,
    product text,
    event_type text NOT NULL CONSTRAINT audit_log_event_type_check CHECK (event_type <> ''),
    actor text NOT NULL CONSTRAINT audit_log_actor_check CHECK (actor <> ''),
    target text,
    detail jsonb NOT NULL DEFAULT '{}' CONSTRAINT audit_log_detail_check CHECK (jsonb_typeof(detail) = 'object'),
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT audit_log_tenant_ref_check CHECK (tenant_id IS NULL OR tenant_ref = tenant_id::text)
);
CREATE INDEX audit_log_tenant_idx ON audit_log (tenant_id, created_at DESC);
CREATE INDEX audit_log_product_idx ON audit_log (product);
CREATE INDEX audit_log_actor_idx ON audit_log (actor);

-- History outlives the tenant, and knows whose it was: the id is kept as text beside the reference that becomes null.
CREATE FUNCTION keep_tenant_ref() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.tenant_id IS NOT NULL THEN
        NEW.tenant_ref := NEW.tenant_id::text;
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER audit_log_tenant_ref BEFORE INSERT ON audit_log FOR EACH ROW EXECUTE FUNCTION keep_tenant_ref();

-- What services may do. They make and end keys; orgs and what these may use are not theirs to change. Nothing here is
-- deleted, and nothing that was written to the audit log is changed.
GRANT SELECT ON tenants, tenant_projects, tenant_products, tenant_idp_config TO tracebility_app;
GRANT SELECT, INSERT, UPDATE (revoked_at) ON api_keys TO tracebility_app;
GRANT SELECT, INSERT ON audit_log TO tracebility_app;
