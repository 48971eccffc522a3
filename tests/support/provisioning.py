"""Tools for tests of provisioning: a PostgreSQL of their own, tenants, catalog snapshots.

Provisioning takes CONNECT from PUBLIC in every database of the server, so it must not run on the
server that other tests share.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import conninfo
from support.engines import Postgres

from admin.engines.both import EmbeddedPostgres
from admin.provision.tenant import provision
from events.installation import Node
from events.model import Isolation, Provisioned, Tenant
from events.secrets import Vault, tenant_purpose

VAULT = Vault(b"k" * 32)


@pytest.fixture(scope="module")
def lone_postgres() -> Iterator[Postgres]:
    """A PostgreSQL 18 that this test module alone uses."""
    folder = Path(tempfile.mkdtemp(prefix="tenantry-provision-"))
    folder.chmod(0o755)
    engine = EmbeddedPostgres(folder, fast=True, max_connections=60)
    try:
        engine.up()
        yield Postgres(engine.host, engine.port(), engine.user, engine.password())
    finally:
        engine.down()
        shutil.rmtree(folder, ignore_errors=True)


def tenant(id: str, strategy: str = "schema", **settings: Any) -> Tenant:
    """A tenant; `settings` are permissions, except those of isolation and `connections`."""
    isolation = {key: settings.pop(key) for key in Isolation.model_fields if key in settings}
    isolation["strategy"] = strategy
    pool = {"max_connections": settings.pop("connections", 4)}
    return Tenant.model_validate(
        {"id": id, "isolation": isolation, "pool": pool, "permissions": settings}
    )


def node(server: Postgres) -> Node:
    return Node(host=server.host, port=server.port, user=server.user)


def make(
    server: Postgres, wanted: Tenant, previous: Provisioned | None = None, **options: Any
) -> Provisioned:
    """Provision `wanted` on `server` as its admin."""
    return asyncio.run(
        provision(
            wanted,
            node(server),
            VAULT,
            node_password=server.password,
            previous=previous,
            **options,
        )
    )


def login(
    server: Postgres, wanted: Tenant, made: Provisioned, dbname: str = ""
) -> psycopg.Connection[Any]:
    """A connection as the tenant's own role, past the proxy."""
    secret = VAULT.open(made.secret, tenant_purpose(wanted.id))
    dsn = conninfo.make_conninfo(
        host=server.host,
        port=server.port,
        user=made.role,
        password=secret,
        dbname=dbname or wanted.database,
        connect_timeout=10,
    )
    return psycopg.connect(dsn, autocommit=True)


def refused(connection: psycopg.Connection[Any], statement: str) -> str:
    """The SQLSTATE with which the server refuses `statement`; "" if it does not."""
    try:
        connection.execute(statement)
    except psycopg.Error as error:
        return error.sqlstate or "?"
    return ""


_CLUSTER = """
SELECT 'role', rolname, rolsuper::text, rolinherit::text, rolcreaterole::text, rolcreatedb::text,
  rolcanlogin::text, rolconnlimit::text, rolbypassrls::text FROM pg_roles WHERE rolname !~ '^pg_'
UNION ALL SELECT 'member', pg_get_userbyid(roleid), pg_get_userbyid(member), '', '', '', '', '', ''
  FROM pg_auth_members WHERE pg_get_userbyid(member) !~ '^pg_'
UNION ALL SELECT 'database', datname, pg_get_userbyid(datdba), datconnlimit::text, '', '', '', '',
  ARRAY(SELECT x::text FROM unnest(datacl) x ORDER BY 1)::text FROM pg_database
UNION ALL SELECT 'setting', pg_get_userbyid(setrole), d.datname, setconfig::text, '', '', '', '', ''
  FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
ORDER BY 1, 2, 3"""

_INSIDE = """
SELECT 'schema', nspname, pg_get_userbyid(nspowner),
  ARRAY(SELECT x::text FROM unnest(nspacl) x ORDER BY 1)::text FROM pg_namespace
  WHERE nspname !~ '^pg_(toast|temp)'
UNION ALL SELECT 'relation', c.oid::regclass::text, pg_get_userbyid(relowner),
  ARRAY(SELECT x::text FROM unnest(relacl) x ORDER BY 1)::text || coalesce(reloptions::text, '')
  FROM pg_class c WHERE relnamespace >= 16384 OR relnamespace = 'public'::regnamespace
UNION ALL SELECT 'function', p.oid::regprocedure::text, pg_get_userbyid(proowner),
  prosecdef::text || ARRAY(SELECT x::text FROM unnest(proacl) x ORDER BY 1)::text
  FROM pg_proc p WHERE proacl IS NOT NULL OR oid >= 16384
UNION ALL SELECT 'default', pg_get_userbyid(defaclrole),
  coalesce((SELECT nspname FROM pg_namespace n WHERE n.oid = defaclnamespace), '')
  || defaclobjtype::text, ARRAY(SELECT x::text FROM unnest(defaclacl) x ORDER BY 1)::text
  FROM pg_default_acl
UNION ALL SELECT 'type', t.oid::regtype::text, pg_get_userbyid(typowner), '' FROM pg_type t
  WHERE oid >= 16384
ORDER BY 1, 2, 3"""


def snapshot(server: Postgres, *databases: str) -> list[tuple[Any, ...]]:
    """All that provisioning decides, of the cluster and of `databases`."""
    return server.execute(_CLUSTER) + [
        (name, *row) for name in databases for row in server.execute(_INSIDE, name)
    ]


def renamed(state: list[tuple[Any, ...]], old: str, new: str) -> list[str]:
    """The rows of a snapshot that concern `old`, as they would read for `new`."""
    rows = (str(row) for row in state if old in str(row))
    return sorted(re.sub(re.escape(old), new, row) for row in rows)
