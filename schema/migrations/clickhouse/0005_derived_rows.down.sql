DROP VIEW IF EXISTS set_aside_of;
DROP VIEW IF EXISTS attachment_of;
DROP VIEW IF EXISTS feedback_of;
DROP VIEW IF EXISTS replay_of;
DROP TABLE IF EXISTS set_aside;
