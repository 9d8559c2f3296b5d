DROP FUNCTION record_event_of_no_org(uuid, text, text, text, jsonb, timestamptz);
DROP FUNCTION mark_published(bigint[]);
DROP FUNCTION outbox_events(bigint, timestamptz, boolean, integer);
DROP FUNCTION org_ids(uuid, integer);
DROP POLICY outbox_of_no_org ON audit_outbox;
DROP POLICY outbox_publish ON audit_outbox;
DROP POLICY outbox_read ON audit_outbox;
DROP POLICY org_list ON tenants;
ALTER TABLE quota_period
    DROP CONSTRAINT quota_period_reached_check,
    DROP COLUMN reached_limit,
    DROP COLUMN reached_at,
    DROP COLUMN warned_limit;
