REVOKE ALL
    ON tenants, tenant_projects, tenant_products, tenant_idp_config, api_keys, audit_log, plan, plan_meter_limit,
       tenant_plan_override, tenant_meter_limit_override, quota_period, workspaces, memberships, workspace_selection,
       shard_map, runtime_flag, audit_outbox, project_tenant_view
    FROM tracebility_operator;
DROP FUNCTION find_api_key(text);
ALTER VIEW project_tenant_view RESET (security_invoker);
DROP POLICY key_lookup ON api_keys;
DROP POLICY directory ON tenants;
DROP POLICY directory ON workspaces;
DROP POLICY directory ON tenant_projects;
DROP POLICY own_org ON tenants;
ALTER TABLE tenants NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY;
DROP POLICY own_org ON tenant_projects;
ALTER TABLE tenant_projects NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY;
DROP POLICY own_org ON tenant_products;
ALTER TABLE tenant_products NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY;
DROP POLICY own_org ON tenant_idp_config;
ALTER TABLE tenant_idp_config NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY;
DROP POLICY own_org ON api_keys;
ALTER TABLE api_keys NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY;
DROP POLICY own_org ON audit_log;
ALTER TABLE audit_log NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY;
DROP POLICY own_org ON tenant_plan_override;
ALTER TABLE tenant_plan_override NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY;
DROP POLICY own_org ON tenant_meter_limit_override;
ALTER TABLE tenant_meter_limit_override NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY;
DROP POLICY own_org ON quota_period;
ALTER TABLE quota_period NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY;
DROP POLICY own_org ON workspaces;
ALTER TABLE workspaces NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY;
DROP POLICY own_org ON memberships;
ALTER TABLE memberships NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY;
DROP POLICY own_org ON workspace_selection;
ALTER TABLE workspace_selection NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY;
DROP POLICY own_org ON shard_map;
ALTER TABLE shard_map NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY;
DROP POLICY own_org ON audit_outbox;
ALTER TABLE audit_outbox NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY;
