"""What of PostgreSQL's own tenants may use: nothing that tells of others, all that tools need."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest
import sqlalchemy
from psycopg import sql
from support.engines import Postgres
from support.pg_programs import run

from wire.errors import NotSupported
from wire.sql import allowed_names
from wire.sql.allowed import (
    function_refused,
    is_system,
    relation_refused,
    search_path_refused,
    setting_refused,
)
from wire.sql.analyse import analyse, parse
from wire.sql.catalog import SHARED, Catalog, Relation
from wire.sql.edits import apply
from wire.sql.masked import MASKS, is_masked, mask

CATALOG = Catalog(
    "1",
    [Relation("public", "countries", SHARED, ("code",))],
    functions=frozenset({("public", "tax"), ("pg_catalog", "pg_current_snapshot")}),
    settings=frozenset({"app.tenant_id"}),
)

# --- functions

# All functions of the list that PostgreSQL itself calls volatile. Each was looked at: what else
# than its arguments does it read, and what does it leave behind?
VOLATILE = """
clock_timestamp timeofday random random_normal array_sample array_shuffle gen_random_uuid uuidv4
uuidv7 nextval currval lastval pg_sleep pg_sleep_for pg_sleep_until pg_notify
pg_advisory_lock pg_advisory_lock_shared pg_advisory_unlock pg_advisory_unlock_all
pg_advisory_unlock_shared pg_advisory_xact_lock pg_advisory_xact_lock_shared pg_try_advisory_lock
pg_try_advisory_lock_shared pg_try_advisory_xact_lock pg_try_advisory_xact_lock_shared
pg_is_in_recovery pg_jit_available current_query pg_partition_ancestors pg_partition_tree
"""

REFUSED = """
query_to_xml query_to_xmlschema query_to_xml_and_xmlschema table_to_xml schema_to_xml
database_to_xml cursor_to_xml cursor_to_xmlschema ts_stat ts_rewrite currtid2
lo_create lo_creat lo_open lo_get lo_put lo_import lo_export lo_unlink lo_from_bytea loread lowrite
pg_read_file pg_read_binary_file pg_ls_dir pg_stat_file pg_current_logfile
pg_terminate_backend pg_cancel_backend pg_reload_conf pg_log_backend_memory_contexts
pg_relation_size pg_table_size pg_total_relation_size pg_indexes_size pg_database_size
pg_relation_filenode pg_relation_filepath pg_stat_get_live_tuples pg_stat_get_activity
pg_stat_reset pg_stat_get_tuples_inserted pg_sequence_last_value pg_get_sequence_data setval
pg_lock_status pg_blocking_pids pg_notification_queue_usage pg_current_snapshot
txid_current_snapshot pg_xact_commit_timestamp pg_last_committed_xact pg_current_wal_lsn
pg_export_snapshot set_config setseed gin_clean_pending_list brin_summarize_new_values
pg_prepared_statement pg_nextoid binary_upgrade_set_next_pg_type_oid pg_logical_emit_message
pg_create_restore_point dblink
pg_brand_new_function tax
"""


def test_listed_functions_exist_and_none_is_kept_from_the_public(postgres: Postgres) -> None:
    older = {"pg_timezone_abbrevs"}  # until 17
    rows = postgres.execute(
        "SELECT proname, bool_or(proacl IS NOT NULL), bool_or(provolatile = 'v'),"
        " bool_or(prokind = 'p') FROM pg_proc"
        " WHERE pronamespace = 'pg_catalog'::regnamespace GROUP BY 1"
    )
    known = {row[0] for row in rows}
    assert allowed_names.FUNCTIONS - known == older
    # PostgreSQL revokes EXECUTE on what is dangerous.
    assert not {name for name, restricted, _, _ in rows if restricted} & allowed_names.FUNCTIONS
    volatile = {name for name, _, changes, _ in rows if changes} & allowed_names.FUNCTIONS
    assert sorted(volatile) == sorted(set(VOLATILE.split()) & known)


def test_no_listed_function_reads_what_its_arguments_name(postgres: Postgres) -> None:
    """Those with a relation, cursor or large object among their arguments were looked at."""
    rows = postgres.execute(
        "SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace"
        " AND proargtypes::oid[] && ARRAY['regclass', 'refcursor']::regtype[]::oid[]"
    )
    assert {name for (name,) in rows} & allowed_names.FUNCTIONS == {
        *("nextval", "currval", "pg_column_is_updatable", "pg_relation_is_publishable"),
        *("pg_index_column_has_property", "pg_index_has_property", "pg_relation_is_updatable"),
        *("pg_partition_tree", "pg_partition_ancestors", "pg_partition_root"),
    }


@pytest.mark.parametrize("name", REFUSED.split())
def test_functions_that_reach_others_are_refused(name: str) -> None:
    empty = Catalog("1", [])
    for schema in ("", "pg_catalog", "public", "information_schema"):
        assert function_refused(schema, name, empty) == f"permission denied for function {name}"


def test_the_operator_may_allow_functions() -> None:
    assert function_refused("", "tax", CATALOG) is None
    assert function_refused("public", "tax", CATALOG) is None
    assert function_refused("other", "tax", CATALOG)
    assert function_refused("", "pg_current_snapshot", CATALOG) is None
    # A listed name in another schema is another function.
    assert function_refused("public", "lower", CATALOG)
    assert function_refused("pg_catalog", "lower", CATALOG) is None
    assert function_refused("information_schema", "_pg_expandarray", CATALOG) is None


# --- relations

UNSEEN = """
pg_stat_activity pg_stat_user_tables pg_statio_user_tables pg_statistic pg_stats pg_locks
pg_prepared_xacts pg_prepared_statements pg_largeobject pg_largeobject_metadata pg_authid
pg_auth_members pg_roles pg_user pg_shadow pg_group pg_database pg_db_role_setting
pg_replication_slots pg_subscription pg_foreign_server pg_user_mapping pg_user_mappings
pg_hba_file_rules pg_file_settings pg_config pg_shmem_allocations pg_sequences pg_shdepend
pg_backend_memory_contexts pg_stat_statements pg_brand_new
"""


@pytest.mark.parametrize(
    "name",
    UNSEEN.split(),
)
def test_relations_that_tell_of_others_are_refused(name: str) -> None:
    assert is_system("", name)
    for schema in ("", "pg_catalog", "information_schema"):
        assert relation_refused(schema, name) == f"permission denied for relation {name}"


def test_own_statistics_are_for_tenants_with_a_role_of_their_own(postgres: Postgres) -> None:
    assert relation_refused("pg_catalog", "pg_stats", row=False) is None
    assert relation_refused("", "pg_sequences", row=False) is None
    assert relation_refused("", "pg_stat_activity", row=False)
    assert relation_refused("pg_toast", "pg_toast_2619", row=False)
    assert relation_refused("information_schema", "user_mappings", row=False)
    assert not is_system("public", "pg_stats")
    assert not is_system("", "orders")
    # All that is listed is there.
    for schema, names in [
        ("pg_catalog", allowed_names.RELATIONS | allowed_names.OWN_RELATIONS | MASKS.keys()),
        ("information_schema", allowed_names.INFORMATION_RELATIONS),
    ]:
        rows = postgres.execute(
            f"SELECT relname FROM pg_class WHERE relnamespace = '{schema}'::regnamespace"
        )
        assert names <= {name for (name,) in rows}


# --- settings


def test_settings() -> None:
    for name in ("statement_timeout", "TimeZone", "jit", "transaction", "app.user", "search_path"):
        assert setting_refused(name, CATALOG) is None
        assert setting_refused(name, None) is None
    for name in ("role", "Session_Authorization", "row_security", "backtrace_functions"):
        assert setting_refused(name, CATALOG) == (
            f'permission denied to set parameter "{name.lower()}"'
        )
        # pg_dump of a tenant's own tables sets row_security.
        assert bool(setting_refused(name, None)) == (name != "row_security")
    for name in ("tenantry.key", "local_preload_libraries", "transaction snapshot"):
        assert setting_refused(name, CATALOG)
        assert setting_refused(name, None)
    for name in (
        "work_mem",
        "temp_tablespaces",
        "idle_session_timeout",
        "brand_new",
        "App.Tenant_id",
    ):
        assert setting_refused(name, CATALOG)
        assert setting_refused(name, None) is None


def test_listed_settings_are_of_the_session(postgres: Postgres) -> None:
    rows = postgres.execute("SELECT lower(name) FROM pg_settings WHERE context = 'user'")
    forms = {"transaction", "session characteristics", "names"}
    assert allowed_names.SETTINGS - forms <= {name for (name,) in rows}


def test_search_path() -> None:
    own = ("acme", "public")
    for values in ([], ["acme"], ["pg_catalog", "acme", "public"], ["information_schema"], [""]):
        assert search_path_refused(values, own, row=True) is None
    assert search_path_refused(["acme", "pg_catalog"], own, row=True)
    assert search_path_refused(["acme", "pg_catalog"], own) is None
    for values in (["acme", "beta"], ["pg_temp"], [None], ["$user"], ["pg_toast"]):
        assert search_path_refused(values, own)


# --- tools

SCHEMA = """
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE TABLE customers (
    tenant_id text NOT NULL, id bigint GENERATED ALWAYS AS IDENTITY, name varchar(20) DEFAULT 'x',
    state mood, tags text[], PRIMARY KEY (tenant_id, id), CHECK (name <> '')
);
CREATE TABLE orders (
    tenant_id text NOT NULL, id serial, customer bigint, total numeric(10, 2),
    twice numeric GENERATED ALWAYS AS (total * 2) STORED, PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, customer) REFERENCES customers ON DELETE CASCADE
);
CREATE TABLE logs (tenant_id text, at timestamptz) PARTITION BY RANGE (at);
CREATE TABLE logs_1 PARTITION OF logs DEFAULT;
CREATE INDEX ON orders (lower(customer::text)) WHERE total > 0;
CREATE VIEW totals AS SELECT customer, sum(total) FROM orders GROUP BY 1;
CREATE MATERIALIZED VIEW frozen AS SELECT * FROM totals;
CREATE FUNCTION noop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER t BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION noop();
CREATE STATISTICS s ON tenant_id, customer FROM orders;
COMMENT ON TABLE orders IS 'what was bought';
COMMENT ON COLUMN orders.total IS 'in euros';
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON orders TO {role} USING (tenant_id = current_user);
GRANT ALL ON ALL TABLES IN SCHEMA public TO {role};
"""


@pytest.fixture(scope="module")
def shop(postgres: Postgres) -> Iterator[str]:
    """A database with one of everything, and a role of its name that is no superuser."""
    name = postgres.create_database("allowed")
    with postgres.connect(name) as connection:
        role = sql.Identifier(name)
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'secret'").format(role))
        connection.execute(sql.SQL(SCHEMA).format(role=role))
    yield name
    postgres.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    postgres.execute(f'DROP ROLE "{name}"')


def refusals(text: str) -> list[str]:
    """Why a row tenant's catalog query is refused."""
    found: list[str | None] = []
    for statement in analyse(text).statements:
        for schema, name in statement.relations:
            if not is_masked(schema, name):
                assert is_system(schema, name), (schema, name)
                found.append(relation_refused(schema, name))
        for function in statement.functions:
            schema, _, name = function.rpartition(".")
            found.append(function_refused(schema, name, CATALOG))
    return [reason for reason in found if reason is not None]


def masked(text: str) -> str:
    raw = text.encode()
    edits = []
    for tree in parse(raw):
        start = tree.get("stmt_location", 0)
        length = tree.get("stmt_len", 0)
        edits += mask(tree["stmt"], raw, start, start + length if length else len(raw))
    return apply(raw, edits, ()).decode()


def same_answers(connection: psycopg.Connection, queries: list[str]) -> None:
    """Each query is allowed, and answers the same when it sees the masked catalogs."""
    assert queries
    for query in queries:
        assert refusals(query) == [], query
        plain = connection.execute(query.encode()).fetchall()
        assert connection.execute(masked(query).encode()).fetchall() == plain, query


PSQL = [
    *("\\d", "\\d+ customers", "\\d orders", "\\d logs", "\\d logs_1", "\\d totals", "\\d frozen"),
    *(
        "\\d orders_id_seq",
        "\\d orders_pkey",
        "\\dt",
        "\\di",
        "\\ds",
        "\\dv",
        "\\dm",
        "\\dn",
        "\\df",
    ),
    *("\\dT", "\\dT mood", "\\dx", "\\dp", "\\dd", "\\dP", "\\dX", "\\da", "\\do", "\\dO", "\\dF"),
    *("\\dL", "\\dc", "\\dC", "\\dD", "\\sf noop", "\\sv totals", "\\l", "\\dy", "\\dAc"),
]


def test_psql_describes(postgres: Postgres, shop: str) -> None:
    as_role = {"user": shop, "password": "secret"}
    output = run("psql", postgres.dsn(shop, **as_role), "-X", "-E", text="\n".join(PSQL))
    assert "ERROR" not in output
    queries = re.findall(r"/?\*+ QUERY \*+/?\n(.*?)\n/?\*{20,}/?\n", output, re.DOTALL)
    assert len(queries) > 40
    with postgres.connect(shop, **as_role) as connection:
        listing = [query for query in queries if "pg_database" in query]
        same_answers(connection, [query for query in queries if query not in listing])
        for query in listing:
            rows = connection.execute(masked(query).encode()).fetchall()
            assert [row[0] for row in rows] == [shop]


def test_sqlalchemy_inspects(postgres: Postgres, shop: str) -> None:
    as_role = {"user": shop, "password": "secret"}
    queries: list[str] = []

    def remember(*call: object) -> None:
        cursor, statement, parameters = call[1:4]
        assert isinstance(cursor, psycopg.Cursor)
        queries.append(psycopg.ClientCursor(cursor.connection).mogrify(statement, parameters))

    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: postgres.connect(shop, **as_role)
    )
    sqlalchemy.event.listen(engine, "before_cursor_execute", remember)
    inspector = sqlalchemy.inspect(engine)
    metadata = sqlalchemy.MetaData()
    metadata.reflect(engine, views=True)
    assert {"customers", "orders", "totals"} <= metadata.tables.keys()
    inspector.get_schema_names()
    inspector.get_enums()
    inspector.get_sequence_names()
    inspector.get_materialized_view_names()
    inspector.get_view_definition("totals")
    inspector.get_table_comment("orders")
    inspector.has_table("orders")
    engine.dispose()
    own = [query for query in queries if "pg_" in query]
    assert len(own) > 10
    with postgres.connect(shop, **as_role) as connection:
        same_answers(connection, own)


DJANGO = """
import json, sys
import django
from django.conf import settings
settings.configure(DATABASES={"default": json.loads(sys.argv[1])}, INSTALLED_APPS=[])
django.setup()
from django.core.management import call_command
from django.db import connection
connection.force_debug_cursor = True
with connection.cursor() as cursor:
    inside = connection.introspection
    for table in inside.get_table_list(cursor):
        inside.get_table_description(cursor, table.name)
        inside.get_constraints(cursor, table.name)
        inside.get_relations(cursor, table.name)
        inside.get_sequences(cursor, table.name)
        inside.get_primary_key_columns(cursor, table.name)
    connection.get_database_version()
    connection.pg_version
call_command("inspectdb", stdout=open("/dev/null", "w"))
print(json.dumps([query["sql"] for query in connection.queries]))
"""


def test_django_introspects(postgres: Postgres, shop: str) -> None:
    database = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": shop,
        "HOST": postgres.host,
        "PORT": postgres.port,
        "USER": shop,
        "PASSWORD": "secret",
    }
    command = [sys.executable, "-c", DJANGO, json.dumps(database)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": ""}
    )
    assert done.returncode == 0, done.stderr
    queries = [query for query in json.loads(done.stdout) if "pg_" in query]
    assert len(queries) > 10
    with postgres.connect(shop, user=shop, password="secret") as connection:
        same_answers(connection, queries)


# --- masks


def test_masks_hide_figures_and_names(postgres: Postgres, shop: str) -> None:
    with postgres.connect(shop) as connection:
        connection.execute(
            "INSERT INTO customers (tenant_id) SELECT 'beta' FROM generate_series(1, 9)"
        )
        connection.execute("ANALYZE customers")
    with postgres.connect(shop, user=shop, password="secret") as connection:
        figures = "SELECT reltuples, relpages FROM pg_class WHERE relname = 'customers'"
        assert connection.execute(figures).fetchall() == [(9, 1)]
        for query in [
            figures,
            "SELECT c.reltuples, c.relpages FROM pg_catalog.pg_class AS c, pg_class"
            " WHERE pg_class.oid = c.oid AND c.oid = 'customers'::regclass",
            "SELECT (c).reltuples, (c).relpages FROM pg_class c WHERE c.relname = 'customers'",
            'SELECT t, p FROM (pg_namespace n JOIN "pg_class" AS c (a,b,c,d,e,f,g,h,i,j,p,t)'
            " ON c.d = n.oid) WHERE c.c = 'customers'",
        ]:
            assert connection.execute(masked(query).encode()).fetchall() == [(-1, 0)], query
        for query in ("SELECT rolname FROM pg_roles", "SELECT usename FROM pg_catalog.pg_user u"):
            assert connection.execute(masked(query).encode()).fetchall() == [(shop,)]


@pytest.mark.parametrize(
    "query",
    [
        "TABLE pg_class",
        "SELECT * FROM ONLY pg_class",
        "SELECT * FROM pg_class * AS c",
        "SELECT * FROM pg_class TABLESAMPLE SYSTEM (1)",
        "WITH pg_class AS (SELECT 1) SELECT * FROM pg_class",
        "INSERT INTO pg_class SELECT 1",
        "DELETE FROM pg_class",
        "LOCK TABLE pg_class",
        "COPY pg_class TO STDOUT",
    ],
)
def test_masked_catalogs_are_read_by_name_only(query: str) -> None:
    with pytest.raises(NotSupported):
        masked(query)


def test_other_relations_are_left_alone() -> None:
    for query in ["SELECT * FROM public.pg_class", "SELECT pg_class.a FROM t pg_class", "SELECT 1"]:
        assert masked(query) == query
    assert masked("DELETE FROM t USING pg_roles r").startswith("DELETE FROM t USING (SELECT")
    assert masked("SELECT (SELECT 1 FROM pg_roles)").count("AS pg_roles") == 1


def test_other_functions_of_the_same_name() -> None:
    """By its name alone PostgreSQL takes the one whose arguments fit better."""
    theirs = Catalog("1", [], overloads=frozenset({"length", "round"}))
    refused = function_refused("", "length", theirs)
    assert refused is not None
    assert "pg_catalog.length" in refused
    assert function_refused("pg_catalog", "length", theirs) is None
    assert function_refused("", "upper", theirs) is None
    allowed = Catalog(
        "1",
        [],
        overloads=frozenset({"length", "round"}),
        functions=frozenset({("public", "length")}),
    )
    assert function_refused("", "length", allowed) is None
    assert function_refused("", "round", allowed) is not None
