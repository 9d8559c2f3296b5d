-- The three roles and the database, before the first migration. For psql, as a superuser; may be repeated, which also sets
-- new passwords:
--
--     TRACEBILITY_PG_OWNER_PASSWORD=… TRACEBILITY_PG_APP_PASSWORD=… TRACEBILITY_PG_OPERATOR_PASSWORD=… \
--         psql -X -d postgres -f deploy/postgres-roles.sql
--
-- Who owns a table can switch off what protects one org's rows from another. So the owner only migrates; services log in as
-- a role that owns nothing, and people who create orgs and keys (`tracectl`) as another that owns nothing either.
\set ON_ERROR_STOP on
\set owner_password ''
\set app_password ''
\set operator_password ''
\getenv owner_password TRACEBILITY_PG_OWNER_PASSWORD
\getenv app_password TRACEBILITY_PG_APP_PASSWORD
\getenv operator_password TRACEBILITY_PG_OPERATOR_PASSWORD

-- An empty password would be taken here, and every login refused later.
SELECT '' IN (:'owner_password', :'app_password', :'operator_password') AS missing \gset
\if :missing
    DO $$ BEGIN
        RAISE EXCEPTION 'TRACEBILITY_PG_OWNER_PASSWORD, TRACEBILITY_PG_APP_PASSWORD and TRACEBILITY_PG_OPERATOR_PASSWORD must all be set';
    END $$;
\endif

SELECT 'CREATE ROLE tracebility_owner' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tracebility_owner') \gexec
SELECT 'CREATE ROLE tracebility_app' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tracebility_app') \gexec
SELECT 'CREATE ROLE tracebility_operator' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tracebility_operator') \gexec

ALTER ROLE tracebility_owner LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD :'owner_password';
ALTER ROLE tracebility_app LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD :'app_password';
ALTER ROLE tracebility_operator LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD :'operator_password';

SELECT 'CREATE DATABASE tracebility OWNER tracebility_owner'
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'tracebility') \gexec

-- Nobody else's business.
REVOKE ALL ON DATABASE tracebility FROM PUBLIC;
GRANT CONNECT ON DATABASE tracebility TO tracebility_app, tracebility_operator;
