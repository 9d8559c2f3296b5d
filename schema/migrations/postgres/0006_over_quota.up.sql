-- What becomes of what was accepted from an org that turns out to be over a monthly limit: its counter was lost, the limit was
-- lowered, the plan changed. Kept until the limit is raised, or dropped. An org without a row is parked.
ALTER TABLE tenant_plan_override
    ADD COLUMN over_quota text NOT NULL DEFAULT 'park'
        CONSTRAINT tenant_plan_override_over_quota_check CHECK (over_quota IN ('park', 'drop'));
GRANT UPDATE (over_quota) ON tenant_plan_override TO tracebility_operator;
