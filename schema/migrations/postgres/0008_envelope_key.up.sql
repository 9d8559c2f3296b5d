-- The secret under which envelopes are authenticated on their way through Redis. It is not the one of the shared key cache: a
-- process that only reads envelopes need not be able to write key records.
ALTER TABLE deployment ADD COLUMN envelope_key bytea
    CONSTRAINT deployment_envelope_key_check CHECK (octet_length(envelope_key) = 32);
-- Twice 122 bits from the operating system.
UPDATE deployment SET envelope_key = decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex');
ALTER TABLE deployment ALTER COLUMN envelope_key SET NOT NULL;

-- The services write and read envelopes; an operator changes and shows them (tracectl dlq, tracectl quota).
CREATE FUNCTION envelope_key() RETURNS bytea
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT d.envelope_key FROM public.deployment d
$$;
REVOKE ALL ON FUNCTION envelope_key() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION envelope_key() TO tracebility_app, tracebility_operator;
