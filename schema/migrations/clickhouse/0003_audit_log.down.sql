DROP TABLE IF EXISTS audit_reconciliation_gap;
DROP TABLE IF EXISTS audit_log;
