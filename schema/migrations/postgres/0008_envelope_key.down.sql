-- Envelopes that are still in Redis cannot be read any more: drain the shards first.
DROP FUNCTION envelope_key();
ALTER TABLE deployment DROP COLUMN envelope_key;
