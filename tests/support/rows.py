"""A database with three row tenants' rows in protected tables, and sessions sealed for one tenant.

Protecting is done by hand here, as little as the seal needs: what is tested is the seal.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import conninfo
from support.engines import Postgres
from support.provisioning import VAULT, login, make, tenant

from admin.provision.names import group_role, row_role, row_role_purpose, seal_key_purpose
from events.model import Provisioned, Tenant
from wire.sql.seal import token

DATABASE = "shared_rows"
IDS = ("acme", "beta", "gamma")
ROWS_EACH = 50
KINDS = ("own", "shared")

Session = psycopg.Connection[Any]

# What the proxy runs before it gives a shared connection to another tenant.
RESET = "DISCARD ALL"

_TABLES = """
CREATE TABLE customers (tenant_id text DEFAULT tenantry.current_tenant(), id int,
  PRIMARY KEY (tenant_id, id));
CREATE TABLE orders (tenant_id text DEFAULT tenantry.current_tenant(), id int, note text,
  customer int, PRIMARY KEY (tenant_id, id),
  FOREIGN KEY (tenant_id, customer) REFERENCES customers);
CREATE TABLE events (tenant_id text DEFAULT tenantry.current_tenant(), at int, note text)
  PARTITION BY RANGE (at);
CREATE TABLE events_old PARTITION OF events FOR VALUES FROM (0) TO (25);
CREATE TABLE events_new PARTITION OF events FOR VALUES FROM (25) TO (1000);
CREATE TABLE countries (code text);
CREATE TABLE unprotected (tenant_id text, note text);
CREATE TABLE free AS SELECT t AS tenant_id FROM generate_series(1, 50), unnest(%(ids)s::text[]) t;
CREATE VIEW invoked WITH (security_invoker) AS SELECT * FROM orders;
CREATE FUNCTION tell(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS
  $$BEGIN RAISE NOTICE 'told %%', $1; RETURN true; END$$;
CREATE FUNCTION everybody() RETURNS SETOF text LANGUAGE plpgsql AS
  $$BEGIN RETURN QUERY SELECT DISTINCT tenant_id FROM orders; END$$;
CREATE OPERATOR ~~~~ (FUNCTION = texteq, LEFTARG = text, RIGHTARG = text);
INSERT INTO customers SELECT t, g FROM generate_series(1, 50) g, unnest(%(ids)s::text[]) t;
INSERT INTO orders SELECT t, g, t || ' secret ' || g, g FROM generate_series(1, 50) g,
  unnest(%(ids)s::text[]) t;
INSERT INTO events SELECT t, g, t || ' secret' FROM generate_series(1, 50) g,
  unnest(%(ids)s::text[]) t;
INSERT INTO unprotected SELECT t, 'secret' FROM unnest(%(ids)s::text[]) t;
INSERT INTO countries VALUES ('CH');
ANALYZE"""

_PROTECTED = ("customers", "orders", "events", "events_old", "events_new")


@dataclass(frozen=True)
class Estate:
    """The server and its row tenants."""

    server: Postgres
    tenants: dict[str, Tenant]
    made: dict[str, Provisioned]

    def own(self, id: str) -> Session:
        """A session with the tenant's own role, sealed from login."""
        return login(self.server, self.tenants[id], self.made[id])

    def shared(self, **options: Any) -> Session:
        """A session with the role that all share, not sealed yet."""
        dsn = conninfo.make_conninfo(
            host=self.server.host,
            port=self.server.port,
            user=row_role(DATABASE),
            password=VAULT.derive(row_role_purpose(DATABASE)).hex(),
            dbname=DATABASE,
            **options,
        )
        return psycopg.connect(dsn, autocommit=True)

    @contextmanager
    def session(self, kind: str, id: str = "acme") -> Iterator[Session]:
        with self.own(id) if kind == "own" else self.shared() as conn:
            if kind == "shared":
                enter(conn, id)
            yield conn

    def everything(self) -> list[tuple[Any, ...]]:
        """All rows of all tenants."""
        query = (
            "SELECT 'order', tenant_id, id, note FROM orders UNION ALL "
            "SELECT 'customer', tenant_id, id, '' FROM customers UNION ALL "
            "SELECT 'event', tenant_id, at, note FROM events ORDER BY 1, 2, 3, 4"
        )
        return self.server.execute(query, DATABASE)


def estate(server: Postgres) -> Estate:
    """Provision the three, make the tables and protect them."""
    tenants = {id: tenant(id, "row", database_name=DATABASE) for id in IDS}
    made = {id: make(server, each) for id, each in tenants.items()}
    with psycopg.ClientCursor(server.connect(DATABASE)) as cursor, cursor.connection:
        cursor.execute(_TABLES, {"ids": list(IDS)})
        for table in _PROTECTED:
            is_own = "tenant_id = (SELECT tenantry.current_tenant())"
            cursor.execute(
                f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; "
                f"CREATE POLICY tenantry ON {table} USING ({is_own}) WITH CHECK ({is_own})"
            )
            for operation in ("select", "insert", "update", "delete"):
                role = group_role(operation, DATABASE)
                cursor.execute(f'GRANT {operation} ON {table} TO "{role}"')
        cursor.execute(f'GRANT SELECT ON invoked, free TO "{group_role("select", DATABASE)}"')
    return Estate(server, tenants, made)


def fresh_token(conn: Session, id: str, *, now: float | None = None, backend: str = "") -> str:
    if not backend:
        found = conn.execute("SELECT tenantry.backend()").fetchone()
        assert found is not None
        backend = found[0]
    key = VAULT.derive(seal_key_purpose(DATABASE))
    return token(key, id, backend, time.time() if now is None else now).decode()


def enter(conn: Session, id: str) -> None:
    conn.execute("SELECT tenantry.enter(%s)", [fresh_token(conn, id)])


def hand_over(conn: Session, id: str) -> None:
    conn.execute(RESET)
    enter(conn, id)


def seen(conn: Session, query: str = "SELECT DISTINCT tenant_id FROM orders") -> set[str]:
    return {row[0] for row in conn.execute(query).fetchall()}
