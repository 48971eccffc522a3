-- The seal: which tenant a server connection serves, where no tenant can write it.
--
-- It is kept in backtrace_functions, a setting that only superusers may change, and this schema's
-- owner, who was granted that. (It names functions whose errors get a stack trace in the server's
-- log; PostgreSQL has no function of the names used here.) Values:
--   tenantry_<hex of the tenant's value>           the tenant's own login role, for ever
--   tenantry_<hex of the tenant's value>_<expiry>  a shared login role, until the next hand-over
--
-- Run by provisioning as one transaction with search_path = pg_catalog, pg_temp. All of it may be
-- run again; functions are replaced in place, because policies depend on them.

CREATE SCHEMA IF NOT EXISTS tenantry;
ALTER SCHEMA tenantry OWNER TO "tenantry-seal";
REVOKE ALL ON SCHEMA tenantry FROM PUBLIC;

-- One row: the HMAC key of this database, already padded as RFC 2104 says (64 bytes each).
CREATE TABLE IF NOT EXISTS tenantry.key (inner_pad bytea NOT NULL, outer_pad bytea NOT NULL);
ALTER TABLE tenantry.key OWNER TO "tenantry-seal";
REVOKE ALL ON tenantry.key FROM PUBLIC;

-- The tenant's value; NULL without a seal. Policies ask (SELECT tenantry.current_tenant()): that is
-- one evaluation per statement. It may run in parallel workers, because they take over the leader's
-- settings. PL/pgSQL keeps its plan, where the body of an SQL function is planned each time anew
-- (21 against 8 µs for a point read that is not prepared); COST 1, or generic plans look dear.
-- Names are qualified because the caller's search_path counts here.
CREATE OR REPLACE FUNCTION tenantry.current_tenant() RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE COST 1
AS $current_tenant$
BEGIN
  RETURN CASE
    WHEN pg_catalog.starts_with(pg_catalog.current_setting('backtrace_functions'), 'tenantry_')
    THEN pg_catalog.convert_from(pg_catalog.decode(pg_catalog.split_part(
      pg_catalog.current_setting('backtrace_functions'), '_', 2), 'hex'), 'UTF8') END;
END
$current_tenant$;
ALTER FUNCTION tenantry.current_tenant() OWNER TO "tenantry-seal";
-- Whoever queries a table under the policy needs it, and it tells only one's own.
GRANT EXECUTE ON FUNCTION tenantry.current_tenant() TO PUBLIC;

-- This connection: its process and the client's port of its TCP connection. Both come again
-- together much later than any token lives. (backend_start would need pg_stat_activity: 10 µs and
-- more with many connections, at every hand-over.)
CREATE OR REPLACE FUNCTION tenantry.backend() RETURNS text
LANGUAGE sql STABLE PARALLEL RESTRICTED
RETURN concat(pg_backend_pid(), ':', inet_client_port());
ALTER FUNCTION tenantry.backend() OWNER TO "tenantry-seal";
REVOKE ALL ON FUNCTION tenantry.backend() FROM PUBLIC;

-- Let this connection serve the tenant that the token names. Nothing in the token is believed
-- before its HMAC is right, and every refusal reads the same. Few and large expressions: after
-- DISCARD each is planned anew, at 5 to 10 µs.
CREATE OR REPLACE FUNCTION tenantry.enter(token text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $enter$
DECLARE
  pads tenantry.key;
  sealed text;
BEGIN
  SELECT inner_pad, outer_pad INTO pads FROM tenantry.key;
  -- Both sides are hashed once more, so that the time the comparison takes tells nothing.
  sealed := CASE WHEN length(token) < 4096
    AND sha256(convert_to(right(token, 64), 'UTF8'))
      = sha256(convert_to(encode(sha256(pads.outer_pad
        || sha256(pads.inner_pad || convert_to(left(token, -65), 'UTF8'))), 'hex'), 'UTF8'))
    THEN CASE WHEN split_part(token, '.', 2)
        = concat(pg_backend_pid(), ':', inet_client_port())
      AND split_part(token, '.', 3)::int8
        - (extract(epoch FROM clock_timestamp()) * 1000000)::int8 BETWEEN 0 AND 60000000
      AND split_part(token, '.', 3)::int8
        > coalesce(nullif(split_part(current_setting('backtrace_functions'), '_', 3), '')::int8, 0)
    THEN set_config('backtrace_functions',
      concat('tenantry_', split_part(token, '.', 1), '_', split_part(token, '.', 3)), false)
    END END;
  IF sealed IS NULL THEN
    RAISE EXCEPTION 'the seal does not take this token' USING ERRCODE = '28000';
  END IF;
END
$enter$;
ALTER FUNCTION tenantry.enter(text) OWNER TO "tenantry-seal";
REVOKE ALL ON FUNCTION tenantry.enter(text) FROM PUBLIC;
