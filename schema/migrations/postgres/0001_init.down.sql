DROP TABLE audit_log, api_keys, tenant_idp_config, tenant_products, tenant_projects, tenants;
DROP FUNCTION are_scopes(text[]);
DROP FUNCTION keep_tenant_ref();
DROP FUNCTION set_updated_at();
DROP TYPE tenant_project_status, idp_kind, tenant_kind, tenant_status;
