ALTER TABLE tenant_plan_override DROP COLUMN over_quota;
