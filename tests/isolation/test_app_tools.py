"""PostgreSQL's own tools as tenants of each kind use them: psql's lists, completion, pg_dump."""

from __future__ import annotations

import re
from collections.abc import Iterator

import psycopg
import pytest
from support.engines import Postgres
from support.estate import Estate, estate, protect, tenant
from support.pg_programs import run
from support.provisioning import lone_postgres

__all__ = ["lone_postgres"]

SHARED = "shared_tools"
OWN = {"permissions": {"allow_ddl": True}}
NAMES = ("delta", "zeta", "epsilon", "acme", "initech")
PLACES = ("delta", "zeta", "epsilon")
TENANT = "tenant_id text, "
TABLES = """
CREATE TABLE shelf ({tenant}id int NOT NULL, title text NOT NULL, price numeric DEFAULT 1.5);
ALTER TABLE shelf ADD CONSTRAINT shelf_pkey PRIMARY KEY ({key}id);
CREATE TABLE book ({tenant}id serial, shelf int, UNIQUE ({key}shelf, id));
CREATE INDEX shelf_title ON shelf (title);
CREATE VIEW cheap WITH (security_invoker) AS SELECT * FROM shelf WHERE price < 5;
CREATE FUNCTION next_price(numeric) RETURNS numeric LANGUAGE sql AS 'SELECT $1 + 1';
COMMENT ON TABLE shelf IS 'It''s a shelf';
"""
LISTS = r"""
\d
\d shelf
\d+ shelf
\d book
\d+ cheap
\dt
\di
\ds
\dv
\dm
\df
\df+ next_price
\sf next_price
\sv cheap
\dn
\dT
\dD
\dx
\dp shelf
\du
\l
\dconfig work_mem
\drds
\encoding
\conninfo
\d nothing
"""
# What psql 18 asks for at the tab key (tab-complete.in.c), in short: the names of relations, of
# columns, of functions, of schemas, of settings, of databases, of roles, of types.
COMPLETION = (
    """SELECT pg_catalog.quote_ident(c.relname), NULL::pg_catalog.text FROM pg_catalog.pg_class c
    WHERE c.relkind IN ('r', 'S', 'v', 'm', 'f', 'p') AND (c.relname) LIKE 'sh%'
    AND pg_catalog.pg_table_is_visible(c.oid) AND c.relnamespace <>
    (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'pg_catalog')
    UNION ALL SELECT NULL::pg_catalog.text, n.nspname FROM pg_catalog.pg_namespace n
    WHERE n.nspname LIKE 'sh%' AND n.nspname NOT LIKE E'pg\\\\_%' LIMIT 1000""",
    """SELECT pg_catalog.quote_ident(attname) FROM pg_catalog.pg_attribute a, pg_catalog.pg_class c
    WHERE c.oid = a.attrelid AND a.attnum > 0 AND NOT a.attisdropped
    AND (pg_catalog.quote_ident(attname)) LIKE 'ti%' AND (c.relname) = 'shelf'
    AND pg_catalog.pg_table_is_visible(c.oid) LIMIT 1000""",
    """SELECT pg_catalog.quote_ident(p.proname) FROM pg_catalog.pg_proc p WHERE p.prokind <> 'a'
    AND (p.proname) LIKE 'next\\_p%' AND pg_catalog.pg_function_is_visible(p.oid) LIMIT 1000""",
    """SELECT nspname FROM pg_catalog.pg_namespace WHERE nspname LIKE 'public%' LIMIT 1000""",
    """SELECT pg_catalog.lower(name) FROM pg_catalog.pg_settings
    WHERE pg_catalog.lower(name) LIKE pg_catalog.lower('work_m%') LIMIT 1000""",
    """SELECT datname FROM pg_catalog.pg_database WHERE datname LIKE '%' LIMIT 1000""",
    """SELECT rolname FROM pg_catalog.pg_roles WHERE rolname LIKE '%' LIMIT 1000""",
    """SELECT pg_catalog.quote_ident(t.typname) FROM pg_catalog.pg_type t
    WHERE (t.typrelid = 0 OR (SELECT c.relkind = 'c' FROM pg_catalog.pg_class c
    WHERE c.oid = t.typrelid)) AND t.typname !~ '^_' AND (t.typname) LIKE 'int%'
    AND pg_catalog.pg_type_is_visible(t.oid) LIMIT 1000""",
)


def fill(client: psycopg.Connection) -> None:
    client.execute(
        "INSERT INTO shelf (id, title, price) "
        "SELECT i, 'it''s ' || i, i FROM generate_series(1, 9) i"
    )
    client.execute("INSERT INTO book (shelf) SELECT id FROM shelf")


@pytest.fixture(scope="module")
def library(lone_postgres: Postgres) -> Iterator[Estate]:
    """The same tables as tenants of each kind have them, filled by each."""
    tenants = [tenant(name, "schema", **OWN) for name in ("delta", "zeta")]
    tenants.append(tenant("epsilon", "database", **OWN))
    tenants.append(tenant("acme", database_name=SHARED))
    tenants.append(tenant("initech", database_name=SHARED, pool={"dedicated_pool": True}))

    def prepare(made: Estate) -> None:
        with made.admin("acme") as admin:
            admin.execute(TABLES.format(tenant=TENANT, key="tenant_id, "))
        protect(made, SHARED)

    with estate(lone_postgres, tenants, prepare=prepare) as made:
        for name in NAMES:
            with made.connect(name) as client:
                if name in PLACES:
                    client.execute(TABLES.format(tenant="", key=""))
                fill(client)
        yield made


def said(made: Estate, name: str, text: str) -> str:
    return run("psql", made.dsn(name), "-X", "--echo-all", text=text)


@pytest.mark.parametrize("name", NAMES)
def test_psql_lists(library: Estate, name: str) -> None:
    told = said(library, name, LISTS)
    assert "ERROR" not in told, told
    for wanted in ("shelf_title", "next_price", "cheap", "book_id_seq"):
        assert wanted in told
    if name in ("acme", "initech"):
        others = "|".join(f"tenantry_{each}|{each}_db" for each in NAMES if each != name)
        assert not re.search(others, told), told


@pytest.mark.parametrize("name", NAMES)
def test_completion(library: Estate, name: str) -> None:
    with library.connect(name) as client:
        found = [sorted(str(row) for row in client.execute(sql)) for sql in COMPLETION]
    assert any("shelf_title" not in row and "shelf" in row for row in found[0])
    assert found[1:3] == [["('title',)"], ["('next_price',)"]]
    assert "('work_mem',)" in found[4]


@pytest.mark.parametrize("name", PLACES)
def test_dump_and_restore(library: Estate, lone_postgres: Postgres, name: str) -> None:
    """Everything that is the tenant's; among other schemas it says which is its own."""
    own = () if name == "epsilon" else ("--schema", name)
    plain = ("--no-owner", "--no-privileges", *own)
    dumped = run("pg_dump", library.dsn(name), *plain)
    assert "it's 9" in dumped
    assert not [each for each in NAMES if each != name and each in dumped]
    empty = lone_postgres.create_database("restored")
    assert "ERROR" not in run("psql", lone_postgres.dsn(empty), "-X", "--quiet", text=dumped)
    schema = "public" if name == "epsilon" else name
    counted = f"SELECT count(*), (SELECT count(*) FROM {schema}.cheap) FROM {schema}.shelf"
    assert lone_postgres.execute(counted, empty) == [(9, 4)]
    assert run("pg_dump", library.dsn(name), *plain, "--inserts").count("INSERT INTO") == 18


def test_a_schema_tenant_cannot_dump_others(library: Estate) -> None:
    for dump in ((), ("--schema", "zeta"), ("--table", "zeta.shelf")):
        said = run("pg_dump", library.dsn("delta"), *dump)
        assert "permission denied for schema zeta" in said
        assert "it's" not in said


@pytest.mark.parametrize("name", ["acme", "initech"])
def test_a_row_tenant_copies_instead_of_dumping(library: Estate, name: str) -> None:
    assert "permission denied to set parameter" in run("pg_dump", library.dsn(name))
    copied = said(library, name, "\\copy shelf to stdout\n")
    assert copied.count(f"{name}\t") == 9
    assert copied.count("\n") == 10


@pytest.mark.parametrize("command", ["\\dt+ shelf", "\\l+", "\\ddp"])
def test_sizes_and_default_privileges_are_not_told(library: Estate, command: str) -> None:
    assert "permission denied for" in said(library, "acme", command)
