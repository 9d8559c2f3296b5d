-- The two ClickHouse users, for a server on which more than Tracebility lives. Replace both passwords, and run it once as an
-- administrator; it can be repeated. The tests run the services and `migrate` with exactly these grants.
--
--     clickhouse-client --multiquery < deploy/clickhouse-users.sql

CREATE DATABASE IF NOT EXISTS tracebility;
CREATE USER IF NOT EXISTS tracebility_owner IDENTIFIED WITH sha256_password BY '<choose one>';
CREATE USER IF NOT EXISTS tracebility_app IDENTIFIED WITH sha256_password BY '<choose another>';

-- `migrate`. Table engines are granted apart where `table_engines_require_grant` is on.
GRANT ALL ON tracebility.* TO tracebility_owner;
GRANT TABLE ENGINE ON * TO tracebility_owner;
-- A table is swapped once the inserts into it have ended, whoever made them.
GRANT SELECT ON system.processes TO tracebility_owner;
GRANT SELECT ON system.parts TO tracebility_owner;

-- What the worker stores.
GRANT INSERT ON tracebility.run TO tracebility_app;
GRANT INSERT ON tracebility.span TO tracebility_app;
GRANT INSERT ON tracebility.billing_meter TO tracebility_app;
GRANT INSERT ON tracebility.eval_score TO tracebility_app;
GRANT INSERT ON tracebility.run_attachment TO tracebility_app;
GRANT INSERT ON tracebility.set_aside TO tracebility_app;
GRANT INSERT ON tracebility.replay_capture TO tracebility_app;
-- Whether rows are there of which it does not know that they were stored. Not what is in them.
GRANT SELECT(org_id, received_at) ON tracebility.run TO tracebility_app;
GRANT SELECT(org_id, received_at) ON tracebility.span TO tracebility_app;
GRANT SELECT(org_id, received_at) ON tracebility.eval_score TO tracebility_app;
GRANT SELECT(org_id, received_at) ON tracebility.run_attachment TO tracebility_app;
GRANT SELECT(org_id, received_at) ON tracebility.set_aside TO tracebility_app;
GRANT SELECT(org_id, received_at) ON tracebility.replay_capture TO tracebility_app;
-- What it sums up, and the copy of the audit trail.
GRANT SELECT ON tracebility.billing_meter TO tracebility_app;
GRANT SELECT, INSERT ON tracebility.answered TO tracebility_app;
GRANT SELECT, INSERT ON tracebility.audit_log TO tracebility_app;
GRANT SELECT, INSERT ON tracebility.audit_reconciliation_gap TO tracebility_app;
-- How near a table is to too many parts. The rows of other tables stay hidden.
GRANT SELECT ON system.parts TO tracebility_app;
GRANT SELECT ON system.merge_tree_settings TO tracebility_app;
